"""Saved views: a person's names for sets of the worklist's filters. A search for a patient is not kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.responses import RedirectResponse

from db import saved_views
from node.web.access import Access, read_form
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem

Reader = Annotated[Principal, Depends(Access(Permission.STUDIES_READ))]
Form = Annotated[dict[str, str], Depends(read_form)]
# What the record's keys can be.
Key = Annotated[int, Path(ge=1, lt=2**63)]
KEPT = ("state", "priority", "modality", "model", "delivery", "positive")
LONGEST_NAME = 40
_LONGEST_VALUE = 64


def query_of(parameters: Iterable[tuple[str, str]]) -> str:
    """The part of an address that a view keeps; "" where nothing of it is a filter. What is not known is left out."""
    given = dict(parameters)
    return urlencode({name: given[name] for name in KEPT if _fits(given.get(name, ""))})


def _fits(value: str) -> bool:
    return 0 < len(value) <= _LONGEST_VALUE and value.isprintable()


def add_routes(app: FastAPI) -> None:
    app.post("/views", include_in_schema=False)(keep)
    app.post("/views/{view}/remove", include_in_schema=False)(remove)


def keep(request: Request, principal: Reader, form: Form) -> Response:
    """Keep the filters that are set under a name; one of that name is replaced."""
    name = form.get("name", "").strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise Problem(422, f"a view's name has 1 to {LONGEST_NAME} characters that can be printed")
    query = query_of(parse_qsl(form.get("query", "")))
    if not query:
        raise Problem(422, "set a filter first: a view without one is the whole list")
    with context_of(request).record.write() as session:
        saved_views.keep(session, principal.actor, name, query)
    return RedirectResponse(f"/?{query}", 303)


def remove(request: Request, principal: Reader, view: Key) -> Response:
    """Forget one of one's own views."""
    with context_of(request).record.write() as session:
        known = saved_views.drop(session, principal.actor, view)
    if not known:
        raise Problem(404, "you have no such view")
    return RedirectResponse("/", 303)
