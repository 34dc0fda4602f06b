"""The table of deletions: what is being removed, and what was."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.states import DeletionScope, DeletionState
from db.tables import Base

_KEY = BigInteger().with_variant(Integer, "sqlite")


class Deletion(Base):
    """Written before the first file goes, in the transaction in which the record stops to name the files."""

    __tablename__ = "deletions"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    scope: Mapped[DeletionScope]
    state: Mapped[DeletionState] = mapped_column(index=True)
    # None where no study of this node is meant: an object that was set aside.
    study_id: Mapped[int | None] = mapped_column(ForeignKey("studies.id"), index=True)
    study_instance_uid: Mapped[str] = mapped_column(String(128))
    actor: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(Text)
    # Relative to the data folder; empty once they are gone.
    paths: Mapped[list[Any]]
    files: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    # What goes, as the audit is told of it.
    detail: Mapped[dict[str, Any]]
    begun_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_until: Mapped[datetime | None]
