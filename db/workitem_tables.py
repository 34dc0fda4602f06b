"""Tables of work items: Unified Procedure Steps (PS3.4 annex CC), who is told of them, and what is to be told.

*workitems* are those pushed to this node. *workitem_subscriptions* say who is told of one item, *workitem_subscribers*
who is told of all that come. *workitem_tidings* are the events, until each subscriber has been told. Work items of
other systems that this node performs are *performances* (`db.performance_tables`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Enum, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.states import TidingState, WorkitemState
from db.tables import Base

_UID = String(64)
_AE = String(16)
# SQLite counts up by itself only for INTEGER keys.
_KEY = BigInteger().with_variant(Integer, "sqlite")


def _states(kind: type[Any]) -> Enum:
    return Enum(
        kind, native_enum=False, length=20, create_constraint=False, values_callable=lambda e: [m.value for m in e]
    )


class Workitem(Base):
    """Its data set is protected health information."""

    __tablename__ = "workitems"
    __table_args__ = (Index("ix_workitems_state_check_at", "state", "check_at"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(_UID, unique=True)
    state: Mapped[WorkitemState] = mapped_column(_states(WorkitemState))
    # stat, urgent or routine.
    priority: Mapped[str] = mapped_column(String(16))
    # What is to be read. A peer may push an item long before its first image.
    study_instance_uid: Mapped[str] = mapped_column(_UID, index=True)
    # SOP Instance UIDs that its input names; none means the whole study.
    instances: Mapped[list[Any]]
    # The data set in the DICOM JSON model (PS3.18 F.2), without the Transaction UID.
    data: Mapped[dict[str, Any]]
    # Grows with every change of the data set or the state.
    version: Mapped[int]
    # The lock: "" until it is claimed. Never shown.
    transaction_uid: Mapped[str] = mapped_column(_UID, default="")
    # The AE title of whoever claimed it.
    performer: Mapped[str] = mapped_column(_AE, default="")
    created_by: Mapped[str] = mapped_column(_AE)
    reason: Mapped[str] = mapped_column(Text, default="")
    # When whoever performs it should look again.
    check_at: Mapped[datetime]
    # Until when its study has to come; None: for ever.
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)


class WorkitemSubscription(Base):
    __tablename__ = "workitem_subscriptions"

    workitem_id: Mapped[int] = mapped_column(ForeignKey("workitems.id"), primary_key=True)
    ae_title: Mapped[str] = mapped_column(_AE, primary_key=True, index=True)
    deletion_lock: Mapped[bool] = mapped_column(Boolean)
    since: Mapped[datetime]


class WorkitemSubscriber(Base):
    """A global subscription: to items that come while it lasts."""

    __tablename__ = "workitem_subscribers"

    ae_title: Mapped[str] = mapped_column(_AE, primary_key=True)
    deletion_lock: Mapped[bool] = mapped_column(Boolean)
    # Matching keys in the DICOM JSON model; empty: all items.
    matching: Mapped[dict[str, Any]]
    since: Mapped[datetime]


class WorkitemTiding(Base):
    __tablename__ = "workitem_tidings"
    __table_args__ = (
        # The head of a subscriber's queue.
        Index("ix_workitem_tidings_state_ae_title_id", "state", "ae_title", "id"),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    ae_title: Mapped[str] = mapped_column(_AE)
    sop_instance_uid: Mapped[str] = mapped_column(_UID)
    # Event Type ID (PS3.4 table CC.2.4-1).
    event_type: Mapped[int]
    # The event information in the DICOM JSON model.
    information: Mapped[dict[str, Any]]
    state: Mapped[TidingState] = mapped_column(_states(TidingState))
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    # Who tells it now.
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    next_attempt_at: Mapped[datetime]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime] = mapped_column(index=True)
