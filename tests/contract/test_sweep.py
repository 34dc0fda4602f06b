"""One study that cannot be judged holds up no other, on either database."""

from __future__ import annotations

from datetime import timedelta

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from sqlalchemy import select

from db.domain import StudyView
from db.session import Record
from db.states import InstanceState, StudyState
from db.tables import Instance, Job, Study
from db.types import utcnow
from node.header import facts, read_header
from node.rules import Match, Route
from node.settings import Completeness, Settings
from node.sweeper import ExpectedCount, Sweeper
from tests.support.records import CR, EXPLICIT, image, receive

HOSTILE, GOOD = "1.2.840.7", "1.2.840.8"


def sweeper(record: Record, expected: ExpectedCount) -> Sweeper:
    route = Route(name="chest", models=("cxr",), match=Match(modality=("CR",)))
    waiting = Completeness(quiet_period_s=0, deadline_s=600)
    return Sweeper(Settings().model_copy(update={"routes": (route,), "completeness": waiting}), record, expected)


def nobody(_: StudyView) -> int | None:
    return None


def study(record: Record, uid: str) -> Study:
    with record.read() as session:
        return session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()


def jobs(record: Record) -> int:
    with record.read() as session:
        return len(session.scalars(select(Job)).all())


def hostile_facts() -> dict[str, object]:
    dataset = Dataset()
    dataset.SOPClassUID = CR
    dataset.add_new(0x00080060, "LO", "C\0R")
    dataset.add_new(0x00081030, "LO", "\x1b[2J")
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return facts(read_header(buffer.getvalue(), EXPLICIT), "MODALITY")


def test_an_image_with_control_characters_is_stored_and_the_next_study_is_read(record: Record) -> None:
    long_ago = utcnow() - timedelta(seconds=61)
    hostile = image(1, HOSTILE, facts=hostile_facts(), received_at=long_ago)
    receive(record, hostile, image(2, GOOD, received_at=long_ago))
    assert sweeper(record, nobody).run_once() == 1
    with record.read() as session:
        uid = hostile.sop_instance_uid
        stored = session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()
    assert stored.state is InstanceState.STORED
    assert "modality (not a code) is not one of CR" in stored.reason
    assert (study(record, HOSTILE).state, study(record, GOOD).state) == (StudyState.COMPLETE, StudyState.COMPLETE)


def test_facts_that_an_earlier_release_stored_hold_up_nobody_either(record: Record) -> None:
    long_ago = utcnow() - timedelta(seconds=61)
    before = image(1, HOSTILE, facts={"modality": "C\0R"}, received_at=long_ago)
    receive(record, before, image(2, GOOD, received_at=long_ago))
    assert sweeper(record, nobody).run_once() == 1


def test_whatever_goes_wrong_with_one_study_the_next_is_read_and_the_first_is_tried_again_later(
    record: Record,
) -> None:
    received = utcnow() - timedelta(seconds=61)
    receive(record, image(1, HOSTILE, received_at=received), image(2, GOOD, received_at=received))
    broken = True

    def fail(seen: StudyView) -> int | None:
        if broken and seen.study_instance_uid == HOSTILE:
            raise ValueError("Doe^Jane")
        return None

    swept = sweeper(record, fail)
    began = utcnow()
    assert swept.run_once() == 1
    assert study(record, GOOD).state is StudyState.COMPLETE
    first = study(record, HOSTILE)
    assert first.state is StudyState.RECEIVING
    assert timedelta(seconds=4) < first.check_at - began < timedelta(seconds=30)
    assert swept.run_once() == 0
    # A new image has it judged at once; it fails again, and the wait doubles.
    receive(record, image(3, HOSTILE, received_at=received))
    began = utcnow()
    assert swept.run_once() == 0
    assert study(record, HOSTILE).check_at - began > timedelta(seconds=9)
    broken = False
    receive(record, image(4, HOSTILE, received_at=received))
    assert swept.run_once() == 1
    assert (study(record, HOSTILE).state, jobs(record)) == (StudyState.COMPLETE, 2)
