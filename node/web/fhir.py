"""FHIR R4, read only, for programs: what the models found, under /fhir/R4 (`fhir.serve`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlencode

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from db import audit, fhir_view
from db.fhir_view import Work
from node.web import blinded, fhir_search
from node.web.access import Access, Open
from node.web.context import Context, context_of
from node.web.fhir_search import DEVICE, PARAMETERS, REPORT, STUDY, TASK, Search
from node.web.guard import client_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import FHIR, Problem
from node.worklist.fhir.bundles import searchset
from node.worklist.fhir.models import InvalidResource, checked
from node.worklist.fhir.resources import Writer, device
from node.worklist.fhir.values import Json

log = structlog.get_logger(__name__)

BASE = f"{FHIR}R4"
MEDIA_TYPE = "application/fhir+json"
Reader = Annotated[Principal, Depends(Access(Permission.PATIENTS_READ))]
# Work that is looked at for one page: what a condition leaves out is not looked for without an end.
_AT_ONCE, _ROUNDS = 20, 50


def add_routes(app: FastAPI) -> None:
    """Nothing where the settings do not serve FHIR."""
    if not app.state.context.settings.fhir.serve:
        return
    app.get(f"{BASE}/metadata", include_in_schema=False, dependencies=[Depends(Open())])(metadata)
    app.get(f"{BASE}/{{kind}}", include_in_schema=False)(search)
    app.get(f"{BASE}/{{kind}}/{{resource_id}}", include_in_schema=False)(read)


def metadata(request: Request) -> Response:
    """CapabilityStatement. It tells nothing that this page's documentation does not."""
    _require_json(request)
    parameters = {
        kind: [
            {"name": name, "type": told, **({"documentation": "Study Instance UID."} if name == "study" else {})}
            for name, told in known.items()
        ]
        for kind, known in PARAMETERS.items()
    }
    resources = [
        {
            "type": kind,
            "interaction": [{"code": "read"}, {"code": "search-type"}],
            "versioning": "no-version",
            "searchParam": known,
        }
        for kind, known in parameters.items()
    ]
    statement = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-25",
        "kind": "instance",
        "software": {"name": "radnode"},
        "implementation": {
            "description": "Preliminary results of AI models, read only. Not a medical device.",
            "url": _base(context_of(request)),
        },
        "fhirVersion": "4.0.1",
        "format": [MEDIA_TYPE],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "Authorization: Bearer KEY, of a key with the scope patients:read."},
                "resource": resources,
            }
        ],
    }
    return _answer(checked(statement))


def read(request: Request, principal: Reader, kind: str, resource_id: str) -> Response:
    """One resource. That its study was looked at is on record."""
    _require(request, principal, kind)
    given = [(name, value) for name, value in request.query_params.multi_items() if name == "_format"]
    asked = fhir_search.parse(kind, [("_id", resource_id), *given], context_of(request).settings.fhir)
    found, _ = _page(context_of(request), kind, asked)
    resource, study = next(iter(found), (None, ""))
    if resource is None:
        raise Problem(404, f"no {kind} of that id is here")
    if study:
        _note(request, principal, "study_viewed", subject=study, kind=f"FHIR {kind}")
    try:
        return _answer(checked(resource))
    except InvalidResource as error:
        log.error("resource_invalid", kind=kind, reason=str(error))
        raise Problem(500, "this result cannot be told as FHIR; the log says so") from error


def search(request: Request, principal: Reader, kind: str) -> Response:
    """A page of resources, the newest first. How many studies it told of is on record."""
    _require(request, principal, kind)
    context = context_of(request)
    asked = fhir_search.parse(kind, request.query_params.multi_items(), context.settings.fhir)
    found, following = _page(context, kind, asked)
    if kind != DEVICE:
        studies = len({study for _, study in found})
        _note(request, principal, "patients_shown", studies=studies, kind=f"FHIR {kind}")
    told, lost = [], 0
    for resource, _ in found:
        try:
            told.append(checked(resource))
        except InvalidResource as error:
            log.error("resource_invalid", kind=kind, reason=str(error))
            lost += 1
    links = {"self": _address(request, kind, asked.page)}
    if following:
        links["next"] = _address(request, kind, following)
    page = searchset(told, _base(context), links)
    if lost:
        page.setdefault("entry", []).append(_incomplete(lost))
    return _answer(page)


