"""What is said when something cannot be done: problem+json (RFC 9457) to programs, a plain page to people.

Texts are this node's own. Nothing of a request and nothing of a patient is repeated in them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException

from db.errors import ConflictError, RadnodeError, RetriableError
from node.web.context import context_of
from node.web.destinations import login_url

log = structlog.get_logger(__name__)

FHIR = "/fhir/"
# R4 4.3.14.383.
_ISSUES = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    408: "timeout",
    413: "too-long",
    422: "invalid",
    429: "throttled",
    500: "exception",
    503: "transient",
}

# Sent by htmx, where the answer takes the place of a part of the page.
RENEWS_A_PART = "hx-request"


class Problem(Exception):
    """A refusal with its HTTP status and a sentence for whoever asked."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class LoginNeeded(Problem):
    """Nobody is logged in, or no longer."""

    def __init__(self, detail: str = "log in first") -> None:
        super().__init__(401, detail, {"WWW-Authenticate": "Bearer"})


def problem_json(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem for programs."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def refusal(path: str, status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem for programs, as those of that path understand it: FHIR has a resource for it (R4 2.32)."""
    if not path.startswith(FHIR):
        return problem_json(status, detail, headers)
    issue = {"severity": "error", "code": _ISSUES.get(status, "processing"), "diagnostics": detail}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return JSONResponse(outcome, status, headers, media_type="application/fhir+json")


def is_for_people(request: Request) -> bool:
    """Whether a browser's page is asked for, rather than data."""
    if request.url.path.startswith(("/api/", "/dicom-web/", FHIR)) or "authorization" in request.headers:
        return False
    return "text/html" in request.headers.get("accept", "")


def route_of(request: Request) -> str:
    """The route's pattern: the path itself may hold what a peer sent."""
    return getattr(request.scope.get("route"), "path", "")


def add_handlers(app: FastAPI) -> None:
    """Give every way to fail its answer."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(RadnodeError, _on_known)
    app.add_exception_handler(Exception, _on_unknown)


def _answer(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    if not is_for_people(request):
        return refusal(request.url.path, status, detail, headers)
    title = HTTPStatus(status).phrase
    page = context_of(request).pages.render("problem.html", request, status=status, title=title, detail=detail)
    page.status_code = status
    page.headers.update(headers or {})
    return page


def _on_problem(request: Request, error: Any) -> Response:
    headers = error.headers
    if isinstance(error, LoginNeeded) and is_for_people(request):
        if RENEWS_A_PART in request.headers:
            # The page as a whole is loaded again, and is the log-in then; a part of it cannot be.
            headers = {**headers, "HX-Refresh": "true"}
        elif request.method == "GET":
            return RedirectResponse(login_url(request), 303)
    return _answer(request, error.status, error.detail, headers)


def _on_http(request: Request, error: Any) -> Response:
    said = {404: "there is no such page", 405: "this cannot be done here"}.get(error.status_code, "")
    return _answer(request, error.status_code, said or HTTPStatus(error.status_code).phrase, dict(error.headers or {}))


def _on_validation(request: Request, error: Any) -> Response:
    # Names of parameters are this node's; their values are not repeated.
    names = sorted({str(one["loc"][-1]) for one in error.errors() if one["loc"] and one["type"] != "json_invalid"})
    return _answer(request, 422, f"not understood: {', '.join(names) or 'the request'}")


def _on_known(request: Request, error: Any) -> Response:
    if isinstance(error, RetriableError):
        log.warning("web_unavailable", reason=str(error))
        return _answer(request, 503, "not available at the moment; try again", {"Retry-After": "5"})
    status = 409 if isinstance(error, ConflictError) else 400
    return _answer(request, status, str(error))


def _on_unknown(request: Request, error: Any) -> Response:
    log.error("web_failed", path=route_of(request), exc_info=error)
    return _answer(request, 500, "this failed; the log says where")
