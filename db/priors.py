"""Prior studies that models want beside a study: asked for once for each kind, waited for, fetched, and let go.

A job that finds its study's priors WANTED is handed back and waits; whoever fetches them settles the question, which
wakes the study's jobs. When the wait is over it is settled as FAILED by whoever looks first, and what comes later goes
nowhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from db import audit, identities, jobs, outbox
from db.audit_events import Event, Outcome
from db.domain import ClaimedJob
from db.prior_tables import PriorImage, PriorMove, PriorRequest
from db.states import JobState, PriorState
from db.studies import topic_for
from db.tables import Instance, Job, RevisionInstance, Study
from db.transitions import affected, insert_ignore, move
from db.types import utcnow

WAITING = "waits for prior studies"
NOT_IN_TIME = "prior studies did not come in time"
# A question that was answered is asked again by a job that begins so long after: re-reading asks anew.
_AGAIN_AFTER = timedelta(minutes=10)
# For so long what a peer sends after its time is known for a prior that came late.
_KNOWN_FOR = timedelta(minutes=10)
_ANSWERED = (PriorState.ABSENT, PriorState.REFUSED, PriorState.FAILED)
_ENDED = (JobState.DONE, JobState.NOT_ANALYSED, JobState.SUPERSEDED, JobState.PARKED)
_EVENTS: dict[PriorState, tuple[Event, Outcome]] = {
    PriorState.FOUND: ("priors_fetched", "success"),
    PriorState.ABSENT: ("priors_absent", "success"),
    PriorState.REFUSED: ("priors_refused", "warning"),
    PriorState.FAILED: ("priors_absent", "warning"),
}


@dataclass(frozen=True)
class Wish:
    """What a model wants to compare with. most: studies. modalities, body_parts: any of these; () for any.

    within_days: before the study's own day.
    """

    most: int
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    within_days: int = 0

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PriorFile:
    """An image of a prior study. path: relative to the data folder. study_date: YYYYMMDD."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    study_date: str
    path: str
    size_bytes: int
    blake3: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What there is for a job. reason: for people; names no patient. wait_until: of WANTED, when the wait ends."""

    state: PriorState
    reason: str
    images: tuple[PriorFile, ...] = ()
    wait_until: datetime | None = None


@dataclass(frozen=True)
class DuePriors:
    """A question to be asked. sample: an image of the study, relative to the data folder. correction: the patient as
    known today, where that was changed since.
    """

    id: int
    study_instance_uid: str
    wish: Wish
    sample: str
    correction: identities.Correction | None
    attempts: int
    wait_until: datetime


def ask(session: Session, job: ClaimedJob, wish: Wish, *, wait_s: float) -> Answer:
    """What there is of a job's priors; asks for them where nobody has. WANTED: the job is to wait."""
    now = utcnow()
    study_id = session.scalars(select(Job.study_id).where(Job.id == job.id)).one()
    until = now + timedelta(seconds=wait_s)
    insert_ignore(
        session,
        PriorRequest,
        study_id=study_id,
        digest=wish.digest,
        wanted=asdict(wish),
        state=PriorState.WANTED,
        reason="",
        attempts=0,
        wanted_at=now,
        wait_until=until,
        next_attempt_at=now,
        changed_at=now,
    )
    # Locked: an answer that is written just now would wake nobody, and the job then wait for what is here.
    request = session.scalars(
        select(PriorRequest)
        .where(PriorRequest.study_id == study_id, PriorRequest.digest == wish.digest)
        .with_for_update()
    ).one()
    _ask_again(session, request, now, until)
    session.refresh(request)
    if request.state is PriorState.WANTED and request.wait_until > now:
        return Answer(PriorState.WANTED, WAITING, wait_until=request.wait_until)
    if request.state is PriorState.WANTED:
        settle(session, request.id, PriorState.FAILED, reason=_too_late(request.reason))
        session.refresh(request)
    found = _images(session, request.id) if request.state is PriorState.FOUND else ()
    return Answer(request.state, request.reason, found)