def _page(context: Context, kind: str, asked: Search) -> tuple[list[tuple[Json, str]], str]:
    """(resource, its study's UID or "") of one page, and where the next one begins, "" at the end."""
    writer = Writer(context.settings.fhir)
    if asked.nothing:
        return [], ""
    with context.record.read() as session:
        if kind == DEVICE:
            return [(device(one), "") for one in fhir_view.models(session, asked.wanted.digest)], ""
        if kind == STUDY:
            after = fhir_search.page_of_studies(asked.page)
            studies, last = fhir_view.studies(session, asked.wanted, after=after, limit=asked.count)
            told = [(writer.imaging_study_of(one), one.study_instance_uid) for one in studies]
            return told, "" if last is None else str(last)
        key = fhir_search.page_of_work(asked.page)
        found: list[tuple[Json, str]] = []
        for _ in range(_ROUNDS):
            works, last_key = fhir_view.works(session, asked.wanted, after=key, limit=_AT_ONCE)
            for work in works:
                skip = (key.skip or 0) if key is not None and replace(key, skip=None) == work.key else 0
                for number, one in enumerate(_told(writer, kind, work)):
                    if number < skip or asked.resource_id not in ("", one["id"]):
                        continue
                    if len(found) == asked.count:
                        return found, fhir_search.written(replace(work.key, skip=number))
                    found.append((one, work.study.study_instance_uid))
            if last_key is None:
                return found, ""
            key = last_key
        return found, fhir_search.written(key) if key is not None else ""


def _told(writer: Writer, kind: str, work: Work) -> list[Json]:
    if kind == TASK:
        return [writer.task(work)]
    if not work.report_uid:
        return []
    return [writer.report(work)] if kind == REPORT else writer.observations(work)


def _require(request: Request, principal: Principal, kind: str) -> None:
    _require_json(request)
    if kind not in PARAMETERS:
        raise Problem(404, f"resources of that type are not here; there are {', '.join(sorted(PARAMETERS))}")
    if blinded.applies(request, principal):
        raise Problem(403, "this is for programs: what the models say is shown to people after the first read")


def _require_json(request: Request) -> None:
    wanted = request.query_params.get("_format")
    if wanted is not None:
        fhir_search.require_format(wanted)
    elif not fhir_search.acceptable(request.headers.get("accept", "")):
        raise Problem(406, "resources are told as application/fhir+json only")


def _note(request: Request, principal: Principal, event: Any, **detail: Any) -> None:
    with context_of(request).record.write() as session:
        audit.note(session, event, actor=principal.actor, address=client_of(request).address, **detail)


def _base(context: Context) -> str:
    settings = context.settings
    return settings.web.url(settings.web_host, settings.web_port) + BASE


def _address(request: Request, kind: str, page: str) -> str:
    """This page's own address, or that of another page of it; all of it is encoded."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "_page"]
    query = urlencode([*kept, *([("_page", page)] if page else [])])
    return f"{_base(context_of(request))}/{kind}{'?' if query else ''}{query}"


def _incomplete(lost: int) -> Json:
    said = f"{lost} resources of this page cannot be told as FHIR; the node's log says so"
    issue = {"severity": "warning", "code": "incomplete", "diagnostics": said}
    return {"resource": {"resourceType": "OperationOutcome", "issue": [issue]}, "search": {"mode": "outcome"}}


def _answer(resource: Json) -> Response:
    return JSONResponse(resource, media_type=MEDIA_TYPE)
