"""Tables of what a hospital's other systems say of studies: orders, notices that a study is done, commitments asked
of this node.

*orders* are what a worklist holds; *study_orders* says for each study that is to have one which it is, or why there
is none. *notices* are IAN, MPPS and requests for storage commitment, with the instances they name. *pledges* are
answers to such requests that the peer has still to be told.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Enum, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.states import NoticeKind, NoticeState, OrderState, PledgeState
from db.tables import Base

_UID = String(64)
# SQLite counts up by itself only for INTEGER keys.
_KEY = BigInteger().with_variant(Integer, "sqlite")


def _states(kind: type[Any]) -> Enum:
    return Enum(
        kind, native_enum=False, length=20, create_constraint=False, values_callable=lambda e: [m.value for m in e]
    )


class Order(Base):
    """A requested procedure as its source last told it. Protected health information."""

    __tablename__ = "orders"
    __table_args__ = (
        UniqueConstraint(
            "source", "accession_number", "patient_id", "requested_procedure_id", name="uq_orders_told_once"
        ),
        Index("ix_orders_accession_number", "accession_number"),
        Index("ix_orders_patient_id", "patient_id"),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    # Who told it: the name of a peer.
    source: Mapped[str] = mapped_column(String(64))
    accession_number: Mapped[str] = mapped_column(String(64), default="")
    requested_procedure_id: Mapped[str] = mapped_column(String(64), default="")
    patient_id: Mapped[str] = mapped_column(String(64), default="")
    patient_name: Mapped[str] = mapped_column(Text, default="")
    patient_birth_date: Mapped[str] = mapped_column(String(16), default="")
    patient_sex: Mapped[str] = mapped_column(String(16), default="")
    # Numbers that the systems of an HL7 order know it by; a worklist tells none.
    placer_number: Mapped[str] = mapped_column(String(64), default="", server_default="")
    filler_number: Mapped[str] = mapped_column(String(64), default="", server_default="")
    # A peer's string: nothing is looked up by it.
    study_instance_uid: Mapped[str] = mapped_column(String(64), default="")
    # stat, urgent or routine.
    priority: Mapped[str] = mapped_column(String(16))
    procedure: Mapped[str] = mapped_column(Text, default="")
    modality: Mapped[str] = mapped_column(String(16), default="")
    # YYYYMMDD, or "".
    scheduled_date: Mapped[str] = mapped_column(String(8), default="")
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class StudyOrder(Base):
    __tablename__ = "study_orders"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True, autoincrement=False)
    state: Mapped[OrderState] = mapped_column(_states(OrderState))
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    # None: it is not asked for any more.
    next_attempt_at: Mapped[datetime | None] = mapped_column(index=True)
    wanted_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class Notice(Base):
    __tablename__ = "notices"
    __table_args__ = (UniqueConstraint("kind", "uid", "study_instance_uid"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    kind: Mapped[NoticeKind] = mapped_column(_states(NoticeKind))
    # Of the MPPS or IAN object, or of the commitment's transaction.
    uid: Mapped[str] = mapped_column(_UID)
    # A peer may tell of a study long before its first image.
    study_instance_uid: Mapped[str] = mapped_column(_UID, index=True)
    state: Mapped[NoticeState] = mapped_column(_states(NoticeState))
    # SOP Instance UIDs that it names.
    instances: Mapped[list[Any]]
    calling_ae: Mapped[str] = mapped_column(String(16))
    received_at: Mapped[datetime]
    changed_at: Mapped[datetime] = mapped_column(index=True)


class Pledge(Base):
    __tablename__ = "pledges"
    __table_args__ = (UniqueConstraint("peer", "transaction_uid"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    # Its name in the settings.
    peer: Mapped[str] = mapped_column(String(64))
    transaction_uid: Mapped[str] = mapped_column(_UID)
    state: Mapped[PledgeState] = mapped_column(_states(PledgeState))
    # [SOP Class UID, SOP Instance UID] pairs, and the same with a Failure Reason (0008,1197).
    committed: Mapped[list[Any]]
    failed: Mapped[list[Any]]
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(index=True)
    asked_at: Mapped[datetime]
    changed_at: Mapped[datetime]
