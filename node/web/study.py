"""One study: what was found, why not, what happened when, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response

from db import audit, identities, model_versions, priors, readings, study_details, worklist
from db.errors import UnreadableError
from db.readings import ReadingView
from db.states import DeliveryState, JobState, PriorState
from db.study_details import ImageView, ResultView
from db.types import utcnow
from db.worklist import JobView, StudyRow
from node.uids import valid_uid
from node.web import blinded, news, viewer
from node.web.access import Access
from node.web.context import Context, context_of
from node.web.desk import Point, desk, point_of
from node.web.guard import client_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem
from node.web.reading import Judged, judged, page_values
from node.web.results import ReportLine, drawn_on, report_lines
from node.web.rows import DELIVERY_WORDS, line
from node.web.schemas import DeliveryAnswer, InstanceAnswer, ResultAnswer, RunAnswer, StudyDetailAnswer
from node.web.worklist import as_answer, may_show

Reader = Annotated[Principal, Depends(Access(Permission.STUDIES_READ))]
Looker = Annotated[Principal, Depends(Access(Permission.IMAGES_READ))]
PatientReader = Annotated[Principal, Depends(Access(Permission.PATIENTS_READ))]
Shown = Annotated[str, Query(max_length=8)]
Level = Annotated[float | None, Query(ge=-1e6, le=1e6)]
Width = Annotated[float | None, Query(ge=1, le=1e6)]
Side = Annotated[int, Query(ge=64, le=4096)]
_REPORT, _PICTURE = "SR", "SC"
_PRIOR_WORDS = {
    PriorState.WANTED: "being fetched",
    PriorState.FOUND: "fetched",
    PriorState.ABSENT: "none",
    PriorState.REFUSED: "refused",
    PriorState.FAILED: "could not be had",
    PriorState.GONE: "were fetched",
}


@dataclass(frozen=True)
class Run:
    """One model's work for the page: the present one or an earlier one. refused: (image, why it was not analysed)."""

    job: JobView
    findings: list[Judged]
    refused: list[tuple[str, str]]
    results: list[ResultView]


@dataclass(frozen=True)
class Happened:
    """One line of the timeline. times: how often in a row."""

    at: datetime
    event: str
    outcome: str
    actor: str
    times: int = 1


@dataclass(frozen=True)
class Overlay:
    """A map that lies on an image."""

    sop_instance_uid: str
    description: str


def add_routes(app: FastAPI) -> None:
    page: dict[str, Any] = {"include_in_schema": False}
    app.get("/studies/{uid}", **page)(show_study)
    app.get("/studies/{uid}/reports/{sop}", **page)(show_report)
    app.get("/studies/{uid}/images/{sop}", **page)(picture)
    app.get("/studies/{uid}/maps/{sop}", **page)(map_picture)
    app.get("/api/v1/studies/{uid}", tags=["studies"], summary="One study")(get_study)


def show_study(
    request: Request,
    principal: Reader,
    *,
    uid: str,
    image: Annotated[str, Query(max_length=64)] = "",
    centre: Level = None,
    width: Width = None,
    patients: Shown = "",
) -> Response:
    """The study as a page. That it was looked at is on record."""
    context = context_of(request)
    row, images, results = _load(context, uid)
    show = may_show(request, principal, asked=patients == "show")
    _note_viewed(request, principal, uid, patient_shown=show)
    shown = _shown(images, image) if principal.may(Permission.IMAGES_READ) else None
    viewable = [one.sop_instance_uid for one in images if one.has_pixels]
    with context.record.read() as session:
        history = study_details.history(session, uid, [job.id for job in row.jobs])
        said = readings.of_study(session, uid)
        correction = identities.of_study(session, uid)
        earlier_studies = [_fetched(*one) for one in priors.of_study(session, row.id)]
        hidden = bool(blinded.hidden(request, principal, session, [uid]))
    runs = [] if hidden else _runs(context, row, results, said)
    told = line(row, context.settings.web, utcnow(), show_patient=show, show_ai=not hidden)
    return context.pages.render(
        "study.html",
        request,
        principal=principal,
        line=told,
        row=row,
        runs=[run for run in runs if run.job.current],
        earlier=[run for run in runs if not run.job.current],
        correction=correction,
        earlier_studies=earlier_studies,
        mark=news.mark_of(told, row, said, correction),
        images=images,
        shown=shown,
        viewable=viewable,
        at=viewable.index(shown.sop_instance_uid) if shown is not None and shown.sop_instance_uid in viewable else 0,
        overlays=[] if shown is None or hidden else _overlays(context, results, shown),
        viewer=viewer.address(context.settings.web.viewer_url, row, show_patient=show),
        **page_values(said, principal, hidden=hidden),
        given_up=any(run.job.state is JobState.PARKED for run in runs) or DeliveryState.DEAD in row.deliveries,
        delivery_words=DELIVERY_WORDS,
        centre=centre,
        width=width,
        history=_happened([one for one in history if not hidden or one[1] not in blinded.TELLING]),
    )


