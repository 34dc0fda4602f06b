"""Health and metrics. No page here shows a patient, and none needs a login yet."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from db import schema
from db.errors import RadnodeError
from db.session import Record
from node import broker, storage
from node.settings import Settings
from node.web import metrics


def create_app(settings: Settings, record: Record) -> FastAPI:
    """The application; everything it needs is handed in."""
    app = FastAPI(title="radnode", docs_url="/api/docs", openapi_url="/api/openapi.json", redoc_url=None)

    @app.get("/")
    def index() -> dict[str, str]:
        """Where things are."""
        return {
            "name": "radnode",
            "notice": "Research use. Not a medical device; results are preliminary and unverified.",
            "health": "/healthz",
            "readiness": "/readyz",
            "metrics": "/metrics",
        }

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        """Everything the node needs to take a study answers."""
        problems = _problems(settings, record)
        return JSONResponse({"ready": not problems, "problems": problems}, status_code=503 if problems else 200)

    @app.get("/metrics")
    def prometheus() -> Response:
        """Prometheus text format."""
        return Response(metrics.render(settings, record), media_type="text/plain; version=0.0.4")

    return app


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
