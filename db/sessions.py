"""Sessions of the web side, log-ins under way and attempts counted. Tokens are known by their digests only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from db.access_tables import LoginAttempts, OidcLogin, User, WebSession
from db.transitions import affected, insert_ignore
from db.types import utcnow

KEPT_AFTER_END_S = 7 * 86400.0
# The moment of the last request is written this seldom, so that reading a page is not a write each time.
SEEN_EVERY_S = 30.0


@dataclass(frozen=True)
class SessionView:
    """A session that is in force, with what its person may do at this moment."""

    id: int
    user: str
    roles: tuple[str, ...]
    last_seen_at: datetime


@dataclass(frozen=True)
class PendingLogin:
    """What the answer of the identity provider is held against."""

    browser_digest: str
    nonce: str
    code_verifier: str
    destination: str


def start(session: Session, user_id: int, token_digest: str, *, address: str, lifetime_s: float, now: datetime) -> None:
    """Open a session that ends after `lifetime_s` seconds whatever happens."""
    session.add(
        WebSession(
            token_digest=token_digest,
            user_id=user_id,
            address=address,
            created_at=now,
            last_seen_at=now,
            expires_at=now + timedelta(seconds=lifetime_s),
        )
    )


def find(session: Session, token_digest: str, *, idle_s: float, now: datetime) -> SessionView | None:
    """The session of a token; None where it has ended, lain idle for `idle_s` seconds, or its account is disabled."""
    row = session.execute(
        select(WebSession, User)
        .join(User, User.id == WebSession.user_id)
        .where(
            WebSession.token_digest == token_digest,
            WebSession.ended_at.is_(None),
            WebSession.expires_at > now,
            WebSession.last_seen_at > now - timedelta(seconds=idle_s),
            User.disabled_at.is_(None),
        )
    ).one_or_none()
    if row is None:
        return None
    found, user = row
    return SessionView(found.id, user.name, tuple(user.roles), found.last_seen_at)


def seen(session: Session, session_id: int, now: datetime) -> None:
    """A person did something. A session that was ended meanwhile stays so."""
    affected(
        session,
        update(WebSession).where(WebSession.id == session_id, WebSession.ended_at.is_(None)).values(last_seen_at=now),
    )


def end(session: Session, token_digest: str, *, by: str, now: datetime) -> bool:
    """End one session. False where none was in force."""
    statement = update(WebSession).where(WebSession.token_digest == token_digest, WebSession.ended_at.is_(None))
    return affected(session, statement.values(ended_at=now, ended_by=by)) == 1


def end_all(session: Session, user_id: int, by: str) -> int:
    """End every session of an account; returns how many there were."""
    statement = update(WebSession).where(WebSession.user_id == user_id, WebSession.ended_at.is_(None))
    return affected(session, statement.values(ended_at=utcnow(), ended_by=by))


def begin_login(session: Session, state_digest: str, pending: PendingLogin, *, expires_at: datetime) -> None:
    """Remember a browser that is sent to the identity provider."""
    session.add(OidcLogin(state_digest=state_digest, expires_at=expires_at, **vars(pending)))


def take_login(session: Session, state_digest: str, *, now: datetime) -> PendingLogin | None:
    """What was remembered, once: a second answer with the same state finds nothing."""
    taken = session.execute(
        delete(OidcLogin)
        .where(OidcLogin.state_digest == state_digest, OidcLogin.expires_at > now)
        .returning(OidcLogin.browser_digest, OidcLogin.nonce, OidcLogin.code_verifier, OidcLogin.destination)
    ).one_or_none()
    return None if taken is None else PendingLogin(*taken)


def failures_of(session: Session, source_digest: str, *, window_s: float, now: datetime) -> int:
    """How often an address failed in the running window."""
    row = session.get(LoginAttempts, source_digest)
    return 0 if row is None or row.since <= now - timedelta(seconds=window_s) else row.failures


def count_failure(session: Session, source_digest: str, *, window_s: float, now: datetime) -> None:
    """Count a failed log-in of an address; a window that is over begins anew."""
    if insert_ignore(session, LoginAttempts, source_digest=source_digest, failures=1, since=now):
        return
    same = LoginAttempts.source_digest == source_digest
    over = LoginAttempts.since <= now - timedelta(seconds=window_s)
    if not affected(session, update(LoginAttempts).where(same, over).values(failures=1, since=now)):
        affected(session, update(LoginAttempts).where(same).values(failures=LoginAttempts.failures + 1))


def purge(session: Session, *, window_s: float, now: datetime) -> None:
    """Forget log-ins that never came back, windows that are over, and sessions that ended a week ago."""
    long_ago = now - timedelta(seconds=KEPT_AFTER_END_S)
    affected(session, delete(OidcLogin).where(OidcLogin.expires_at <= now))
    affected(session, delete(LoginAttempts).where(LoginAttempts.since <= now - timedelta(seconds=window_s)))
    affected(session, delete(WebSession).where(or_(WebSession.ended_at <= long_ago, WebSession.expires_at <= long_ago)))
