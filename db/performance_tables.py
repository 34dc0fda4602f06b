"""The table of work items of other systems that this node performs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Enum, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.states import PerformanceState
from db.tables import Base

_UID = String(64)
_KEY = BigInteger().with_variant(Integer, "sqlite")
_STATE = Enum(
    PerformanceState,
    native_enum=False,
    length=20,
    create_constraint=False,
    values_callable=lambda e: [m.value for m in e],
)


class Performance(Base):
    """Written before its manager is asked for it: what was claimed and not heard of can be asked about."""

    __tablename__ = "performances"
    __table_args__ = (
        UniqueConstraint("manager", "workitem_uid"),
        # What is due at a manager.
        Index("ix_performances_manager_state_next_attempt_at", "manager", "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    # Its name in the settings.
    manager: Mapped[str] = mapped_column(String(64))
    workitem_uid: Mapped[str] = mapped_column(_UID, index=True)
    # Never told to anybody but the manager: whoever knows it may end the work item.
    transaction_uid: Mapped[str] = mapped_column(_UID)
    state: Mapped[PerformanceState] = mapped_column(_STATE)
    study_instance_uid: Mapped[str] = mapped_column(_UID, index=True)
    # SOP Instance UIDs that it names; empty means the whole study.
    instances: Mapped[list[Any]]
    patient_id: Mapped[str] = mapped_column(Text, default="")
    # stat, urgent or routine.
    priority: Mapped[str] = mapped_column(String(16))
    # [value, scheme, meaning] of what is to be done, and on which station; empty where it does not say.
    workitem_code: Mapped[list[Any]]
    station_code: Mapped[list[Any]]
    reason: Mapped[str] = mapped_column(Text, default="")
    # Of a cancellation: [value, scheme, meaning].
    discontinuation: Mapped[list[Any]]
    # What the manager is told that it became: see db.performances.Output.
    outputs: Mapped[list[Any]]
    # Percent, as the manager was told last; -1 before it was told anything.
    progress: Mapped[int] = mapped_column(default=-1)
    cancel_asked_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime]
    claimed_at: Mapped[datetime]
    # Since when it is in progress here, and since when it is over.
    held_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    changed_at: Mapped[datetime]
