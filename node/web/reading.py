"""What a reader says of a model's findings: accept, reject, uncertain, and taking it back; and the first reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from unicodedata import category

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from db import readings, worklist
from db.readings import NewReading, ReadingView
from db.worklist import JobView, StudyRow
from node.uids import valid_uid
from node.web import blinded
from node.web.access import Access, read_form
from node.web.context import context_of
from node.web.desk import Point
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem
from node.web.rows import Finding, findings_by_image

Judge = Annotated[Principal, Depends(Access(Permission.READINGS_WRITE))]
Form = Annotated[dict[str, str], Depends(read_form)]

VERDICT_WORDS = {"accept": "accepted", "reject": "rejected", "uncertain": "uncertain"}
FIRST_WORDS = {"finding": "something to report", "no-finding": "nothing to report", "unsure": "unsure"}
REASON_WORDS = {
    "not-there": "not there",
    "missed": "there, and missed",
    "wrong-place": "map in the wrong place",
    "artefact": "artefact or device",
    "image-quality": "image quality",
    "known": "known already",
    "other": "other",
}
_APART = "|"


@dataclass(frozen=True)
class Judged:
    """A finding, the operating point it was held against, and what holds of what readers said of it.

    key: names it in a form. point: None where that version's bundle is no longer here.
    """

    key: str
    image: str
    finding: Finding
    point: Point | None
    said: tuple[ReadingView, ...]


def judged(job: JobView, said: Sequence[ReadingView], point: Callable[[JobView, str], Point | None]) -> list[Judged]:
    """A job's findings with what readers said of each."""
    holds = readings.in_force(said)
    return [
        Judged(
            key=_APART.join((job.id, image, found.label)),
            image=image,
            finding=found,
            point=point(job, found.label),
            said=tuple(
                one for one in holds if (one.job_id, one.sop_instance_uid, one.label) == (job.id, image, found.label)
            ),
        )
        for image, found in findings_by_image(job)
    ]


def page_values(said: Sequence[ReadingView], principal: Principal, *, hidden: bool) -> dict[str, Any]:
    """What the study's page shows of readings. Verdicts tell what the models said, so they hide with it."""
    shown = [one for one in said if not hidden or one.verdict in readings.FIRST_READINGS]
    return {
        "hidden": hidden,
        "readings": shown[::-1],
        "own_verdict": next(
            (
                one
                for one in reversed(shown)
                if one.reader == principal.actor and one.verdict in readings.VERDICTS and not one.undone
            ),
            None,
        ),
        "verdict_words": VERDICT_WORDS,
        "first_words": FIRST_WORDS,
        "reason_words": REASON_WORDS,
        "lateralities": readings.LATERALITIES,
        "longest_comment": readings.LONGEST_COMMENT,
    }


def add_routes(app: FastAPI) -> None:
    hidden: dict[str, Any] = {"include_in_schema": False}
    app.post("/studies/{uid}/readings", **hidden)(judge)
    app.post("/studies/{uid}/readings/undo", **hidden)(take_back)
    app.post("/studies/{uid}/first-reading", **hidden)(read_first)


def judge(request: Request, principal: Judge, uid: str, form: Form) -> Response:
    """A verdict on one finding."""
    verdict, reason, laterality = form.get("verdict", ""), form.get("reason", ""), form.get("laterality", "")
    if verdict not in readings.VERDICTS:
        raise Problem(422, f"verdict is one of: {', '.join(readings.VERDICTS)}")
    if reason and reason not in readings.REASONS:
        raise Problem(422, f"reason is one of: {', '.join(readings.REASONS)}")
    if laterality and laterality not in readings.LATERALITIES:
        raise Problem(422, f"laterality is one of: {', '.join(readings.LATERALITIES)}")
    comment = _comment(form)
    blinded.require_shown(request, principal, uid)
    with context_of(request).record.write() as session:
        row = worklist.study(session, uid) if valid_uid(uid) else None
        if row is None:
            raise Problem(404, "no study of that UID was received")
        job, image, found = _named(row, form.get("finding", ""))
        new = NewReading(
            study_instance_uid=uid,
            job_id=job.id,
            model=job.model,
            model_version=job.model_version,
            sop_instance_uid=image,
            label=found.label,
            presence=found.presence,
            verdict=verdict,
            reason=reason,
            laterality=laterality,
            comment=comment,
        )
        readings.add(session, new, reader=principal.actor)
    return _back(uid, form)


def take_back(request: Request, principal: Judge, uid: str, form: Form) -> Response:
    """The reader's own latest verdict on the study is taken back; that is an event too."""
    with context_of(request).record.write() as session:
        taken = readings.undo(session, uid, reader=principal.actor) if valid_uid(uid) else None
    if taken is None:
        raise Problem(409, "there is no verdict of yours on this study to take back")
    return _back(uid, form)


def read_first(request: Request, principal: Judge, uid: str, form: Form) -> Response:
    """A reading before the models' results are shown, which shows them."""
    verdict = form.get("verdict", "")
    if verdict not in readings.FIRST_READINGS:
        raise Problem(422, f"verdict is one of: {', '.join(readings.FIRST_READINGS)}")
    comment = _comment(form)
    with context_of(request).record.write() as session:
        if not valid_uid(uid) or worklist.study(session, uid) is None:
            raise Problem(404, "no study of that UID was received")
        if not blinded.hidden(request, principal, session, [uid]):
            raise Problem(409, "the models' results of this study are shown already: a reading now is not the first")
        readings.add_first(session, uid, verdict, comment=comment, reader=principal.actor)
    return _back(uid, form)


def _named(row: StudyRow, key: str) -> tuple[JobView, str, Finding]:
    for job in row.jobs:
        for image, found in findings_by_image(job):
            if _APART.join((job.id, image, found.label)) == key:
                return job, image, found
    raise Problem(409, "that finding is not, or no longer, among the study's; load the page again")


def _comment(form: dict[str, str]) -> str:
    text = form.get("comment", "").replace("\r\n", "\n").strip()
    # PostgreSQL takes no NUL, and nobody types other control characters.
    controls = any(category(one) in {"Cc", "Cs"} and one not in "\n\t" for one in text)
    if len(text) > readings.LONGEST_COMMENT or controls:
        raise Problem(422, f"a comment has at most {readings.LONGEST_COMMENT} characters that can be printed")
    return text


def _back(uid: str, form: dict[str, str]) -> Response:
    shown = "?patients=show" if form.get("patients") == "show" else ""
    return RedirectResponse(f"/studies/{uid}{shown}#reading", 303)
