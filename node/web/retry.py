"""Trying again what was given up: a study's parked jobs and dead letters, with their attempts forgiven."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from db import deliveries, jobs, worklist
from db.states import JobState
from node.uids import valid_uid
from node.web.access import Access
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem
from node.web.schemas import RetryAnswer

Mender = Annotated[Principal, Depends(Access(Permission.WORK_RETRY))]


def add_routes(app: FastAPI) -> None:
    app.post("/studies/{uid}/retry", include_in_schema=False)(retry_on_page)
    app.post("/api/v1/studies/{uid}/retry", tags=["studies"], summary="Try again what was given up")(retry_study)


def retry_on_page(request: Request, principal: Mender, uid: str) -> Response:
    """The button on the study's page, which is shown again."""
    _retry(request, principal, uid)
    return RedirectResponse(f"/studies/{uid}", 303)


def retry_study(request: Request, principal: Mender, uid: str) -> RetryAnswer:
    """Parked jobs and dead letters of the study are tried again; what is not given up is left alone."""
    return _retry(request, principal, uid)


def _retry(request: Request, principal: Principal, uid: str) -> RetryAnswer:
    with context_of(request).record.write() as session:
        row = worklist.study(session, uid) if valid_uid(uid) else None
        if row is None:
            raise Problem(404, "no study of that UID was received")
        parked = [job.id for job in row.jobs if job.current and job.state is JobState.PARKED]
        tried = sum(jobs.retry(session, job, actor=principal.actor) for job in parked)
        letters = sum(deliveries.retry(session, actor=principal.actor, job_id=job.id) for job in row.jobs)
    return RetryAnswer(jobs=tried, deliveries=letters)
