"""How far the work on a claimed work item is, and how it ends. Pure.

It ends as completed where a model has read the images and every result that is named as its output can be had from a
DICOM destination. Whatever else happens ends it as canceled, with a reason that its manager can show to people.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from db.performances import Code, DuePerformance, Output
from db.states import JobState
from db.states import PerformanceState as F
from db.study_work import StudyWork
from db.workitem_rules import UNSPECIFIED
from node.settings_ups import UpsManager

# CID 9300. The context group has no finer reason for most of what may go wrong here; the text says it.
FAILURE: Code = ("110501", "DCM", "Equipment failure")
WRONG_ENTRY: Code = ("110514", "DCM", "Incorrect worklist entry selected")
NOT_SUPPORTED: Code = ("110522", "DCM", "Object Types not supported")
INCOMPLETE: Code = ("110523", "DCM", "Object Set incomplete")

_OVER = frozenset({JobState.DONE, JobState.NOT_ANALYSED, JobState.SUPERSEDED})
_IMAGES_HERE, _ALL_READ = 10, 90


@dataclass(frozen=True)
class Step:
    """What to do next. target: HELD waits, with `progress` in percent; COMPLETING and CANCELING end it.

    missing: it waits for images that are not here.
    reason: for people at both ends; names no patient.
    """

    target: F
    reason: str
    progress: int = 0
    discontinuation: Code | None = None
    outputs: tuple[Output, ...] = ()
    missing: bool = False


def judge(
    held: DuePerformance, work: StudyWork | None, manager: UpsManager, destinations: Collection[str], now: datetime
) -> Step:
    """What a claimed work item needs next.

    work: None where nothing of its study is here. destinations: the names of DICOM peers; others give no objects back.
    """
    if held.cancel_asked_at is not None:
        return _cancel("it was asked to be canceled", UNSPECIFIED)
    since = held.held_at or held.claimed_at
    images_until = since + timedelta(seconds=manager.images_for_s)
    until = since + timedelta(seconds=manager.perform_for_s)
    if work is None or work.here < max(1, len(held.new.instances)):
        if now >= images_until:
            return _cancel(f"its images did not come within {manager.images_for_s:g} s", INCOMPLETE)
        return Step(F.HELD, "waiting for its images", missing=True)
    if held.new.patient_id and work.patient_ids and held.new.patient_id not in work.patient_ids:
        return _cancel("its images are of another Patient ID than the work item", WRONG_ENTRY)
    step = _work(work, destinations)
    if step.target is F.HELD and now >= until:
        late = f"not finished within {manager.perform_for_s:g} s: {step.reason}"
        return _cancel(late, step.discontinuation or FAILURE, step.outputs)
    return step


def _work(work: StudyWork, destinations: Collection[str]) -> Step:
    outputs = tuple(one for one in work.sent if one.destination in destinations)
    waits = _waits(work, outputs)
    if waits is not None:
        return waits
    if not work.jobs:
        return _cancel("no model of this node reads its images", NOT_SUPPORTED)
    if JobState.DONE not in work.jobs:
        return _cancel("its images could not be analysed; the report says why", UNSPECIFIED, outputs)
    if not outputs:
        return _cancel("it was read, but its route sends results to no DICOM destination", UNSPECIFIED)
    return Step(F.COMPLETING, "read, and its results sent", 100, outputs=outputs)


def _waits(work: StudyWork, outputs: tuple[Output, ...]) -> Step | None:
    """What it waits for; `discontinuation` is what it ends by where it waits in vain. None where it is over."""
    if work.aside:
        return Step(F.HELD, "its images are in quarantine, and wait for a person", _IMAGES_HERE, UNSPECIFIED)
    if not work.settled:
        return Step(F.HELD, "images may still be arriving", _IMAGES_HERE, INCOMPLETE, outputs)
    parked = sum(state is JobState.PARKED for state in work.jobs)
    over = sum(state in _OVER for state in work.jobs)
    if over < len(work.jobs):
        waits = "its analysis failed, and waits for a person" if parked else "it is being read"
        done = _IMAGES_HERE + (_ALL_READ - _IMAGES_HERE) * over // len(work.jobs)
        return Step(F.HELD, waits, done, FAILURE, outputs)
    if work.sending:
        return Step(F.HELD, "its results are being sent", _ALL_READ, FAILURE, outputs)
    if work.dead:
        return Step(F.HELD, "its results could not be sent, and wait for a person", _ALL_READ, FAILURE, outputs)
    return None


def _cancel(reason: str, code: Code, outputs: tuple[Output, ...] = ()) -> Step:
    return Step(F.CANCELING, reason, discontinuation=code, outputs=outputs)
