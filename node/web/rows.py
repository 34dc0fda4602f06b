"""From what the record says of a study to what a person reads in one line. Pure: no record, no request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import worklist
from db.domain import PRIORITIES, ShownOrder
from db.states import DeliveryState, JobState, OrderState, StudyState
from db.worklist import JobView, StudyRow
from node.settings_web import Web

MASKED = "\N{BULLET}" * 6
# What a person has to know first comes first: a study is as far as its job that needs most.
_WORDS = {
    JobState.PARKED: ("parked", "needs attention"),
    JobState.RUNNING: ("running", "being read"),
    JobState.QUEUED: ("queued", "waiting"),
    JobState.NOT_ANALYSED: ("not-analysed", "not analysed"),
    JobState.DONE: ("done", "read"),
    JobState.SUPERSEDED: ("superseded", "replaced"),
}
_URGENCY = tuple(_WORDS)
DELIVERY_WORDS = {
    DeliveryState.DEAD: "given up",
    DeliveryState.PENDING: "waiting",
    DeliveryState.SENDING: "being sent",
    DeliveryState.SENT: "sent",
    DeliveryState.UNCONFIRMED: "sent, no proof",
    DeliveryState.CONFIRMED: "confirmed",
    DeliveryState.WITHDRAWN: "withdrawn",
}
_ORDER_WORDS = {
    OrderState.WANTED: "asked for",
    OrderState.ABSENT: "none found",
    OrderState.MISMATCHED: "another patient's",
    OrderState.VOUCHED: "another patient's, a person has looked",
}
_GONE_WORDS = {
    StudyState.DELETING: "being deleted",
    StudyState.CLEARED: "images deleted",
    StudyState.DELETED: "deleted",
}


@dataclass(frozen=True)
class Finding:
    """One label's result. probability: calibrated where the model is. Both numbers are 0 to 1."""

    label: str
    presence: str
    probability: float
    threshold: float
    priority: str

    @property
    def present(self) -> bool:
        return self.presence == "present"


@dataclass(frozen=True)
class Line:
    """A study in the worklist. state: a word for style sheets, beside state_text for people. late: over its target.

    hidden: what the models say is not shown yet. order: how far the hospital's order for it is known. procedure: what
    was ordered. deliveries: (word, text, how many); None where the number would tell.
    """

    uid: str
    patient: str
    patient_id: str
    accession: str
    masked: bool
    description: str
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    priority: str
    age_s: float
    target_s: float
    late: bool
    state: str
    state_text: str
    reason: str
    finding: Finding | None
    models: str
    deliveries: tuple[tuple[str, str, int | None], ...]
    images: int
    received_at: datetime
    hidden: bool = False
    procedure: str = ""
    order: str = ""


def line(row: StudyRow, web: Web, now: datetime, *, show_patient: bool, show_ai: bool = True) -> Line:
    """One line; without `show_patient` nothing in it says who it is, without `show_ai` nothing what a model says."""
    jobs = [job for job in row.jobs if job.current]
    state, state_text, reason = _state(row, jobs)
    # What is found raises a study's priority, but comes too late to be a target for finding it.
    ordered = next((one for one in PRIORITIES if any(job.priority == one for job in jobs)), "")
    target_s = web.target_s(ordered)
    ended = [job.finished_at for job in jobs]
    over = max((at for at in ended if at is not None), default=now) if all(ended) and jobs else now
    # A study that no model reads has no target to miss.
    age_s = (over - row.first_received_at).total_seconds() if jobs or row.state is StudyState.RECEIVING else 0.0
    return Line(
        uid=row.study_instance_uid,
        patient=(row.patient.name or "(no name)") if show_patient else MASKED,
        patient_id=(row.patient.patient_id or "(no id)") if show_patient else MASKED,
        accession=row.patient.accession_number if show_patient else "",
        masked=not show_patient,
        # Peers write names into descriptions too.
        description=row.description if show_patient else "",
        modalities=row.modalities,
        body_parts=row.body_parts,
        priority=worklist.priority(row, ordered_only=not show_ai),
        age_s=age_s,
        target_s=target_s,
        late=age_s > target_s and bool(jobs),
        state=state,
        state_text=state_text,
        reason=reason,
        finding=top_finding(jobs) if show_ai else None,
        models=", ".join(dict.fromkeys(f"{job.model} {job.model_version}".strip() for job in jobs)),
        deliveries=_deliveries(row, counted=show_ai),
        images=row.instances,
        received_at=row.last_received_at,
        hidden=not show_ai,
        procedure=row.order.procedure if row.order is not None and show_patient else "",
        order=_order(row.order),
    )


def findings(job: JobView) -> list[Finding]:
    """All findings of a job in its own order; entries that are none are left out."""
    return [found for one in worklist.findings(job) if (found := _finding(one)) is not None]


def findings_by_image(job: JobView) -> list[tuple[str, Finding]]:
    """(SOP Instance UID, finding) of a job, in its own order."""
    return [
        (str(image.get("sop_instance_uid", "")), found)
        for image in worklist.images(job)
        for one in image.get("findings", [])
        if isinstance(one, dict) and (found := _finding(one)) is not None
    ]


def top_finding(jobs: list[JobView]) -> Finding | None:
    """A present finding before all others, then the one nearest to, or furthest above, its threshold."""
    all_of_them = [found for job in jobs for found in findings(job)]
    return max(all_of_them, key=lambda found: (found.present, found.probability - found.threshold), default=None)


def _finding(one: dict[str, Any]) -> Finding | None:
    chance, threshold = one.get("probability"), one.get("threshold")
    if not isinstance(chance, int | float) or not isinstance(threshold, int | float):
        return None
    return Finding(
        label=str(one.get("label", "")),
        presence=str(one.get("presence", "")),
        probability=float(chance),
        threshold=float(threshold),
        priority=str(one.get("priority", "")),
    )


def _state(row: StudyRow, jobs: list[JobView]) -> tuple[str, str, str]:
    word, text, reason = _work(row, jobs)
    gone = _GONE_WORDS.get(row.state, "")
    return word, f"{text}, {gone}" if gone else text, reason


def _work(row: StudyRow, jobs: list[JobView]) -> tuple[str, str, str]:
    if not jobs:
        if row.order is not None and row.order.state is OrderState.MISMATCHED:
            return "parked", "needs attention", row.order.reason
        if row.state is StudyState.RECEIVING:
            return "receiving", "being received", row.reason
        return "stored", "stored only", "no route has a model read it"
    first = min(jobs, key=lambda job: _URGENCY.index(job.state))
    word, text = _WORDS[first.state]
    if row.state is StudyState.RECEIVING and first.state in {JobState.DONE, JobState.NOT_ANALYSED}:
        text = f"{text}, more images coming"
    others = sum(1 for job in jobs if job.state is not first.state)
    if others:
        text = f"{text} ({len(jobs) - others} of {len(jobs)})"
    return word, text, first.reason


def _order(order: ShownOrder | None) -> str:
    if order is None:
        return ""
    if order.state is OrderState.MATCHED:
        return f"ordered as {order.priority}"
    return f"{_ORDER_WORDS[order.state]}: {order.reason}" if order.reason else _ORDER_WORDS[order.state]


def _deliveries(row: StudyRow, *, counted: bool) -> tuple[tuple[str, str, int | None], ...]:
    # A study with a map has one object more than one without.
    return tuple(
        (state.value.lower(), words, row.deliveries[state] if counted else None)
        for state, words in DELIVERY_WORDS.items()
        if row.deliveries.get(state)
    )
