"""The tables, typed (SQLAlchemy 2 declarative).

Reading order: a *study* has *series* and *instances*; a *revision* is a set of instances judged complete for one
route; a *job* is one model on one revision; a job has *results* (SR, SC), each with one *delivery* per destination.
*outbox* rows become messages; *refusals* are what was not taken; *audit* is what happened. *model_versions* are the
installed bundles and which of them reads.

Columns that hold what a peer said about a patient end up in no log, message or file name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.states import (
    CircuitState,
    CommitmentState,
    DeletionScope,
    DeletionState,
    DeliveryState,
    InstanceState,
    JobState,
    ModelState,
    RefusalKind,
    Scope,
    StudyState,
)
from db.types import UtcDateTime


def _states(kind: type[Any]) -> Enum:
    return Enum(
        kind, native_enum=False, length=20, create_constraint=False, values_callable=lambda e: [m.value for m in e]
    )


def _where(condition: str) -> dict[str, Any]:
    """For an index of some rows only."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[Any]: JSON,
        StudyState: _states(StudyState),
        InstanceState: _states(InstanceState),
        JobState: _states(JobState),
        DeliveryState: _states(DeliveryState),
        CommitmentState: _states(CommitmentState),
        CircuitState: _states(CircuitState),
        RefusalKind: _states(RefusalKind),
        ModelState: _states(ModelState),
        DeletionScope: _states(DeletionScope),
        DeletionState: _states(DeletionState),
        Scope: _states(Scope),
    }


_UID = String(64)
# SQLite counts up by itself only for INTEGER keys.
_KEY = BigInteger().with_variant(Integer, "sqlite")


class Study(Base):
    __tablename__ = "studies"
    # The order of the worklist.
    __table_args__ = (
        Index("ix_studies_last_received_at_id", "last_received_at", "id"),
        # The order in which retention looks.
        Index("ix_studies_state_last_received_at", "state", "last_received_at"),
        # When a peer last sent something.
        Index("ix_studies_calling_ae_last_received_at", "calling_ae", "last_received_at"),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID, unique=True)
    state: Mapped[StudyState] = mapped_column(index=True)
    # Grows with every image; whoever decides on the study proves with it that nothing arrived meanwhile.
    version: Mapped[int]
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    # When the sweeper should look again; spares it the studies that cannot be ready yet.
    check_at: Mapped[datetime] = mapped_column(index=True)
    completeness_reason: Mapped[str] = mapped_column(Text, default="")
    calling_ae: Mapped[str] = mapped_column(String(16))
    patient_id: Mapped[str] = mapped_column(Text, default="", index=True)
    patient_name: Mapped[str] = mapped_column(Text, default="")
    # YYYYMMDD as the first image has them, or "".
    patient_birth_date: Mapped[str] = mapped_column(String(16), default="")
    study_date: Mapped[str] = mapped_column(String(16), default="")
    accession_number: Mapped[str] = mapped_column(Text, default="", index=True)
    study_description: Mapped[str] = mapped_column(Text, default="")
    expected_instances: Mapped[int | None]


class Series(Base):
    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    series_instance_uid: Mapped[str] = mapped_column(_UID)
    modality: Mapped[str] = mapped_column(Text, default="")
    series_description: Mapped[str] = mapped_column(Text, default="")


class Instance(Base):
    __tablename__ = "instances"
    __table_args__ = (
        Index("ix_instances_study_id_state", "study_id", "state"),
        # How much lies in quarantine, among millions that do not.
        Index("ix_instances_quarantined", "size_bytes", **_where("state = 'QUARANTINED'")),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(_UID, unique=True)
    sop_class_uid: Mapped[str] = mapped_column(_UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(_UID)
    state: Mapped[InstanceState] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    # Relative to the data folder; derived by the node, never a peer's string.
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    # Digests of the data set: BLAKE3 of what is received, SHA-256 of what releases before took; the other is "".
    sha256: Mapped[str] = mapped_column(String(64), default="")
    blake3: Mapped[str] = mapped_column(String(64), default="", server_default="")
    facts: Mapped[dict[str, Any]]
    own_result: Mapped[bool] = mapped_column(default=False)
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]


class Refusal(Base):
    __tablename__ = "refusals"
    # What lies in quarantine, among all that was refused.
    __table_args__ = (Index("ix_refusals_aside", "at", "size_bytes", **_where("path <> ''")),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    kind: Mapped[RefusalKind]
    at: Mapped[datetime] = mapped_column(index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(128), index=True)
    sop_class_uid: Mapped[str] = mapped_column(String(128))
    study_instance_uid: Mapped[str] = mapped_column(String(128), default="")
    status: Mapped[int]
    reason: Mapped[str] = mapped_column(Text)
    calling_ae: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text, default="")
    sha256: Mapped[str] = mapped_column(String(64), default="")
    blake3: Mapped[str] = mapped_column(String(64), default="", server_default="")
    # Of the file at `path`.
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    # The same refusal again only counts up, so that a looping sender cannot fill the table.
    occurrences: Mapped[int] = mapped_column(default=1)


class Revision(Base):
    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("study_id", "route", "subject", "number"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    route: Mapped[str] = mapped_column(String(64))
    scope: Mapped[Scope]
    # The SOP Instance UID in INSTANCE scope, "" in STUDY scope: numbers count per subject.
    subject: Mapped[str] = mapped_column(_UID, default="")
    number: Mapped[int]
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("revisions.id"), index=True)
    reason: Mapped[str] = mapped_column(Text)
    decided_at: Mapped[datetime]


class RevisionInstance(Base):
    __tablename__ = "revision_instances"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), primary_key=True, index=True)


