"""The web side put together: everything it needs is handed in, and every route is guarded or it does not start."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from db import schema
from db.errors import RadnodeError
from db.session import Record
from node import broker, storage
from node.settings import Settings
from node.web import (
    audit_page,
    fhir,
    live,
    login,
    metrics,
    model_page,
    news,
    oidc,
    operations,
    reading,
    rerun,
    retry,
    rule_tester,
    study,
    ups_events,
    ups_rs,
    views,
    worklist,
)
from node.web.access import Access, LocalOrAccess, Open, require_guarded
from node.web.context import Context, context_of
from node.web.desk import desk
from node.web.guard import Guard, client_of
from node.web.identity import Principal
from node.web.live import Changes
from node.web.oidc import CALLBACK, Provider
from node.web.pages import STATIC, Pages
from node.web.permissions import Permission
from node.web.pictures import Pictures
from node.web.problems import add_handlers

_PARTS = (
    *(login, oidc, worklist, views, study, news, reading, retry, rerun, live),
    *(operations, rule_tester, model_page, audit_page, fhir, ups_rs, ups_events),
)
NOTICE = "Research use. Not a medical device; results are preliminary and unverified."


def create_app(settings: Settings, record: Record) -> FastAPI:
    """The application. Raises ConfigError."""
    web = settings.web
    provider = None
    if web.oidc.issuer:
        provider = Provider(web.oidc, web.url(settings.web_host, settings.web_port) + CALLBACK)
    context = Context(settings, record, Pages(), Pictures(), Changes(record), provider)
    app = FastAPI(
        title="radnode",
        summary=NOTICE,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(context),
    )
    app.state.context = context
    app.add_middleware(Guard, settings=settings)
    add_handlers(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_health(app)
    for part in _PARTS:
        part.add_routes(app)
    app.get("/api/openapi.json", include_in_schema=False)(openapi)
    app.get("/api/docs", include_in_schema=False)(docs)
    require_guarded(app)
    return app


def _lifespan(context: Context) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # Loading it takes a second or two, which the first reader should not have to wait.
        threading.Thread(target=desk, daemon=True).start()
        yield
        context.changes.stop()

    return lifespan


def _add_health(app: FastAPI) -> None:
    for path, handler in (("/healthz", healthz), ("/readyz", readyz)):
        app.get(path, include_in_schema=False, dependencies=[Depends(Open())])(handler)
    app.get("/metrics", include_in_schema=False)(prometheus)


async def healthz() -> dict[str, str]:
    """The process answers. It needs no thread, so that it does when all of them are busy."""
    return {"status": "ok"}


def readyz(request: Request) -> JSONResponse:
    """Everything the node needs to take a study answers. What does not is told on this machine only."""
    context = context_of(request)
    problems = _problems(context.settings, context.record)
    told = problems if client_of(request).loopback else ["see `radnode doctor`"] if problems else []
    return JSONResponse({"ready": not problems, "problems": told}, status_code=503 if problems else 200)


def prometheus(
    request: Request, _principal: Annotated[Principal, Depends(LocalOrAccess(Permission.METRICS_READ))]
) -> Response:
    """Prometheus text format."""
    context = context_of(request)
    return Response(metrics.render(context.settings, context.record), media_type="text/plain; version=0.0.4")


def openapi(
    request: Request, _principal: Annotated[Principal, Depends(Access(Permission.API_DOCS_READ))]
) -> dict[str, Any]:
    """The API's description (OpenAPI 3.1)."""
    app: FastAPI = request.app
    return app.openapi()


def docs(request: Request, principal: Annotated[Principal, Depends(Access(Permission.API_DOCS_READ))]) -> Response:
    """The API's description for people."""
    app: FastAPI = request.app
    return context_of(request).pages.render(
        "docs.html", request, principal=principal, paths=app.openapi().get("paths", {})
    )


def _problems(settings: Settings, record: Record) -> list[str]:
    problems = []
    checks: tuple[Callable[[], object], ...] = (
        lambda: schema.require_current(record),
        lambda: broker.ping(settings.effective_broker_url),
        lambda: storage.require_room(settings),
    )
    for check in checks:
        try:
            check()
        except RadnodeError as error:
            problems.append(str(error))
    return problems
