"""Studies that are read again, many at a time: by the models of now, as new revisions."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

from db import rerun, worklist
from node.uids import valid_uid
from node.web.access import Access, read_list
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem
from node.web.schemas import RerunAnswer

Rerunner = Annotated[Principal, Depends(Access(Permission.WORK_RERUN, read_list))]
Form = Annotated[dict[str, str], Depends(read_list)]
FIELD = "study."


def add_routes(app: FastAPI) -> None:
    app.post("/rerun", include_in_schema=False)(rerun_on_page)
    app.post("/api/v1/studies/{uid}/rerun", tags=["studies"], summary="Have a study read again")(rerun_study)


def rerun_on_page(request: Request, principal: Rerunner, form: Form) -> Response:
    """The studies that are ticked in the worklist; says of each what came of it."""
    uids = [name.removeprefix(FIELD) for name in form if name.startswith(FIELD)]
    if not uids:
        raise Problem(422, "no study is ticked")
    if len(uids) > worklist.MOST_ROWS:
        raise Problem(422, f"at most {worklist.MOST_ROWS} studies at a time")
    # Each in a transaction of its own: what fails leaves the others alone.
    told = [(uid, _rerun(request, principal, uid)) for uid in uids]
    return context_of(request).pages.render("rerun.html", request, principal=principal, told=told)


def rerun_study(request: Request, principal: Rerunner, uid: str) -> RerunAnswer:
    """Finished runs become new revisions, parked jobs are tried again, what is under way is left alone."""
    done = _rerun(request, principal, uid)
    if done is None:
        raise Problem(404, "no study of that UID was received")
    if done.gone and not (done.changed or done.left):
        raise Problem(409, "its images are deleted: there is nothing to read again")
    return RerunAnswer(revisions=done.opened, retried=done.retried, under_way=done.left)


def _rerun(request: Request, principal: Principal, uid: str) -> rerun.Rerun | None:
    if not valid_uid(uid):
        return None
    with context_of(request).record.write() as session:
        return rerun.rerun(session, uid, actor=principal.actor)