def show_report(request: Request, principal: PatientReader, uid: str, sop: str) -> Response:
    """A structured report as text."""
    context = context_of(request)
    _check(sop)
    _, _, results = _load(context, uid)
    blinded.require_shown(request, principal, uid)
    lines: list[ReportLine] = report_lines(context.settings.data_dir / _result(results, sop, _REPORT).path)
    with context.record.write() as session:
        audit.note(
            session,
            "report_viewed",
            actor=principal.actor,
            subject=sop,
            study=uid,
            address=client_of(request).address,
        )
    return context.pages.render("report.html", request, principal=principal, uid=uid, sop=sop, lines=lines)


def picture(
    request: Request,
    principal: Looker,
    *,
    uid: str,
    sop: str,
    centre: Level = None,
    width: Width = None,
    side: Side = 1536,
) -> Response:
    """A received image as PNG, under its own window or the one asked for."""
    context = context_of(request)
    _check(uid, sop)
    with context.record.read() as session:
        path = study_details.stored_file(session, uid, sop)
    if path is None:
        raise Problem(404, "no such image was received, or it is set aside")
    _note_viewed(request, principal, uid, image=sop)
    return _png(context.pictures.make("grey", context.settings.data_dir / path, side, centre, width))


def map_picture(request: Request, principal: Looker, uid: str, sop: str) -> Response:
    """The map of a result, cut to the image it was drawn on."""
    context = context_of(request)
    _check(sop)
    blinded.require_shown(request, principal, uid)
    _, images, results = _load(context, uid)
    path = context.settings.data_dir / _result(results, sop, _PICTURE).path
    drawn = drawn_on(path)
    source = next((one for one in images if one.sop_instance_uid == drawn.source_uid), None)
    if source is None:
        raise Problem(404, "the image it was drawn on is not here")
    return _png(context.pictures.make("map", path, source.rows, source.columns))


def get_study(request: Request, principal: Reader, uid: str, patients: Shown = "") -> StudyDetailAnswer:
    """One study with its runs, findings, reasons, results and deliveries."""
    context = context_of(request)
    row, images, results = _load(context, uid)
    show = may_show(request, principal, asked=patients == "show")
    _note_viewed(request, principal, uid, patient_shown=show)
    with context.record.read() as session:
        hidden = bool(blinded.hidden(request, principal, session, [uid]))
    told = as_answer(line(row, context.settings.web, utcnow(), show_patient=show, show_ai=not hidden))
    return StudyDetailAnswer(
        **told,
        runs=[] if hidden else [_run_answer(run) for run in _runs(context, row, results, [])],
        instances=[
            InstanceAnswer(
                sop_instance_uid=one.sop_instance_uid,
                series_instance_uid=one.series_instance_uid,
                modality=one.modality,
                state=one.state.value,
                reason=one.reason,
                received_at=one.received_at,
            )
            for one in images
        ],
    )


