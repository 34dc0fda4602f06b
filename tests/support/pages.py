"""Every page there is, with addresses that show it, and what else is answered. A route in neither table is a gap."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute

from models.registry import SHIPPED
from tests.support.web_studies import Made

MODEL = "cxr-pneumonia"
# Routes for programs, each with tests of its own. What is served beneath them shows nobody a page.
PROGRAMS = ("/api/v1/", "/fhir", "/dicomweb", "/dicom-web", "/workitems", "/ups")
NO_PAGES = {
    *("GET /healthz", "GET /readyz", "GET /metrics", "GET /events", "GET /studies/{uid}/news", "GET /api/openapi.json"),
    *("GET /studies/{uid}/images/{sop}", "GET /studies/{uid}/maps/{sop}", "GET /audit/export"),
    # They lead elsewhere, or to a page of the first table.
    *("GET /login/oidc", "GET /login/oidc/callback", "POST /login", "POST /logout"),
    *("POST /views", "POST /views/{view}/remove", "POST /studies/{uid}/retry", "POST /operations/retry"),
    *("POST /studies/{uid}/readings", "POST /studies/{uid}/readings/undo", "POST /studies/{uid}/first-reading"),
    *("POST /models/{model}/{version}/activate", "POST /models/{model}/{version}/shadow"),
    "POST /models/{model}/rollback",
}
# These show a page of their own to whoever posts.
POSTED = {"POST /rerun", "POST /operations/peers/{name}/echo", "POST /operations/route-test"}
OPEN = {"GET /login"}


@dataclass(frozen=True)
class Shown:
    """Studies that the pages are shown with."""

    read: Made
    refused: Made


def pages(shown: Shown) -> dict[str, tuple[str, ...]]:
    """Addresses by the route that answers them; the first shows the page as it usually is."""
    version = json.loads((SHIPPED / MODEL / "model.json").read_text(encoding="utf-8"))["version"]
    return {
        "GET /login": ("/login",),
        "GET /": ("/", "/?priority=stat", "/?limit=1"),
        "GET /studies/{uid}": (f"/studies/{shown.read.study}", f"/studies/{shown.refused.study}"),
        "GET /studies/{uid}/reports/{sop}": (f"/studies/{shown.read.study}/reports/{shown.read.report}",),
        "GET /operations": ("/operations",),
        "GET /models": ("/models",),
        "GET /models/{model}/{version}": (f"/models/{MODEL}/{version}",),
        "GET /audit": ("/audit", "/audit?actor=max"),
        "GET /api/docs": ("/api/docs",),
    }


def routes(app: FastAPI) -> set[str]:
    """Method and pattern of each route that is not for programs alone."""
    return {
        f"{method} {route.path}"
        for route in app.routes
        if isinstance(route, APIRoute) and not route.path.startswith(PROGRAMS)
        for method in route.methods or ()
    }
