"""How a file would be routed, and why. The file's beginning is looked at in memory, and nothing of it is kept."""

from __future__ import annotations

from io import BytesIO
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from node import header
from node.header import HeaderError
from node.route_test import explain
from node.web.access import Access
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem

Operator = Annotated[Principal, Depends(Access(Permission.OPERATIONS_READ))]
# As the settings want it of an AE title.
Calling = Annotated[str, Query(max_length=16, pattern=r"^[^\\\x00-\x1f\x7f]*$")]
# Beyond what a header takes; held in memory, and walked through by the process that serves the pages.
_MOST_INFLATED_BYTES = 4 << 20
# What routing looks at and a person may see: descriptions are typed by people and may name a patient.
SHOWN = ("sop_class_uid", "modality", "body_part", "view_position", "calling_ae", "age_years", "rows", "columns")


def add_routes(app: FastAPI) -> None:
    app.post("/operations/route-test", include_in_schema=False)(try_file)


async def try_file(request: Request, principal: Operator, calling_ae: Calling = "") -> Response:
    """The body is a DICOM file, or its beginning."""
    data = await request.body()
    return await run_in_threadpool(_tried, request, principal, data, calling_ae)


def _tried(request: Request, principal: Principal, data: bytes, calling_ae: str) -> Response:
    context = context_of(request)
    try:
        found = header.read_header(BytesIO(data), max_inflate_bytes=_MOST_INFLATED_BYTES)
    except HeaderError as error:
        raise Problem(422, f"that is no DICOM file whose header can be read: {error}") from error
    facts = header.facts(found, calling_ae)
    return context.pages.render(
        "route_test.html",
        request,
        principal=principal,
        report=explain(context.settings, facts),
        facts=[(name, facts.get(name)) for name in SHOWN],
    )
