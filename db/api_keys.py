"""Keys by which programs use the web side. The key itself is shown once and never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import audit
from db.access_tables import ApiKey
from db.errors import ConflictError, RefusedError
from db.transitions import affected, insert_ignore
from db.types import utcnow


class UnknownKey(RefusedError):
    """No key of that name."""


@dataclass(frozen=True)
class KeyView:
    """A key. prefix: its first characters, which are no secret. scopes: permissions."""

    id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


def add(
    session: Session,
    name: str,
    *,
    prefix: str,
    key_digest: str,
    scopes: Sequence[str],
    expires_at: datetime,
    actor: str,
) -> None:
    """Write a new key down by its digest. Raises ConflictError where its name is taken, revoked or not."""
    values = {"prefix": prefix, "key_digest": key_digest, "scopes": list(scopes), "expires_at": expires_at}
    if not insert_ignore(session, ApiKey, name=name, **values, created_by=actor, created_at=utcnow()):
        raise ConflictError(f"there is or was a key {name!r}; the audit tells them apart by name, so choose another")
    audit.note(session, "api_key_created", actor=actor, subject=name, scopes=list(scopes), prefix=prefix)


def revoke(session: Session, name: str, *, actor: str) -> None:
    """End a key at once. Raises UnknownKey, or RefusedError where it is revoked already."""
    row = session.scalars(select(ApiKey).where(ApiKey.name == name)).one_or_none()
    if row is None:
        raise UnknownKey(f"there is no key {name!r}; `radnode keys list` shows those there are")
    statement = update(ApiKey).where(ApiKey.id == row.id, ApiKey.revoked_at.is_(None))
    if not affected(session, statement.values(revoked_at=utcnow())):
        raise RefusedError(f"the key {name!r} is revoked already")
    audit.note(session, "api_key_revoked", actor=actor, subject=name, prefix=row.prefix)


def in_force(session: Session, key_digest: str, *, now: datetime) -> KeyView | None:
    """The key of that digest; None where there is none, or it is revoked or has expired."""
    row = session.scalars(
        select(ApiKey).where(ApiKey.key_digest == key_digest, ApiKey.revoked_at.is_(None), ApiKey.expires_at > now)
    ).one_or_none()
    return None if row is None else _view(row)


def used(session: Session, key_id: int, now: datetime) -> None:
    """A key was used; lists show when last."""
    affected(session, update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now))


def every_key(session: Session) -> list[KeyView]:
    """All keys, revoked and expired ones too, in the order they were made."""
    return [_view(row) for row in session.scalars(select(ApiKey).order_by(ApiKey.id))]


def _view(row: ApiKey) -> KeyView:
    values = {name: getattr(row, name) for name in KeyView.__dataclass_fields__}
    return KeyView(**{**values, "scopes": tuple(row.scopes)})
