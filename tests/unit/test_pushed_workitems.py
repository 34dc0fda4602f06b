"""What becomes of a pushed work item, and what matches a query: decisions without a record or a wire."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from db.dicom_json import Json, element, sequence
from db.performances import Output
from db.states import JobState as J
from db.states import WorkitemState as W
from db.study_work import StudyWork
from db.workitem_matching import matches
from db.workitem_rules import UpsStatus, decide_change
from db.workitems import WorkitemView
from node.worklist.pushed import Next, judge

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SENT = Output("1.2", "1.3", "1.4", "1.5", "pacs")
ITEM = WorkitemView(
    id=1,
    sop_instance_uid="1.1",
    state=W.SCHEDULED,
    priority="routine",
    study_instance_uid="1.5",
    instances=("1.6",),
    data={"00100020": element("LO", "ID-1")},
    version=1,
    transaction_uid="",
    performer="",
    created_by="MANAGER",
    reason="",
    created_at=NOON,
    changed_at=NOON,
    expires_at=NOON + timedelta(hours=1),
)
HERE = StudyWork(id=1, patient_ids=frozenset({"ID-1"}), settled=True, here=1, aside=0)


def work(*jobs: J, **changes: object) -> StudyWork:
    return replace(HERE, jobs=jobs, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "expected", "code"),
    [
        (None, Next.WAIT, None),
        (replace(HERE, here=0), Next.WAIT, None),
        (replace(HERE, here=1, aside=1), Next.WAIT, None),
        (replace(HERE, settled=False), Next.WAIT, None),
        (work(J.QUEUED), Next.WAIT, None),
        (work(J.RUNNING), Next.GO_ON, None),
        (work(J.DONE, J.QUEUED), Next.GO_ON, None),
        (work(J.DONE, sending=1), Next.GO_ON, None),
        (work(J.DONE, sent=(SENT,)), Next.COMPLETE, None),
        (work(J.DONE, J.NOT_ANALYSED, sent=(SENT,)), Next.COMPLETE, None),
        (work(J.DONE, sent=(SENT,), dead=1), Next.COMPLETE, None),
        (work(J.DONE, dead=1), Next.CANCEL, "110501"),
        (work(J.DONE, sent=(replace(SENT, destination="ris"),)), Next.CANCEL, "110501"),
        (work(J.DONE, J.PARKED, sent=(SENT,)), Next.CANCEL, "110501"),
        (work(J.NOT_ANALYSED, sent=(SENT,)), Next.CANCEL, "110513"),
        (work(), Next.CANCEL, "110522"),
        (work(J.DONE, patient_ids=frozenset({"ID-2"})), Next.CANCEL, "110514"),
    ],
)
def test_an_item_follows_the_work_on_its_study(found: StudyWork | None, expected: Next, code: str | None) -> None:
    step = judge(ITEM, found, {"pacs"}, NOON)
    assert step.next is expected
    assert (step.discontinuation or (None,))[0] == code
    assert step.reason


def test_an_item_waits_no_longer_than_it_may_and_one_in_progress_needs_its_images() -> None:
    late = NOON + timedelta(hours=1)
    never, part = judge(ITEM, None, (), late), judge(ITEM, replace(HERE, here=0), (), late)
    assert [(one.next, (one.discontinuation or ("",))[0]) for one in (never, part)] == [
        (Next.CANCEL, "110533"),
        (Next.CANCEL, "110523"),
    ]
    assert judge(ITEM, work(J.QUEUED), (), late).next is Next.WAIT, "its images are here"
    assert judge(replace(ITEM, expires_at=None), None, (), late).next is Next.WAIT
    begun = judge(replace(ITEM, state=W.IN_PROGRESS), None, (), NOON)
    assert (begun.next, begun.reason) == (Next.CANCEL, "its images were deleted before they were read")


def test_progress_grows_with_what_is_done() -> None:
    told = [judge(ITEM, one, {"pacs"}, NOON).progress for one in (work(J.RUNNING, J.QUEUED), work(J.DONE, J.RUNNING))]
    assert told == [10, 50]


def test_no_change_is_made_under_another_transaction_uid() -> None:
    for current in W:
        for target in (W.IN_PROGRESS, W.COMPLETED, W.CANCELED):
            assert decide_change(current, target, correct=False, met=True) is UpsStatus.WRONG_TRANSACTION
        assert decide_change(current, W.SCHEDULED, correct=True, met=True) is UpsStatus.ONLY_CREATED_SCHEDULED


@pytest.mark.parametrize(
    ("vr", "wanted", "held", "match"),
    [
        ("LO", "Ch*t*", "Chest triage", True),
        ("LO", "chest*", "Chest triage", False),
        ("LO", "*x*", "Chest triage", False),
        ("CS", "A?C", "ABC", True),
        ("UI", "1.2.*", "1.2.3", False),
        ("DT", "20260301-20260302", "20260302235959", True),
        ("DT", "20260303-", "20260302235959", False),
        ("DT", "-20260301", "20260302", False),
        ("DT", "20260301120000-0500", "20260301120000-0500", True),
        ("DA", "20260301", "20260301", True),
        ("LO", "", "anything", True),
    ],
)
def test_keys_match_as_in_the_standard(vr: str, wanted: str, held: str, match: bool) -> None:
    assert matches({"00741204": element(vr, wanted)}, {"00741204": element(vr, held)}) is match


def test_names_match_whatever_their_case_and_items_as_a_whole() -> None:
    name: Json = {"00100010": element("PN", {"Alphabetic": "Doe^Jane^^"})}
    assert matches({"00100010": element("PN", {"Alphabetic": "DOE^JANE"})}, name)
    code = {"00404018": sequence([{"00080100": element("SH", "A"), "00080102": element("SH", "X")}])}
    other: Json = {"00080100": element("SH", "B"), "00080102": element("SH", "X")}
    held = {"00404018": sequence([other, {"00080100": element("SH", "A"), "00080102": element("SH", "Y")}])}
    assert not matches(code, held)


def test_no_pattern_takes_long() -> None:
    began = time.perf_counter()
    assert not matches({"1": element("LO", "*a" * 500 + "b")}, {"1": element("LO", "a" * 1000)})
    assert time.perf_counter() - began < 2
