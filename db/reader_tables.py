"""Tables of what people think of the models' work, and of the views of the worklist they keep for themselves."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.tables import Base

_UID = String(64)
# SQLite counts up by itself only for INTEGER keys.
_KEY = BigInteger().with_variant(Integer, "sqlite")


class Reading(Base):
    """One thing that one person said of one finding, or took back. Triggers keep the table append-only.

    No foreign keys: what people said outlives the study it was said of.
    """

    __tablename__ = "readings"
    __table_args__ = (
        Index("ix_readings_model_model_version_id", "model", "model_version", "id"),
        # Taken back once: of two that press undo at once, one finds that it is done.
        UniqueConstraint("undoes_id"),
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    at: Mapped[datetime]
    study_instance_uid: Mapped[str] = mapped_column(_UID, index=True)
    # Of a first reading, which comes before any job is looked at, "" stands in these five.
    job_id: Mapped[str] = mapped_column(String(36), default="")
    model: Mapped[str] = mapped_column(String(64), default="")
    model_version: Mapped[str] = mapped_column(String(64), default="")
    sop_instance_uid: Mapped[str] = mapped_column(_UID, default="")
    label: Mapped[str] = mapped_column(String(64), default="")
    # What the model said at that moment: present, absent, undetermined.
    presence: Mapped[str] = mapped_column(String(16), default="")
    verdict: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(32), default="")
    laterality: Mapped[str] = mapped_column(String(16), default="")
    # Typed by a person: may name a patient.
    comment: Mapped[str] = mapped_column(Text, default="")
    reader: Mapped[str] = mapped_column(String(128))
    undoes_id: Mapped[int | None] = mapped_column(_KEY)


class SavedView(Base):
    """A person's name for a set of the worklist's filters; no search for a patient is kept."""

    __tablename__ = "saved_views"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    owner: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(String(40))
    query: Mapped[str] = mapped_column(String(1000))
    created_at: Mapped[datetime]
