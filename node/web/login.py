"""Logging in and out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from db import audit, sessions, users
from db.types import utcnow
from node.web import passwords, tokens
from node.web.access import LOGIN_COOKIE, Access, Open, read_form
from node.web.context import context_of
from node.web.destinations import safe_destination
from node.web.guard import client_of
from node.web.identity import Principal, clear_cookie, cookie_name, set_cookie
from node.web.permissions import Permission
from node.web.problems import Problem

# One text for all of them: which it was is nobody's business who cannot log in.
WRONG = "Name or password is wrong, or the account is locked or disabled."
SHUT_OUT = "Too many failed attempts from this address. Wait, or ask whoever runs this node."
_NOBODY = "nobody"


def add_routes(app: FastAPI) -> None:
    app.get("/login", include_in_schema=False, dependencies=[Depends(Open())])(show_login)
    app.post("/login", include_in_schema=False, dependencies=[Depends(Open())])(log_in)
    app.post("/logout", include_in_schema=False)(log_out)


def show_login(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the link
    """The log-in page."""
    return _page(request, safe_destination(next))


async def log_in(request: Request) -> Response:
    """Name and password against an account of this node."""
    form = await read_form(request)
    wanted = safe_destination(form.get("next", "/"))
    error = await run_in_threadpool(_try, request, form.get("name", "").strip(), form.get("password", ""))
    if isinstance(error, str):
        response = _page(request, wanted, error)
        response.status_code = 429 if error == SHUT_OUT else 401
        return response
    return await run_in_threadpool(start_session, request, error, wanted, "password")


def log_out(request: Request, principal: Annotated[Principal, Depends(Access(Permission.SELF))]) -> Response:
    """End the session here and in the record."""
    token = request.cookies.get(cookie_name(request), "")
    with context_of(request).record.write() as session:
        sessions.end(session, tokens.digest(token), by="logout", now=utcnow())
        audit.note(session, "logout", actor=principal.actor, subject=principal.name, address=client_of(request).address)
    response = RedirectResponse("/login", 303)
    clear_cookie(request, response)
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


def _try(request: Request, name: str, password: str) -> users.UserView | str:
    """The account, or what to say. A wrong name takes as long as a wrong password."""
    context, now = context_of(request), utcnow()
    web = context.settings.web
    source = tokens.digest(client_of(request).address)
    with context.record.read() as session:
        if sessions.failures_of(session, source, window_s=web.lock_s, now=now) >= web.address_failures:
            return SHUT_OUT
        # PostgreSQL takes no NUL; no account has a name that cannot be printed.
        known = users.credentials(session, name) if name.isprintable() else None
    fits = passwords.verify("" if known is None else known.password_hash, password)
    if known is None or not fits or not _may_enter(known.user, now):
        _note_failure(request, known, source, fits=fits)
        return WRONG
    if passwords.outdated(known.password_hash):
        # Made under weaker parameters; nobody is logged out for it.
        with context.record.write() as session:
            users.rehash(session, known.user.id, known.password_hash, passwords.hash_password(password))
    return known.user


def _may_enter(user: users.UserView, now: datetime) -> bool:
    return not user.disabled and (user.locked_until is None or user.locked_until <= now)


def _note_failure(request: Request, known: users.Credentials | None, source: str, *, fits: bool) -> None:
    context, now = context_of(request), utcnow()
    web = context.settings.web
    with context.record.write() as session:
        sessions.count_failure(session, source, window_s=web.lock_s, now=now)
        # A locked account is not locked anew, or anybody could keep its owner out for good.
        if known is not None and not fits and _may_enter(known.user, now):
            users.note_failure(session, known.user.id, limit=web.login_failures, lock_s=web.lock_s, now=now)
        audit.note(
            session,
            "login",
            # A name that is no account's may be a password typed into the wrong field.
            actor=_NOBODY if known is None else known.user.name,
            outcome="failure",
            address=client_of(request).address,
            method="password",
        )


def start_session(request: Request, user: users.UserView, destination: str, method: str) -> Response:
    """Open a session under a new token, whatever the browser brought along, and end the one it had."""
    context, now = context_of(request), utcnow()
    web = context.settings.web
    token, address = tokens.new_token(), client_of(request).address
    brought = request.cookies.get(cookie_name(request), "")
    with context.record.write() as session:
        if brought:
            sessions.end(session, tokens.digest(brought), by="logged in again", now=now)
        sessions.purge(session, window_s=web.lock_s, now=now)
        users.note_login(session, user.id, now)
        sessions.start(
            session, user.id, tokens.digest(token), address=address, lifetime_s=web.session_lifetime_s, now=now
        )
        audit.note(session, "login", actor=user.name, subject=user.name, address=address, method=method)
    response = RedirectResponse(destination, 303)
    set_cookie(request, response, token)
    clear_cookie(request, response, LOGIN_COOKIE)
    return response


def refuse_login(request: Request, reason: str, *, actor: str = _NOBODY) -> Problem:
    """Note a log-in that the identity provider's answer did not allow; returns what to raise."""
    context = context_of(request)
    with context.record.write() as session:
        audit.note(
            session,
            "login",
            actor=actor,
            outcome="failure",
            address=client_of(request).address,
            method="oidc",
        )
    return Problem(403, reason)


def _page(request: Request, destination: str, error: str = "") -> Response:
    context = context_of(request)
    name = cookie_name(request, LOGIN_COOKIE)
    csrf = request.cookies.get(name, "") or tokens.new_token()
    response = context.pages.render(
        "login.html", request, csrf=csrf, next=destination, error=error, provider=context.provider is not None
    )
    set_cookie(request, response, csrf, LOGIN_COOKIE)
    return response
