"""Who asks: a person by the session of a cookie, or a program by its key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from fastapi import Request, Response

from db import api_keys, audit, sessions
from db.types import utcnow
from node.web import tokens
from node.web.context import context_of
from node.web.guard import client_of
from node.web.permissions import Permission, permissions_of, permissions_of_scopes
from node.web.problems import LoginNeeded, Problem, route_of

# Programs have no business on people's pages.
_FOR_KEYS = ("/api/", "/dicom-web/", "/fhir/", "/metrics")
# Sent by pages that renew themselves: nobody is there, so the session goes on growing old.
UNATTENDED = "x-radnode-live"


@dataclass(frozen=True)
class Principal:
    """Who asks, and what they may do. csrf: what a change must bring along, "" for programs."""

    name: str
    permissions: frozenset[Permission]
    csrf: str = ""
    roles: tuple[str, ...] = ()

    def may(self, permission: str) -> bool:
        """For pages, which leave out what is not for this person."""
        return permission in self.permissions

    @property
    def is_person(self) -> bool:
        """Whether a session asks, not a key."""
        return bool(self.csrf)

    @property
    def actor(self) -> str:
        """As the audit names them."""
        return self.name


def authenticate(request: Request) -> Principal:
    """Raises LoginNeeded. A wrong key is refused even where a cookie would do."""
    if "authorization" in request.headers:
        return _program(request)
    token = request.cookies.get(cookie_name(request), "")
    if not token:
        raise LoginNeeded
    context, now = context_of(request), utcnow()
    with context.record.read() as session:
        found = sessions.find(session, tokens.digest(token), idle_s=context.settings.web.session_idle_s, now=now)
    if found is None:
        raise LoginNeeded("the session has ended; log in again")
    stale = now - found.last_seen_at > timedelta(seconds=sessions.SEEN_EVERY_S)
    if stale and UNATTENDED not in request.headers and request.url.path != "/events":
        with context.record.write() as session:
            sessions.seen(session, found.id, now)
    return Principal(found.user, permissions_of(found.roles), tokens.csrf_of(token), found.roles)


def _program(request: Request) -> Principal:
    kind, _, key = request.headers["authorization"].partition(" ")
    if kind.lower() != "bearer" or not request.url.path.startswith(_FOR_KEYS):
        raise LoginNeeded("an API key is given as: Authorization: Bearer KEY; pages take none")
    context, now = context_of(request), utcnow()
    with context.record.read() as session:
        found = api_keys.in_force(session, tokens.digest(key.strip()), now=now)
    if found is None:
        _note_wrong_key(request)
        raise LoginNeeded("the key is unknown, revoked or expired")
    if found.last_used_at is None or now - found.last_used_at > timedelta(seconds=sessions.SEEN_EVERY_S):
        with context.record.write() as session:
            api_keys.used(session, found.id, now)
    return Principal(f"key {found.name}", permissions_of_scopes(found.scopes))


def _note_wrong_key(request: Request) -> None:
    """Counted like a wrong password. An address that goes on and on does not fill the audit: it is told to wait."""
    context, now, address = context_of(request), utcnow(), client_of(request).address
    web = context.settings.web
    with context.record.write() as session:
        known = sessions.failures_of(session, tokens.digest(address), window_s=web.lock_s, now=now)
        if known < web.address_failures:
            sessions.count_failure(session, tokens.digest(address), window_s=web.lock_s, now=now)
            audit.note(
                session,
                "access_denied",
                actor="unknown key",
                subject=route_of(request),
                outcome="failure",
                address=address,
            )
    if known >= web.address_failures:
        raise Problem(429, "too many wrong keys from this address; wait", {"Retry-After": str(int(web.lock_s))})


def is_secure(request: Request) -> bool:
    """Whether cookies travel over TLS only: they do unless this very node is used in the clear on loopback."""
    return client_of(request).secure or context_of(request).settings.web.public_url.startswith("https:")


def cookie_name(request: Request, what: str = "radnode") -> str:
    """With the prefix that keeps a neighbouring host from setting it, which browsers know only with Secure."""
    return f"__Host-{what}" if is_secure(request) else what


def set_cookie(request: Request, response: Response, value: str, what: str = "radnode") -> None:
    """Set a cookie that ends with the browser; the record knows when the session ends."""
    response.set_cookie(
        cookie_name(request, what), value, path="/", secure=is_secure(request), httponly=True, samesite="lax"
    )


def clear_cookie(request: Request, response: Response, what: str = "radnode") -> None:
    response.delete_cookie(
        cookie_name(request, what), path="/", secure=is_secure(request), httponly=True, samesite="lax"
    )
