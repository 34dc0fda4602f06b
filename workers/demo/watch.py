"""Watching the record: what has become of the images, and whether all is done. Reading only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from db import listing
from db.errors import RecordUnavailable
from db.session import Record
from db.states import DeliveryState, InstanceState, JobState
from workers.demo.pacs import DemoError

_POLL_S = 0.2
_ON_THE_WAY = {InstanceState.RECEIVED, InstanceState.ROUTED, InstanceState.ANALYSED, InstanceState.NOT_ANALYSED}
_ENDED = {JobState.DONE, JobState.NOT_ANALYSED}
_KINDS = {"sr": "structured report", "sc": "Grad-CAM image"}

Row = dict[str, Any]


@dataclass(frozen=True)
class View:
    """The record at one moment, as `radnode instances | jobs | deliveries` list it."""

    instances: tuple[Row, ...]
    jobs: tuple[Row, ...]
    deliveries: tuple[Row, ...]

    def job_of(self, sop_instance_uid: str) -> Row | None:
        """The job that read, or will read, an image."""
        return next((job for job in self.jobs if job["subject"] == sop_instance_uid), None)

    def deliveries_of(self, job: Row) -> list[Row]:
        return [row for row in self.deliveries if row["job_id"] == job["id"]]

    def outcome_of(self, sop_instance_uid: str) -> Row:
        """What a model said of an image; {} while nothing is known."""
        job = self.job_of(sop_instance_uid) or {}
        images = (job.get("summary") or {}).get("images") or []
        return next((dict(image) for image in images if image["sop_instance_uid"] == sop_instance_uid), {})


def look(record: Record) -> View:
    """Raises RecordUnavailable."""
    with record.read() as session:
        return View(tuple(listing.instances(session)), tuple(listing.jobs(session)), tuple(listing.deliveries(session)))


def wait_until_confirmed(
    record: Record, names: Mapping[str, str], deadline_s: float, tell: Callable[[str], None]
) -> View:
    """Wait until every image is read and every result confirmed by the PACS; tells each step once.

    names: SOP Instance UID of each image sent to what a person calls it.
    Raises DemoError where something fails for good, or at the deadline.
    """
    told: set[str] = set()
    ends_at = time.monotonic() + deadline_s
    while True:
        try:
            view = look(record)
        except RecordUnavailable as error:
            raise DemoError(f"the node's record cannot be read: {error}") from error
        for line in steps(view, names):
            if line not in told:
                told.add(line)
                tell(line)
        failure = failed(view, names)
        if failure:
            raise DemoError(failure)
        if finished(view, names):
            return view
        if time.monotonic() >= ends_at:
            raise DemoError(f"not everything was confirmed within {deadline_s:g} s; {_standing(view)}")
        time.sleep(_POLL_S)


def finished(view: View, names: Mapping[str, str]) -> bool:
    """Every image has an ended job, whose results are all confirmed."""
    jobs = [view.job_of(uid) for uid in names]
    for job in jobs:
        if job is None or job["state"] not in _ENDED:
            return False
        sent = view.deliveries_of(job)
        if not sent or any(row["state"] != DeliveryState.CONFIRMED for row in sent):
            return False
    return True


def failed(view: View, names: Mapping[str, str]) -> str:
    """Why it cannot end well any more; "" while it can."""
    for row in view.instances:
        name = names.get(row["sop_instance_uid"])
        if name and row["state"] not in _ON_THE_WAY:
            return f"{name} is {row['state']}: {row['reason']}"
    for job in view.jobs:
        if job["state"] == JobState.PARKED:
            return f"a job is parked: {job['reason']}"
        if job["state"] in _ENDED and not view.deliveries_of(job):
            return f"a job is {job['state']}, but nothing is to be delivered: {job['reason']}"
    for row in view.deliveries:
        if row["state"] in {DeliveryState.DEAD, DeliveryState.UNCONFIRMED}:
            return f"a {_kind(row)} is {row['state']}: {row['reason']}"
    return ""


def steps(view: View, names: Mapping[str, str]) -> list[str]:
    """All that has happened so far, one line each, in an order a person can follow."""
    lines = [
        f"{names[row['sop_instance_uid']]}: received, durable and recorded"
        for row in view.instances
        if row["sop_instance_uid"] in names
    ]
    for uid, name in names.items():
        job = view.job_of(uid)
        if job is None:
            continue
        if job["started_at"]:
            lines.append(f"{name}: a worker reads it with model {job['model']}")
        if job["state"] in _ENDED:
            lines.append(f"{name}: {_said(view.outcome_of(uid))}")
        for row in view.deliveries_of(job):
            if row["sent_at"]:
                lines.append(f"{name}: {_kind(row)} sent to the PACS")
            if row["state"] == DeliveryState.CONFIRMED:
                lines.append(f"{name}: {_kind(row)} confirmed by the PACS{_how(row)}")
    return lines


def _said(outcome: Row) -> str:
    if not outcome.get("analysed"):
        return f"not analysed: {outcome.get('reason', 'no reason given')}"
    return "; ".join(
        f"{finding['label']} {finding['presence']}, probability {finding['probability']:.3f}"
        f" (threshold {finding['threshold']:g})"
        for finding in outcome["findings"]
    )


def _kind(row: Row) -> str:
    return _KINDS.get(str(row["kind"]).lower(), str(row["kind"]))


def _how(row: Row) -> str:
    return f" ({row['reason']})" if row["reason"] else ""


def _standing(view: View) -> str:
    jobs = ", ".join(job["state"] for job in view.jobs) or "none"
    deliveries = ", ".join(row["state"] for row in view.deliveries) or "none"
    return f"jobs: {jobs}; deliveries: {deliveries}"
