"""Work items that no toolkit would push: answered within bounds, by a listener that stays."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom.dsutils import encode

from node.syntaxes import UPS_PUSH_CLASS
from tests.support import listening
from tests.support import raw_association as raw
from tests.support.listening import Listener
from tests.support.workitems import code_item, pushed, worklist

pytestmark = pytest.mark.e2e


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with listening.running(tmp_path, "[ups]\npush = true\n") as running:
        yield running


def create_raw(listener: Listener, data: bytes) -> int | None:
    """The status of an N-CREATE with that data set, byte by byte."""
    asked = raw.request([(UPS_PUSH_CLASS, (raw.IMPLICIT,))])
    command = [
        raw.element(0x0002, raw.uid_bytes(UPS_PUSH_CLASS)),
        raw.element(0x0100, struct.pack("<H", 0x0140)),
        raw.element(0x0110, struct.pack("<H", 1)),
        raw.element(0x0800, struct.pack("<H", 0)),
        raw.element(0x1000, raw.uid_bytes(generate_uid())),
    ]
    with raw.associated(listener.port, asked) as connection:
        connection.send(raw.message(1, raw.with_length(command), data))
        answer = connection.read()
    return None if answer is None else answer.status


def mutant_of(rng: random.Random, good: bytes) -> bytes:
    lies = (0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(1 << 32))
    mutant = bytearray(good)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(mutant) - 4)
        mutant[at : at + 4] = struct.pack("<L", rng.choice(lies))
    return bytes(mutant[: rng.choice((len(mutant), rng.randrange(len(mutant))))])


def written(found: Dataset) -> bytes:
    data = encode(found, True, True)
    assert data is not None
    return data


def test_mutants_are_answered_within_bounds_and_the_listener_stays(listener: Listener) -> None:
    rng, study = random.Random(11), generate_uid()
    before = listener.usage().resident_bytes
    good = written(pushed(study))
    statuses = [create_raw(listener, mutant_of(rng, good)) for _ in range(60)]
    assert None not in statuses
    assert set(statuses) <= {0x0000, 0xB300, 0x0106, 0x0110, 0x0120, 0x0121, 0x0213, 0xC309}
    nested = Dataset()
    for _ in range(60):
        outer = pushed(study)
        outer.ScheduledProcessingParametersSequence = [nested]
        nested = outer
    assert create_raw(listener, written(nested)) in (0x0106, 0x0213)
    many = good + struct.pack("<HHL", 0x4021, 0x0040, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\0\0\0\0" * 20_000
    assert create_raw(listener, many) == 0x0110
    assert create_raw(listener, good + struct.pack("<HHL", 0x4051, 0x0040, 600_000) + b"x" * 600_000) == 0x0213
    assert listener.echoes()
    assert listener.usage().resident_bytes - before < 100 << 20


def test_a_query_of_endlessly_many_values_is_refused(listener: Listener) -> None:
    keys = Dataset()
    keys.StudyInstanceUID = ["1.2.3"] * 1000
    with worklist(listener.port) as items:
        assert items.find(keys) == (0x0000, [])
        keys.ScheduledWorkitemCodeSequence = [code_item("110004", "DCM", "")]
        assert items.find(keys) == (0x0213, [])
