"""The guard of each route. Every route names what it asks for, or that it is open; the application refuses to start
with one that does neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import FastAPI, Request, WebSocketException
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from db import audit
from db.errors import ConfigError
from node.web import tokens
from node.web.context import context_of
from node.web.guard import client_of
from node.web.identity import Principal, authenticate, cookie_name
from node.web.permissions import Permission
from node.web.problems import LoginNeeded, Problem, route_of

_CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 50
# A page of the worklist has a field for each of its studies.
_MOST_FIELDS_OF_A_LIST = 300
CSRF_FIELD, CSRF_HEADER = "csrf_token", "x-csrf-token"
LOGIN_COOKIE = "radnode-login"
_POLICY_VIOLATION = 1008
FormReader = Callable[[Request], Awaitable[dict[str, str]]]


class Access:
    """Asks for a log-in with a permission; a change must also bring the session's CSRF token.

    form: how the posted form is read; `read_list` where it has a field for each line of a list.
    """

    def __init__(self, permission: Permission, form: FormReader | None = None) -> None:
        self.permission = permission
        self._form = form or read_form

    async def __call__(self, request: Request) -> Principal:
        principal = await run_in_threadpool(authenticate, request)
        await self._admit(request, principal)
        return principal

    async def _admit(self, request: Request, principal: Principal) -> None:
        if request.method not in _CHANGES_NOTHING and principal.csrf:
            await _check_csrf(request, principal.csrf, self._form)
        if self.permission not in principal.permissions:
            await run_in_threadpool(_note_denied, request, principal, self.permission)
            raise Problem(403, f"this needs the right {self.permission.value}, which {principal.name} does not have")


class LocalOrAccess(Access):
    """As Access, but whoever is on this machine itself need not log in: for metrics."""

    async def __call__(self, request: Request) -> Principal:
        if client_of(request).loopback and "authorization" not in request.headers:
            return Principal("loopback", frozenset({self.permission}))
        return await super().__call__(request)


class ChannelAccess(Access):
    """As Access, of a program that opens a WebSocket. A session does not do: any site could have a browser open one."""

    async def __call__(self, connection: HTTPConnection) -> Principal:
        request = Request({**connection.scope, "type": "http", "method": "GET"})
        try:
            if "authorization" not in request.headers:
                raise LoginNeeded
            return await super().__call__(request)
        except Problem as problem:
            raise WebSocketException(_POLICY_VIOLATION, problem.detail) from problem


class Open:
    """Open to everybody. A form that is posted must bring the value of the cookie it was given with."""

    async def __call__(self, request: Request) -> None:
        if request.method not in _CHANGES_NOTHING:
            await _check_csrf(request, request.cookies.get(cookie_name(request, LOGIN_COOKIE), ""), read_form)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form; {} where the body is none. Raises Problem."""
    return await _fields(request, _MOST_FIELDS)


async def read_list(request: Request) -> dict[str, str]:
    """As `read_form`, with as many fields as a list has lines."""
    return await _fields(request, _MOST_FIELDS_OF_A_LIST)


async def _fields(request: Request, most: int) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return {}
    try:
        text = (await request.body()).decode("utf-8")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=most, errors="strict"))
    except ValueError as error:
        raise Problem(400, "the form cannot be read") from error


async def _check_csrf(request: Request, expected: str, form: FormReader) -> None:
    if not _from_here(request):
        raise Problem(403, "the request comes from another site")
    given = request.headers.get(CSRF_HEADER) or (await form(request)).get(CSRF_FIELD, "")
    if not expected or not tokens.same(given, expected):
        raise Problem(403, "the form is out of date; go back, load the page again and repeat")


def _from_here(request: Request) -> bool:
    """What the browser itself says of where the request comes from; old browsers say nothing."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def _note_denied(request: Request, principal: Principal, permission: Permission) -> None:
    with context_of(request).record.write() as session:
        audit.note(
            session,
            "access_denied",
            actor=principal.actor,
            subject=route_of(request),
            outcome="failure",
            permission=permission.value,
            address=client_of(request).address,
        )


def guard_of(route: BaseRoute) -> Access | Open | None:
    """What guards a route; None where nothing does."""
    if isinstance(route, Mount) and isinstance(route.app, StaticFiles):
        return Open()
    if not isinstance(route, APIRoute | APIWebSocketRoute):
        return None
    return next((call for call in _calls(route.dependant) if isinstance(call, Access | Open)), None)


def _calls(dependant: Any) -> Iterator[Any]:
    for one in dependant.dependencies:
        yield one.call
        yield from _calls(one)


def require_guarded(app: FastAPI) -> None:
    """Raise ConfigError where a route names no permission and is not declared open."""
    bare = [getattr(route, "path", repr(route)) for route in app.routes if guard_of(route) is None]
    if bare:
        raise ConfigError(f"these routes name no permission: {', '.join(bare)}")
