"""People who may use the web side: accounts of this node, and those an identity provider vouches for.

Every change is noted in the audit in the same transaction. Whatever takes a right away ends the sessions that had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import audit, sessions
from db.access_tables import User
from db.errors import ConflictError, RefusedError
from db.transitions import affected, insert_ignore
from db.types import utcnow


class UnknownUser(RefusedError):
    """No account of that name."""


@dataclass(frozen=True)
class UserView:
    """An account. provided: an identity provider vouches for it, and it has no password here."""

    id: int
    name: str
    roles: tuple[str, ...]
    provided: bool
    disabled: bool
    locked_until: datetime | None
    created_at: datetime
    last_login_at: datetime | None


@dataclass(frozen=True)
class Credentials:
    """What a log-in is held against. password_hash: "" where no password opens the account."""

    user: UserView
    password_hash: str


def create(session: Session, name: str, password_hash: str, roles: Sequence[str], *, actor: str) -> UserView:
    """Make an account of this node. Raises ConflictError where there is one of that name."""
    now = utcnow()
    values = {"password_hash": password_hash, "roles": list(roles), "failures": 0, "created_at": now, "changed_at": now}
    if not insert_ignore(session, User, name=name, **values):
        raise ConflictError(f"there is an account {name!r} already; choose another name, or `radnode users passwd`")
    audit.note(session, "user_created", actor=actor, subject=name, roles=list(roles))
    return _view(_named(session, name))


def set_password(session: Session, name: str, password_hash: str, *, actor: str) -> None:
    """Change a password, lift its lock and end the account's sessions. Raises UnknownUser, RefusedError."""
    user = _named(session, name)
    if user.issuer is not None:
        raise RefusedError(f"{name!r} comes through the identity provider; change the password there")
    user.password_hash, user.failures, user.locked_until, user.changed_at = password_hash, 0, None, utcnow()
    sessions.end_all(session, user.id, "password changed")
    audit.note(session, "user_password_changed", actor=actor, subject=name)


def set_roles(session: Session, name: str, roles: Sequence[str], *, actor: str) -> None:
    """Change what an account may do, from its next request on. Raises UnknownUser."""
    _give_roles(session, _named(session, name), roles, actor=actor)


def disable(session: Session, name: str, *, actor: str) -> None:
    """Let an account in no more and end its sessions. Raises UnknownUser."""
    user = _named(session, name)
    user.disabled_at = user.changed_at = utcnow()
    ended = sessions.end_all(session, user.id, "account disabled")
    audit.note(session, "user_disabled", actor=actor, subject=name, sessions_ended=ended)


def enable(session: Session, name: str, *, actor: str) -> None:
    """Let a disabled or locked account in again. Raises UnknownUser."""
    user = _named(session, name)
    user.disabled_at, user.locked_until, user.failures, user.changed_at = None, None, 0, utcnow()
    audit.note(session, "user_enabled", actor=actor, subject=name)


def everyone(session: Session) -> list[UserView]:
    """All accounts, by name."""
    return [_view(user) for user in session.scalars(select(User).order_by(User.name))]


def credentials(session: Session, name: str) -> Credentials | None:
    """What to hold a log-in against; None where there is no such account."""
    user = session.scalars(select(User).where(User.name == name)).one_or_none()
    return None if user is None else Credentials(_view(user), user.password_hash)


def note_failure(session: Session, user_id: int, *, limit: int, lock_s: float, now: datetime) -> datetime | None:
    """Count a wrong password; the `limit`th in a row locks the account for `lock_s` seconds. Returns until when."""
    # Counted in the database, so that many attempts at once are all counted.
    affected(session, update(User).where(User.id == user_id).values(failures=User.failures + 1))
    user = session.get_one(User, user_id, populate_existing=True)
    if user.failures < limit:
        return None
    user.failures, user.locked_until = 0, now + timedelta(seconds=lock_s)
    audit.note(session, "user_locked", actor="web", subject=user.name, outcome="warning", lock_s=lock_s)
    return user.locked_until


def note_login(session: Session, user_id: int, now: datetime) -> None:
    """A right password: earlier failures no longer count."""
    affected(
        session,
        update(User).where(User.id == user_id).values(failures=0, locked_until=None, last_login_at=now),
    )


def rehash(session: Session, user_id: int, before: str, after: str) -> bool:
    """Put a hash of the same password, made with today's parameters, in an older one's place."""
    return (
        affected(
            session, update(User).where(User.id == user_id, User.password_hash == before).values(password_hash=after)
        )
        == 1
    )


def vouched(session: Session, issuer: str, subject: str, name: str, roles: Sequence[str]) -> UserView:
    """The account of somebody the identity provider vouches for, made at the first log-in, its roles as of now.

    name: as the provider gives it; one that another account bears gets a number.
    """
    now, actor = utcnow(), "identity provider"
    query = select(User).where(User.issuer == issuer, User.subject == subject)
    user = session.scalars(query).one_or_none()
    if user is None:
        values = {"password_hash": "", "roles": list(roles), "failures": 0, "created_at": now, "changed_at": now}
        number = 1
        while not insert_ignore(
            session,
            User,
            name=name if number == 1 else f"{name[:58]}-{number}",
            issuer=issuer,
            subject=subject,
            **values,
        ):
            raced = session.scalars(query).one_or_none()
            if raced is not None:
                return _view(raced)
            number += 1
        user = session.scalars(query).one()
        audit.note(session, "user_created", actor=actor, subject=user.name, roles=list(roles))
    elif list(user.roles) != list(roles):
        _give_roles(session, user, roles, actor=actor)
    return _view(user)


def _give_roles(session: Session, user: User, roles: Sequence[str], *, actor: str) -> None:
    before, user.roles, user.changed_at = list(user.roles), list(roles), utcnow()
    audit.note(session, "user_roles_changed", actor=actor, subject=user.name, before=before, after=list(roles))


def _named(session: Session, name: str) -> User:
    user = session.scalars(select(User).where(User.name == name)).one_or_none()
    if user is None:
        raise UnknownUser(f"there is no account {name!r}; `radnode users list` shows those there are")
    return user


def _view(user: User) -> UserView:
    return UserView(
        id=user.id,
        name=user.name,
        roles=tuple(user.roles),
        provided=user.issuer is not None,
        disabled=user.disabled_at is not None,
        locked_until=user.locked_until,
        created_at=user.created_at,
        last_login_at=user.last_login_at,
    )