def _too_late(reason: str) -> str:
    return f"{NOT_IN_TIME}: {reason}" if reason else NOT_IN_TIME


def _ask_again(session: Session, request: PriorRequest, now: datetime, until: datetime) -> None:
    anew = {
        "attempts": 0, "wanted_at": now, "wait_until": until, "next_attempt_at": now, "changed_at": now, "reason": "",
    }  # fmt: skip
    here = [PriorRequest.id == request.id]
    move(session, PriorRequest, here, PriorState.GONE, PriorState.WANTED, **anew)
    for state in _ANSWERED:
        move(
            session,
            PriorRequest,
            [*here, PriorRequest.changed_at < now - _AGAIN_AFTER],
            state,
            PriorState.WANTED,
            **anew,
        )


def wait(session: Session, job: ClaimedJob, answer: Answer) -> None:
    """Hand a job back until its priors are here or the wait is over; in the transaction of `ask`."""
    left = 0.0 if answer.wait_until is None else (answer.wait_until - utcnow()).total_seconds()
    jobs.hand_back(session, job.id, job.lease_owner, reason=WAITING, delay_s=max(0.0, left), count=False)


def any_due(session: Session, now: datetime) -> bool:
    """Is there anything to claim? Takes no lock."""
    due = select(PriorRequest.id).where(PriorRequest.state == PriorState.WANTED, PriorRequest.next_attempt_at <= now)
    return session.scalar(due.limit(1)) is not None


