from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from db.states import NoticeState
from node.commitment import decode_report
from node.dataset_source import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, HeaderError
from node.worklist import reading
from node.worklist.reading import NoticeRefused
from tests.support import notices

READERS: tuple[Callable[[bytes, str], Any], ...] = (
    reading.availability,
    reading.step_begun,
    reading.step_changed,
    reading.commitment_asked,
)
SYNTAXES = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
REF = ("1.2.840.10008.5.1.4.1.1.1", "1.2.3.4")


def encoded(dataset: Dataset, syntax: str = IMPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == IMPLICIT_VR_LITTLE_ENDIAN, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


WHOLE = [
    encoded(one, syntax)
    for one in (notices.step("1.2"), notices.ended("COMPLETED", REF), notices.availability("1.2", REF))
    for syntax in SYNTAXES
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_said_is_read(syntax: str) -> None:
    told = reading.availability(encoded(notices.availability("1.2", REF), syntax), syntax)
    assert told == reading.Told(NoticeState.COMPLETED, ("1.2",), ("1.2.3.4",))
    assert reading.step_begun(encoded(notices.step("1.2"), syntax), syntax).studies == ("1.2",)
    ended = reading.step_changed(encoded(notices.ended("COMPLETED", REF), syntax), syntax)
    assert ended == reading.Told(NoticeState.COMPLETED, (), ("1.2.3.4",))


def test_what_is_unavailable_is_not_waited_for() -> None:
    notice = notices.availability("1.2", REF, (REF[0], "1.2.3.5"))
    notice.ReferencedSeriesSequence[0].ReferencedSOPSequence[1].InstanceAvailability = "UNAVAILABLE"
    assert reading.availability(encoded(notice), IMPLICIT_VR_LITTLE_ENDIAN).instances == ("1.2.3.4",)


@given(st.sampled_from(WHOLE), st.data())
def test_no_damage_makes_anything_but_a_refusal(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
        damaged = damaged or bytearray(1)
    for read in READERS:
        for syntax in SYNTAXES:
            with suppress(NoticeRefused):
                read(bytes(damaged), syntax)


def test_a_failure_reason_of_one_byte_is_no_report() -> None:
    reason = struct.pack("<HHL", 0x0008, 0x1197, 1) + b"\1"
    instance = struct.pack("<HHL", 0x0008, 0x1155, 4) + b"1.2\0"
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(instance + reason)) + instance + reason
    report = struct.pack("<HHL", 0x0008, 0x1195, 4) + b"1.2\0" + struct.pack("<HHL", 0x0008, 0x1198, len(item)) + item
    with pytest.raises(HeaderError, match="BytesLengthException"):
        decode_report(report, IMPLICIT_VR_LITTLE_ENDIAN)


def test_a_mebibyte_of_empty_items_costs_nothing() -> None:
    items = struct.pack("<HHL", 0x0008, 0x1115, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 130_000
    began = time.process_time()
    for read in READERS:
        with pytest.raises(NoticeRefused, match="more than 10000 items"):
            read(items, IMPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(HeaderError, match="more than 10000 items"):
        decode_report(items, IMPLICIT_VR_LITTLE_ENDIAN)
    assert time.process_time() - began < 1
