"""Tables that make the audit trail a chain: who follows whom, what waits for its place, what was let go, what was sent.

Triggers of the migration that made them keep `audit`, `audit_chain`, `audit_unsealed` and `audit_bases` append-only.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from db.tables import Base

_DIGEST = String(64)
_NUMBER = BigInteger().with_variant(Integer, "sqlite")


class AuditLink(Base):
    """The place of one audit row in the chain. digest: SHA-256 over `previous`, the place and the row, as hex."""

    __tablename__ = "audit_chain"

    position: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=False)
    audit_id: Mapped[int] = mapped_column(_NUMBER, unique=True)
    previous: Mapped[str] = mapped_column(_DIGEST)
    digest: Mapped[str] = mapped_column(_DIGEST)


class AuditUnsealed(Base):
    """An audit row that has no place in the chain yet; a trigger on `audit` writes it."""

    __tablename__ = "audit_unsealed"

    audit_id: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=False)


class AuditBase(Base):
    """Where the chain begins after its older part was let go: the last place that went, with its digest."""

    __tablename__ = "audit_bases"

    position: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(_DIGEST)
    at: Mapped[datetime]


class AuditCursor(Base):
    """How far a collector has the chain. The lease keeps two keepers from sending at once."""

    __tablename__ = "audit_cursors"

    collector: Mapped[str] = mapped_column(String(300), primary_key=True)
    position: Mapped[int] = mapped_column(_NUMBER, default=0)
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_until: Mapped[datetime | None]
