"""Thousands of malformed messages: the listener outlives each, answers in PDUs or closes, and goes on serving."""

from __future__ import annotations

import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support import mutants, raw_association
from tests.support.listening import Listener, chest_file, dataset_bytes, running
from tests.support.raw_association import ABORT, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, connected

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

SEED = int(os.environ.get("RADNODE_MUTANTS_SEED", "20261125"))
_ECHO_EVERY = 250
_PDUS = {ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT}


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with running(tmp_path) as started:
        yield started


def survives(listener: Listener, mutant: Callable[[random.Random], bytes], count: int) -> Counter[int]:
    """Send mutants one by one; gives how many answers of each PDU type came."""
    rng = random.Random(SEED)
    before = listener.usage()
    answers: Counter[int] = Counter()
    for number in range(count):
        sent = mutant(rng)
        with connected(listener.port) as raw:
            # Where it has heard enough, it has closed.
            with suppress(OSError):
                raw.send(sent)
                raw.socket.shutdown(socket.SHUT_WR)
            found = raw.rest()
        assert {answer.kind for answer in found} <= _PDUS, f"seed {SEED}, mutant {number}: {sent[:400]!r}"
        answers.update(answer.kind for answer in found)
        if number % _ECHO_EVERY == _ECHO_EVERY - 1:
            assert listener.echoes(within_s=2.0), f"seed {SEED}, up to mutant {number}"
    assert listener.echoes(within_s=2.0)
    after = listener.usage()
    assert after.threads <= before.threads + 2
    assert after.files <= before.files + 20
    assert after.resident_bytes - before.resident_bytes < 100 << 20
    # A thread that died of something unforeseen says so here.
    log = listener.log.read_text()
    assert "thread_failed" not in log
    assert "Traceback" not in log
    assert listener.incoming() == []
    return answers


def upper_layer(listener: Listener, count: int) -> None:
    answers = survives(listener, mutants.upper_layer, count)
    assert answers[ABORT] > count / 10
    assert answers[ASSOCIATE_AC] > count / 10


def dimse(listener: Listener, folder: Path, count: int) -> None:
    data = dataset_bytes(chest_file(folder))
    answers = survives(listener, lambda rng: mutants.dimse(rng, data), count)
    assert answers[ASSOCIATE_AC] == count
    assert answers[P_DATA] > count / 4
    # All but the shredded and otherwise harmless ones carry one image under other UIDs: nothing of them is a study.
    stored = {instance.sop_instance_uid for instance in listener.instances()}
    assert all(instance.path.startswith("instances/") for instance in listener.instances())
    assert not any(uid.startswith("1.2.3.") for uid in stored)


def test_mutants_of_the_upper_layer(listener: Listener) -> None:
    upper_layer(listener, 5000)


def test_mutants_of_dimse_messages(listener: Listener, tmp_path: Path) -> None:
    dimse(listener, tmp_path, 5000)


@pytest.mark.soak
def test_many_more_mutants_of_the_upper_layer(listener: Listener) -> None:
    upper_layer(listener, 50_000)


@pytest.mark.soak
def test_many_more_mutants_of_dimse_messages(listener: Listener, tmp_path: Path) -> None:
    dimse(listener, tmp_path, 30_000)


@pytest.mark.parametrize("piece", [1, 7, 400])
def test_a_data_set_in_small_pieces_is_taken(listener: Listener, tmp_path: Path, piece: int) -> None:
    sent = chest_file(tmp_path)
    uid = str(dcmread(sent).SOPInstanceUID)
    command = raw_association.with_length(raw_association.store_command(uid))
    with raw_association.associated(listener.port) as raw:
        raw.send(raw_association.message(raw_association.STORE, command, dataset_bytes(sent), piece))
        answer = raw.read()
    assert answer is not None
    assert answer.status == 0
    (instance,) = listener.instances()
    assert dataset_bytes(listener.settings.data_dir / instance.path) == dataset_bytes(sent)