class RoutingDecision(Base):
    __tablename__ = "routing_decisions"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    revision_id: Mapped[int | None] = mapped_column(ForeignKey("revisions.id"), index=True)
    route: Mapped[str] = mapped_column(String(64))
    rules_digest: Mapped[str] = mapped_column(String(64))
    explanation: Mapped[list[Any]]
    decided_at: Mapped[datetime]


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("revision_id", "model"),
        Index("ix_jobs_state_lease_until", "state", "lease_until"),
        # Since when the first of those that wait has waited.
        Index("ix_jobs_queued", "available_at", **_where("state = 'QUEUED'")),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"))
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    model: Mapped[str] = mapped_column(String(64))
    model_version: Mapped[str] = mapped_column(String(64), default="")
    model_digest: Mapped[str] = mapped_column(String(64), default="")
    destinations: Mapped[list[Any]]
    priority: Mapped[str] = mapped_column(String(16))
    state: Mapped[JobState]
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    announcements: Mapped[int] = mapped_column(default=0)
    announced_at: Mapped[datetime]
    available_at: Mapped[datetime]
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None] = mapped_column(index=True)
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Result(Base):
    __tablename__ = "results"
    __table_args__ = (Index("ix_results_deleted_at_created_at", "deleted_at", "created_at"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(8))
    sop_class_uid: Mapped[str] = mapped_column(_UID)
    sop_instance_uid: Mapped[str] = mapped_column(_UID, unique=True)
    series_instance_uid: Mapped[str] = mapped_column(_UID)
    study_instance_uid: Mapped[str] = mapped_column(_UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(_UID)
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    # From then on there is no file; the row stays, so that its UID is never given to another object.
    deleted_at: Mapped[datetime | None]


class Delivery(Base):
    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_deliveries_state_next_attempt_at", "state", "next_attempt_at"),
        Index("ix_deliveries_job_id_destination", "job_id", "destination"),
        # The head of the queue of a destination that takes one thing after the other.
        Index("ix_deliveries_destination_state_id", "destination", "state", "id"),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("results.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[DeliveryState]
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime]
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    # What the peer took: a peer that knows no Comprehensive 3D SR gets the same report under a class it knows, which
    # makes it another object with a UID of its own.
    sent_sop_class_uid: Mapped[str] = mapped_column(_UID, default="")
    sent_sop_instance_uid: Mapped[str] = mapped_column(_UID, default="", index=True)
    commitment_uid: Mapped[str | None] = mapped_column(_UID, index=True)


class Commitment(Base):
    __tablename__ = "commitments"

    transaction_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[CommitmentState] = mapped_column(index=True)
    asked_at: Mapped[datetime]
    deadline_at: Mapped[datetime]


class Circuit(Base):
    __tablename__ = "circuits"

    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[CircuitState]
    failures: Mapped[int] = mapped_column(default=0)
    open_until: Mapped[datetime | None]
    changed_at: Mapped[datetime]


class Outbox(Base):
    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_available_at_id", "available_at", "id"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    topic: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]
    available_at: Mapped[datetime]
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    attempts: Mapped[int] = mapped_column(default=0)


class ModelVersion(Base):
    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "version"),
        # The database itself refuses a second version that reads, or reads along.
        *(
            Index(
                f"ix_model_versions_one_{state.value}",
                "model_id",
                unique=True,
                sqlite_where=text(f"state = '{state.value}'"),
                postgresql_where=text(f"state = '{state.value}'"),
            )
            for state in (ModelState.ACTIVE, ModelState.SHADOW)
        ),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    model_id: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[ModelState]
    reason: Mapped[str] = mapped_column(Text, default="")
    # Relative to the data folder; named after the digest.
    folder: Mapped[str] = mapped_column(Text)
    archive_sha256: Mapped[str] = mapped_column(String(64))
    # The id of the key that vouched for the zip; "" where nobody did.
    signed_by: Mapped[str] = mapped_column(String(64), default="")
    # Who changed it last.
    actor: Mapped[str] = mapped_column(String(128))
    installed_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    # Whose place it took when it became active; a roll-back gives it back. None: whatever no record names.
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"))


class Audit(Base):
    __tablename__ = "audit"
    # A study's history, and events of one kind.
    __table_args__ = (Index("ix_audit_subject_id", "subject", "id"), Index("ix_audit_event_id", "event", "id"))

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    event: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(16))
    actor: Mapped[str] = mapped_column(String(128))
    subject: Mapped[str] = mapped_column(String(128))
    detail: Mapped[dict[str, Any]]
