"""Tables of prior studies: what models want to compare a study with, and what a peer gave of it.

*prior_requests* are questions of a study, one for each kind of prior that a model of its jobs wants. *prior_images* are
the files that answer one: they are no images of this node's, are read by no model but beside the study they were
fetched for, are sent nowhere, and go when its work is done. *prior_moves* are studies that a peer was asked to send to
the listener (C-MOVE), so that what then arrives is known for a prior.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Enum, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.states import PriorState
from db.tables import Base

_UID = String(64)
# SQLite counts up by itself only for INTEGER keys.
_KEY = BigInteger().with_variant(Integer, "sqlite")


class PriorRequest(Base):
    __tablename__ = "prior_requests"
    __table_args__ = (
        UniqueConstraint("study_id", "digest"),
        Index("ix_prior_requests_state_next_attempt_at", "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    # Of what is wanted.
    digest: Mapped[str] = mapped_column(String(64))
    wanted: Mapped[dict[str, Any]]
    state: Mapped[PriorState] = mapped_column(
        Enum(PriorState, native_enum=False, length=20, create_constraint=False,
             values_callable=lambda e: [m.value for m in e])
    )  # fmt: skip
    # Names no patient.
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    wanted_at: Mapped[datetime]
    # Until then the study's jobs wait.
    wait_until: Mapped[datetime]
    # When it is due, or its holder's lease ends.
    next_attempt_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class PriorImage(Base):
    __tablename__ = "prior_images"
    __table_args__ = (UniqueConstraint("request_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    request_id: Mapped[int] = mapped_column(ForeignKey("prior_requests.id"))
    study_instance_uid: Mapped[str] = mapped_column(_UID)
    series_instance_uid: Mapped[str] = mapped_column(_UID)
    sop_instance_uid: Mapped[str] = mapped_column(_UID, index=True)
    sop_class_uid: Mapped[str] = mapped_column(_UID)
    # YYYYMMDD.
    study_date: Mapped[str] = mapped_column(String(16), default="")
    # False for what C-MOVE brought, until it was held against the patient.
    kept: Mapped[bool]
    # Relative to the data folder; derived by the node.
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    blake3: Mapped[str] = mapped_column(String(64))
    facts: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]


class PriorMove(Base):
    __tablename__ = "prior_moves"
    __table_args__ = (UniqueConstraint("request_id", "study_instance_uid"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    request_id: Mapped[int] = mapped_column(ForeignKey("prior_requests.id"))
    # As the peer's answer to C-FIND names it.
    study_instance_uid: Mapped[str] = mapped_column(_UID, index=True)
    # What arrives later is refused, for a while.
    closes_at: Mapped[datetime]
