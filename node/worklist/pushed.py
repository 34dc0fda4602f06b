"""How far the work on a pushed work item is, and what this node does with it next. Pure.

It begins when a worker begins with the images. It ends as completed where every model has done its part, read or said
why not, at least one has read, and the results that are named as its output can be had from a DICOM destination.
Whatever else happens ends it as canceled, with a reason that its watchers can show to people.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from db.dicom_json import text
from db.performances import Code, Output
from db.states import JobState, WorkitemState
from db.study_work import StudyWork
from db.workitem_rules import UNSPECIFIED
from db.workitems import WorkitemView
from node.worklist.performing import FAILURE, INCOMPLETE, NOT_SUPPORTED, WRONG_ENTRY

# CID 9300.
EXPIRED: Code = ("110533", "DCM", "Workitem expired")

_PATIENT_ID = "00100020"
_OVER = frozenset({JobState.DONE, JobState.NOT_ANALYSED, JobState.SUPERSEDED, JobState.PARKED})
_BEGUN, _ALL_READ = 10, 90


class Next(StrEnum):
    WAIT = "wait"
    GO_ON = "go on"  # it is, or from now on is, in progress
    COMPLETE = "complete"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Step:
    """progress: in percent. reason: for people; names no patient. discontinuation: of CANCEL. outputs: of its end."""

    next: Next
    reason: str
    progress: int = 0
    discontinuation: Code | None = None
    outputs: tuple[Output, ...] = ()


def judge(item: WorkitemView, work: StudyWork | None, destinations: Collection[str], now: datetime) -> Step:
    """What an item that is this node's needs next.

    work: None where nothing of its study is here. destinations: the names of DICOM peers; others give no objects back.
    """
    if item.state is WorkitemState.SCHEDULED:
        if work is None or work.here < max(1, len(item.instances)):
            return _waits(item, "waiting for its images", EXPIRED if work is None else INCOMPLETE, now)
        if work.aside:
            return _waits(item, "its images are in quarantine, and wait for a person", UNSPECIFIED, now)
    if work is None:
        return _cancel("its images were deleted before they were read", UNSPECIFIED)
    patient = text(item.data, _PATIENT_ID)
    if patient and work.patient_ids and patient not in work.patient_ids:
        return _cancel("its images are of another Patient ID than the work item", WRONG_ENTRY)
    return _work(work, tuple(one for one in work.sent if one.destination in destinations))


def _waits(item: WorkitemView, reason: str, code: Code, now: datetime) -> Step:
    if item.expires_at is not None and now >= item.expires_at:
        return _cancel(f"expired: {reason}", code)
    return Step(Next.WAIT, reason)


def _work(work: StudyWork, outputs: tuple[Output, ...]) -> Step:
    over = sum(state in _OVER for state in work.jobs)
    if over < len(work.jobs) or not work.settled:
        begun = over or JobState.RUNNING in work.jobs
        if not begun:
            waits = "its images wait to be read" if work.jobs else "images may still be arriving"
            return Step(Next.WAIT, waits)
        return Step(Next.GO_ON, "it is being read", _BEGUN + (_ALL_READ - _BEGUN) * over // max(1, len(work.jobs)))
    if work.sending:
        return Step(Next.GO_ON, "its results are being sent", _ALL_READ)
    return _ended(work, outputs)


def _ended(work: StudyWork, outputs: tuple[Output, ...]) -> Step:
    if not work.jobs:
        return _cancel("no model of this node reads its images", NOT_SUPPORTED)
    if JobState.PARKED in work.jobs:
        return _cancel("its analysis failed; a person has to look at the node", FAILURE, outputs)
    if JobState.DONE not in work.jobs:
        return _cancel("its images could not be analysed; the report says why", UNSPECIFIED, outputs)
    if not outputs:
        dead = "it was read, but its results could not be sent; a person has to look at the node"
        return _cancel(dead if work.dead else "it was read, but its route sends results to no DICOM peer", FAILURE)
    return Step(Next.COMPLETE, "read, and its results sent", 100, outputs=outputs)


def _cancel(reason: str, code: Code, outputs: tuple[Output, ...] = ()) -> Step:
    return Step(Next.CANCEL, reason, discontinuation=code, outputs=outputs)