def claim_due(session: Session, now: datetime, *, lease_s: float) -> DuePriors | None:
    """The question that has waited longest; nobody else's for `lease_s`. None where there is none."""
    found = session.execute(
        select(PriorRequest.id, PriorRequest.next_attempt_at)
        .where(PriorRequest.state == PriorState.WANTED, PriorRequest.next_attempt_at <= now)
        .order_by(PriorRequest.next_attempt_at, PriorRequest.id)
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    mine = update(PriorRequest).where(
        PriorRequest.id == found[0],
        PriorRequest.state == PriorState.WANTED,
        PriorRequest.next_attempt_at == found[1],
    )
    values = {"next_attempt_at": now + timedelta(seconds=lease_s), "attempts": PriorRequest.attempts + 1}
    if not affected(session, mine.values(**values)):
        return None
    request, study = session.execute(
        select(PriorRequest, Study).join(Study, Study.id == PriorRequest.study_id).where(PriorRequest.id == found[0])
    ).one()
    session.refresh(request)
    # Of an image that a job reads: one in quarantine may be another patient's.
    sample = session.scalar(
        select(Instance.path)
        .join(RevisionInstance, RevisionInstance.instance_id == Instance.id)
        .where(Instance.study_id == study.id)
        .order_by(Instance.id)
        .limit(1)
    )
    wanted = request.wanted
    return DuePriors(
        id=request.id,
        study_instance_uid=study.study_instance_uid,
        wish=Wish(wanted["most"], tuple(wanted["modalities"]), tuple(wanted["body_parts"]), wanted["within_days"]),
        sample=sample or "",
        correction=identities.of_study(session, study.study_instance_uid),
        attempts=request.attempts,
        wait_until=request.wait_until,
    )


def settle(
    session: Session, request_id: int, target: PriorState, *, reason: str, images: Sequence[PriorFile] = ()
) -> bool:
    """Write the answer, and wake the study's jobs that wait for it. False where it was answered before: then what was
    fetched is to be thrown away.
    """
    now = utcnow()
    here = [PriorRequest.id == request_id]
    if not move(session, PriorRequest, here, PriorState.WANTED, target, reason=reason, changed_at=now):
        return False
    session.add_all(PriorImage(request_id=request_id, kept=True, received_at=now, **asdict(one)) for one in images)
    _close_moves(session, PriorMove.request_id == request_id, now)
    study = session.scalars(select(Study).join(PriorRequest, PriorRequest.study_id == Study.id).where(*here)).one()
    _wake(session, study.id, now)
    event, outcome = _EVENTS[target]
    priors = sorted({one.study_instance_uid for one in images})
    audit.note(
        session, event, actor="priors", subject=study.study_instance_uid, outcome=outcome, reason=reason,
        studies=len(priors), sop_classes=audit.count_by_class((i.sop_class_uid, i.sop_instance_uid) for i in images),
    )  # fmt: skip
    return True


def _close_moves(session: Session, which: ColumnElement[bool], now: datetime) -> None:
    affected(session, update(PriorMove).where(which, PriorMove.closes_at > now).values(closes_at=now))


def _wake(session: Session, study_id: int, now: datetime) -> None:
    waiting = [Job.study_id == study_id, Job.state == JobState.QUEUED, Job.reason == WAITING]
    for job_id, priority in session.execute(select(Job.id, Job.priority).where(*waiting)).all():
        woken = update(Job).where(Job.id == job_id, Job.state == JobState.QUEUED)
        if affected(session, woken.values(available_at=now, announced_at=now)):
            outbox.announce(session, topic_for(priority), job_id)


def postpone(session: Session, request_id: int, at: datetime, *, reason: str) -> None:
    """The peer could not be asked now."""
    affected(
        session,
        update(PriorRequest)
        .where(PriorRequest.id == request_id, PriorRequest.state == PriorState.WANTED)
        .values(next_attempt_at=at, reason=reason),
    )


def expect(session: Session, request_id: int, study_instance_uid: str, closes_at: datetime) -> None:
    """The peer is about to be asked to send a study to the listener. Forgets what it sends late no more."""
    affected(session, delete(PriorMove).where(PriorMove.closes_at <= utcnow() - _KNOWN_FOR))
    if not insert_ignore(
        session, PriorMove, request_id=request_id, study_instance_uid=study_instance_uid, closes_at=closes_at
    ):
        affected(
            session,
            update(PriorMove)
            .where(PriorMove.request_id == request_id, PriorMove.study_instance_uid == study_instance_uid)
            .values(closes_at=closes_at),
        )


def expected(session: Session, study_instance_uid: str, now: datetime) -> list[int] | None:
    """Requests for which a study is on its way; [] where it comes too late, None where it was not asked for."""
    rows = session.execute(
        select(PriorMove.request_id, PriorMove.closes_at)
        .join(PriorRequest, PriorRequest.id == PriorMove.request_id)
        .where(PriorMove.study_instance_uid == study_instance_uid, PriorMove.closes_at > now - _KNOWN_FOR)
        .order_by(PriorMove.request_id)
    ).all()
    return [request_id for request_id, closes_at in rows if closes_at > now] if rows else None


def hold(session: Session, request_id: int, image: PriorFile, *, most: int) -> bool:
    """What a peer has sent to the listener for a request. False where it is here already, nobody waits any more, or
    `most` images are held.
    """
    waits = session.scalar(
        select(PriorRequest.id)
        .where(PriorRequest.id == request_id, PriorRequest.state == PriorState.WANTED)
        .with_for_update()
    )
    here = select(func.count()).select_from(PriorImage).where(PriorImage.request_id == request_id)
    if waits is None or (session.scalar(here) or 0) >= most:
        return False
    return insert_ignore(session, PriorImage, request_id=request_id, kept=False, received_at=utcnow(), **asdict(image))


def is_held(session: Session, request_id: int, path: str) -> bool:
    """Does that file belong to the request, held or kept?"""
    here = [PriorImage.request_id == request_id, PriorImage.path == path]
    return session.scalar(select(PriorImage.id).where(*here).limit(1)) is not None


def take_held(session: Session, request_id: int, study_instance_uid: str = "") -> tuple[PriorFile, ...]:
    """What the listener holds for a request, all of it or of one study; from then on it is the caller's, who keeps it
    (`settle`) or removes it. In this transaction no more comes.
    """
    session.execute(select(PriorRequest.id).where(PriorRequest.id == request_id).with_for_update())
    held = [PriorImage.request_id == request_id, PriorImage.kept.is_(False)]
    if study_instance_uid:
        held.append(PriorImage.study_instance_uid == study_instance_uid)
    found = tuple(_file(row) for row in session.scalars(select(PriorImage).where(*held).order_by(PriorImage.id)))
    affected(session, delete(PriorImage).where(*held))
    return found


def of_study(session: Session, study_id: int) -> list[tuple[PriorState, str]]:
    """For people: what became of a study's priors, with the reason."""
    query = select(PriorRequest.state, PriorRequest.reason).where(PriorRequest.study_id == study_id)
    return [(state, reason) for state, reason in session.execute(query.order_by(PriorRequest.id))]


def counts(session: Session) -> dict[str, int]:
    """How many requests are in each state."""
    rows = session.execute(select(PriorRequest.state, func.count()).group_by(PriorRequest.state))
    return {state.value: number for state, number in rows}


def due_gone(session: Session, before: datetime, *, limit: int) -> list[int]:
    """Requests whose files have done their work: no job of the study is to be done, nor has one ended since."""
    job = Job.study_id == PriorRequest.study_id
    query = (
        select(PriorRequest.id)
        .where(
            exists().where(PriorImage.request_id == PriorRequest.id),
            PriorRequest.state != PriorState.WANTED,
            PriorRequest.changed_at < before,
            ~exists().where(job, Job.state.not_in(_ENDED)),
            ~exists().where(job, Job.finished_at >= before),
        )
        .order_by(PriorRequest.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def take_out(session: Session, request_ids: Sequence[int]) -> tuple[list[tuple[str, str]], list[str], int]:
    """The images of these requests leave the record: their (SOP Class, SOP Instance) UIDs, paths, and size in bytes."""
    rows = session.scalars(
        select(PriorImage).where(PriorImage.request_id.in_(request_ids)).order_by(PriorImage.id)
    ).all()
    affected(session, delete(PriorImage).where(PriorImage.request_id.in_(request_ids)))
    gone = {"reason": "deleted here after its work", "changed_at": utcnow()}
    move(session, PriorRequest, [PriorRequest.id.in_(request_ids)], PriorState.FOUND, PriorState.GONE, **gone)
    named = [(row.sop_class_uid, row.sop_instance_uid) for row in rows]
    return named, [row.path for row in rows], sum(row.size_bytes for row in rows)


def forget(session: Session, study_id: int) -> tuple[list[tuple[str, str]], list[str], int]:
    """`take_out` of everything that was fetched for a study, whose images go too; nothing more is waited for."""
    mine = [PriorRequest.study_id == study_id]
    why = {"reason": "its study was deleted", "changed_at": utcnow()}
    move(session, PriorRequest, mine, PriorState.WANTED, PriorState.FAILED, **why)
    requests = list(session.scalars(select(PriorRequest.id).where(*mine)))
    _close_moves(session, PriorMove.request_id.in_(requests), utcnow())
    return take_out(session, requests)


def _images(session: Session, request_id: int) -> tuple[PriorFile, ...]:
    rows = session.scalars(
        select(PriorImage)
        .where(PriorImage.request_id == request_id, PriorImage.kept.is_(True))
        .order_by(PriorImage.study_date.desc(), PriorImage.study_instance_uid, PriorImage.id)
    )
    return tuple(_file(row) for row in rows)


def _file(row: PriorImage) -> PriorFile:
    return PriorFile(
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        study_date=row.study_date,
        path=row.path,
        size_bytes=row.size_bytes,
        blake3=row.blake3,
        facts=row.facts,
    )