def _run_answer(run: Run) -> RunAnswer:
    job = run.job
    return RunAnswer(
        job=job.id,
        model=job.model,
        model_version=job.model_version,
        current=job.current,
        state=job.state.value,
        reason=job.reason,
        priority=job.priority,
        revision=job.revision,
        finished_at=job.finished_at,
        images=worklist.images(job),
        results=[
            ResultAnswer(
                kind=result.kind,
                sop_instance_uid=result.sop_instance_uid,
                deliveries=[
                    DeliveryAnswer(destination=one.destination, state=one.state.value, reason=one.reason)
                    for one in result.deliveries
                ],
            )
            for result in run.results
        ],
    )


def _runs(context: Context, row: StudyRow, results: list[ResultView], said: list[ReadingView]) -> list[Run]:
    with context.record.read() as session:
        cards = desk().cards(context.settings, model_versions.versions(session))

    def point(job: JobView, label: str) -> Point | None:
        return point_of(cards, job.model, job.model_version, label)

    return [
        Run(
            job,
            judged(job, said, point),
            _refused(job),
            [result for result in results if result.job_id == job.id],
        )
        for job in sorted(row.jobs, key=lambda job: job.created_at, reverse=True)
    ]


def _fetched(state: PriorState, reason: str) -> str:
    """What became of a question for prior studies."""
    return f"{_PRIOR_WORDS[state]}, {reason}" if reason else _PRIOR_WORDS[state]


def _refused(job: JobView) -> list[tuple[str, str]]:
    """(image, why it was not analysed); without an image where the job as a whole says why."""
    refused = [one for one in worklist.images(job) if not one.get("analysed")]
    if not refused and job.state in {JobState.PARKED, JobState.NOT_ANALYSED}:
        return [("", job.reason)]
    return [(str(one.get("sop_instance_uid", "")), str(one.get("reason", ""))) for one in refused]


def _shown(images: list[ImageView], wanted: str) -> ImageView | None:
    """The image asked for; where it is not here, the first that has pixels."""
    asked = (one for one in images if one.sop_instance_uid == wanted)
    return next(asked, None) or next((one for one in images if one.has_pixels), None)


def _overlays(context: Context, results: list[ResultView], shown: ImageView) -> list[Overlay]:
    """The maps that were drawn on the image shown. Of one whose file cannot be read that much is said."""
    found = []
    for result in results:
        if result.kind != _PICTURE or result.deleted_at is not None:
            continue
        try:
            drawn = drawn_on(context.settings.data_dir / result.path)
        except UnreadableError:
            found.append(Overlay("", "A map's file cannot be read; see `radnode doctor`."))
            continue
        if drawn.source_uid == shown.sop_instance_uid:
            found.append(Overlay(result.sop_instance_uid, drawn.description))
    return found


def _load(context: Context, uid: str) -> tuple[StudyRow, list[ImageView], list[ResultView]]:
    _check(uid)
    with context.record.read() as session:
        row = worklist.study(session, uid)
        if row is None:
            raise Problem(404, "no study of that UID was received")
        return row, study_details.study_images(session, row.id), study_details.study_results(session, row.id)


def _result(results: list[ResultView], sop: str, kind: str) -> ResultView:
    found = next((one for one in results if one.sop_instance_uid == sop and one.kind == kind), None)
    if found is None:
        raise Problem(404, "this study has no such result")
    if found.deleted_at is not None:
        raise Problem(410, "this result was deleted here; what was sent is where it was sent to")
    return found


def _check(*uids: str) -> None:
    if not all(valid_uid(uid) for uid in uids):
        raise Problem(404, "that is no UID")


def _note_viewed(request: Request, principal: Principal, uid: str, **detail: Any) -> None:
    with context_of(request).record.write() as session:
        audit.note(
            session,
            "study_viewed",
            actor=principal.actor,
            subject=uid,
            address=client_of(request).address,
            **detail,
        )


def _happened(history: list[tuple[datetime, str, str, str]]) -> list[Happened]:
    """The timeline; the same by the same person several times in a row is one line."""
    lines: list[Happened] = []
    for at, event, outcome, actor in history:
        last = lines[-1] if lines else None
        if last is not None and (last.event, last.outcome, last.actor) == (event, outcome, actor):
            lines[-1] = replace(last, times=last.times + 1)
        else:
            lines.append(Happened(at, event, outcome, actor))
    return lines


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png")
