"""What goes into and comes out of the record: frozen values, no sessions, no ORM rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from db.states import InstanceState, OrderState, Scope

# The most urgent first.
PRIORITIES = ("stat", "urgent", "routine")


def more_urgent(one: str, other: str) -> str:
    """The more urgent of two priorities; what is none of them counts as the least."""
    return min((one, other), key=lambda priority: PRIORITIES.index(priority) if priority in PRIORITIES else 99)


class Intake(StrEnum):
    """What the record made of an instance."""

    NEW = "NEW"
    DUPLICATE = "DUPLICATE"  # same UID, same bytes: answered Success, nothing to do
    CONFLICT = "CONFLICT"  # same UID, other bytes: the first is kept, this one set aside
    GOING = "GOING"  # files of its study are being deleted: not taken, to be sent again
    NO_ROOM = "NO_ROOM"  # it would be quarantined, and quarantine is full: not taken


@dataclass(frozen=True)
class NewInstance:
    """An instance whose bytes are already durable at `path` (relative to the data folder).

    blake3, sha256: digests of its data set; the first of what is received, the other of what earlier releases took.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    facts: dict[str, Any]
    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: datetime
    blake3: str = ""
    sha256: str = ""
    own_result: bool = False
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    study_date: str = ""
    accession_number: str = ""
    study_description: str = ""
    modality: str = ""
    series_description: str = ""
    expected_instances: int | None = None


@dataclass(frozen=True)
class NewRefusal:
    """Something a peer sent that was not taken, or was set aside."""

    sop_instance_uid: str
    sop_class_uid: str
    status: int
    reason: str
    calling_ae: str
    peer_address: str
    study_instance_uid: str = ""
    path: str = ""
    blake3: str = ""
    sha256: str = ""
    # Of the file at `path`.
    size_bytes: int = 0


@dataclass(frozen=True)
class InstanceView:
    """An instance as routing and completeness see it."""

    id: int
    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    state: InstanceState
    facts: dict[str, Any]
    calling_ae: str
    own_result: bool
    received_at: datetime
    series_description: str = ""
    modality: str = ""


@dataclass(frozen=True)
class NewOrder:
    """A requested procedure as its source tells it; every text printable and no longer than its column.

    priority: stat, urgent or routine. patient_birth_date, scheduled_date: YYYYMMDD or "".
    """

    source: str
    accession_number: str
    requested_procedure_id: str = ""
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_instance_uid: str = ""
    priority: str = "routine"
    procedure: str = ""
    modality: str = ""
    scheduled_date: str = ""
    placer_number: str = ""
    filler_number: str = ""


@dataclass(frozen=True)
class WantedOrder:
    """A study whose order is to be asked for, as its first image names it."""

    study_id: int
    study_instance_uid: str
    accession_number: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    study_date: str
    modalities: tuple[str, ...]
    wanted_at: datetime
    attempts: int


@dataclass(frozen=True)
class ShownOrder:
    """For people. state: of the question; the rest is "" where no order is matched."""

    state: OrderState
    reason: str
    accession_number: str = ""
    priority: str = ""
    procedure: str = ""


@dataclass(frozen=True)
class OrderView:
    """What is known of a study's order. priority: the order's own; "" where none is on record."""

    state: OrderState
    wanted_at: datetime
    priority: str = ""


@dataclass(frozen=True)
class StudyView:
    """A study that is being received, with everything the decision needs.

    `routed` holds (route, instance id) pairs that some revision already covers. `order` is None until it was asked for.
    `announced` names the notices which tell that the study is done, once every instance they name is here; "" before.
    """

    id: int
    study_instance_uid: str
    version: int
    first_received_at: datetime
    last_received_at: datetime
    calling_ae: str
    expected_instances: int | None
    instances: tuple[InstanceView, ...]
    routed: frozenset[tuple[str, int]]
    order: OrderView | None = None
    announced: str = ""


@dataclass(frozen=True)
class NewJob:
    model: str
    priority: str
    destinations: tuple[str, ...]


@dataclass(frozen=True)
class NewRevision:
    """A set of instances judged complete for one route."""

    route: str
    scope: Scope
    subject: str
    reason: str
    instance_ids: tuple[int, ...]
    jobs: tuple[NewJob, ...]
    rules_digest: str
    explanation: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class SourceFile:
    """One instance a job reads: `path` is relative to the data folder."""

    instance_id: int
    sop_instance_uid: str
    sop_class_uid: str
    path: str
    facts: dict[str, Any]
    calling_ae: str


@dataclass(frozen=True)
class ResultRef:
    """A stored result object, by its DICOM identity."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class ClaimedJob:
    """A job this worker now holds until `lease_until`.

    `identity` is the same on every rerun: result UIDs derive from it and from the model's digest.
    `predecessors` are the SRs of the revision this one supersedes, `replaced_flags` its key object selections.
    """

    id: str
    identity: str
    study_instance_uid: str
    route: str
    revision_number: int
    scope: Scope
    model: str
    priority: str
    destinations: tuple[str, ...]
    attempt: int
    created_at: datetime
    lease_owner: str
    lease_until: datetime
    sources: tuple[SourceFile, ...]
    predecessors: tuple[ResultRef, ...]
    replaced_flags: tuple[ResultRef, ...] = ()


@dataclass(frozen=True)
class NewResult:
    """A result object whose bytes are already durable at `path` (relative to the data folder)."""

    kind: str
    ref: ResultRef
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class InstanceOutcome:
    instance_id: int
    state: InstanceState
    reason: str


@dataclass(frozen=True)
class JobOutcome:
    """What a finished job leaves behind, written in one transaction.

    `destinations` are resolved names: the word "sender" no longer occurs. `told` are those that take no objects, but
    messages about the report; `flagged` those of `destinations` that get the key object selection as well.
    """

    analysed: bool
    reason: str
    model_version: str
    model_digest: str
    summary: dict[str, Any]
    results: tuple[NewResult, ...]
    instances: tuple[InstanceOutcome, ...]
    destinations: tuple[str, ...]
    told: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()


@dataclass(frozen=True)
class DueDelivery:
    """One object to send; claimed by this worker."""

    id: int
    job_id: str
    destination: str
    ref: ResultRef
    transfer_syntax_uid: str
    path: str
    attempt: int
