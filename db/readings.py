"""What readers say of a model's findings: each verdict, and each that is taken back, is a row of its own.

Nothing is changed or deleted; what holds now is what nobody has taken back, the latest of each reader and finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from db import audit
from db.reader_tables import Reading
from db.transitions import insert_ignore
from db.types import utcnow

VERDICTS = ("accept", "reject", "uncertain")
FIRST_READINGS = ("finding", "no-finding", "unsure")
UNDO = "undo"
REASONS = ("not-there", "missed", "wrong-place", "artefact", "image-quality", "known", "other")
LATERALITIES = ("left", "right", "both")
LONGEST_COMMENT = 1000
# Of one study, and of one model version: whatever is older is not counted, and the page says so.
MOST_OF_A_STUDY = 500
MOST_JUDGED = 1000


@dataclass(frozen=True)
class NewReading:
    """A verdict on one finding. presence: what the model said of it. comment: may name a patient."""

    study_instance_uid: str
    job_id: str
    model: str
    model_version: str
    sop_instance_uid: str
    label: str
    presence: str
    verdict: str
    reason: str = ""
    laterality: str = ""
    comment: str = ""


@dataclass(frozen=True)
class ReadingView:
    """A row. undone: somebody has taken it back."""

    id: int
    at: datetime
    study_instance_uid: str
    job_id: str
    model: str
    model_version: str
    sop_instance_uid: str
    label: str
    presence: str
    verdict: str
    reason: str
    laterality: str
    comment: str
    reader: str
    undoes_id: int | None
    undone: bool = False


@dataclass(frozen=True)
class Agreement:
    """How readers judged one label of a model version, split by what the model had said of it."""

    label: str
    presence: str
    accepted: int
    rejected: int
    uncertain: int


def add(session: Session, new: NewReading, *, reader: str) -> int:
    """Write a verdict down; returns its id. The audit says which finding and verdict, never the comment."""
    row = Reading(**vars(new), at=utcnow(), reader=audit.clean(reader, 128))
    session.add(row)
    session.flush()
    audit.note(
        session,
        "finding_judged",
        actor=reader,
        subject=new.study_instance_uid,
        job=new.job_id,
        image=new.sop_instance_uid,
        label=new.label,
        verdict=new.verdict,
        reason=new.reason,
        laterality=new.laterality,
        commented=bool(new.comment),
    )
    return row.id


def add_first(session: Session, study_instance_uid: str, verdict: str, *, comment: str = "", reader: str) -> int:
    """A reading made before the models' results were shown. It cannot be taken back: they are shown from then on."""
    row = Reading(
        at=utcnow(),
        study_instance_uid=study_instance_uid,
        verdict=verdict,
        comment=comment,
        reader=audit.clean(reader, 128),
    )
    session.add(row)
    session.flush()
    audit.note(
        session, "first_read", actor=reader, subject=study_instance_uid, verdict=verdict, commented=bool(comment)
    )
    return row.id


def undo(session: Session, study_instance_uid: str, *, reader: str) -> ReadingView | None:
    """Take back the reader's own latest verdict on a study; None where there is none left, or another was first."""
    last = next((one for one in reversed(of_study(session, study_instance_uid)) if _undoable(one, reader)), None)
    if last is None:
        return None
    values = {
        name: getattr(last, name)
        for name in ("study_instance_uid", "job_id", "model", "model_version", "sop_instance_uid", "label", "presence")
    }
    taken = insert_ignore(
        session, Reading, **values, at=utcnow(), verdict=UNDO, reader=last.reader, undoes_id=last.id,
        reason="", laterality="", comment="",
    )  # fmt: skip
    if not taken:
        return None
    audit.note(
        session,
        "judgement_undone",
        actor=reader,
        subject=study_instance_uid,
        job=last.job_id,
        image=last.sop_instance_uid,
        label=last.label,
        verdict=last.verdict,
    )
    return last


def _undoable(one: ReadingView, reader: str) -> bool:
    return one.verdict in VERDICTS and not one.undone and one.reader == reader


def of_study(session: Session, study_instance_uid: str) -> list[ReadingView]:
    """The latest `MOST_OF_A_STUDY` rows of a study, oldest first; verdicts, what was taken back, first readings."""
    query = (
        select(Reading)
        .where(Reading.study_instance_uid == study_instance_uid)
        .order_by(Reading.id.desc())
        .limit(MOST_OF_A_STUDY)
    )
    rows = list(session.scalars(query))
    undone = {row.undoes_id for row in rows}
    return [_view(row, undone=row.id in undone) for row in reversed(rows)]


def in_force(listed: Sequence[ReadingView]) -> list[ReadingView]:
    """Of a study's rows: each reader's latest verdict on each finding that nobody took back, oldest first."""
    latest: dict[tuple[str, str, str, str], ReadingView] = {}
    for one in listed:
        if one.verdict in VERDICTS and not one.undone:
            latest[(one.reader, one.job_id, one.sop_instance_uid, one.label)] = one
    return sorted(latest.values(), key=lambda one: one.id)


def read_first(session: Session, study_instance_uids: Iterable[str]) -> frozenset[str]:
    """Which of these studies somebody has read before seeing what the models say."""
    query = select(Reading.study_instance_uid).where(
        Reading.study_instance_uid.in_(list(study_instance_uids)), Reading.verdict.in_(FIRST_READINGS)
    )
    return frozenset(session.scalars(query.distinct()))


def agreement(session: Session, model: str, model_version: str) -> list[Agreement]:
    """By label and by what the model had said, over the latest `MOST_JUDGED` rows of that version.

    Of each reader and finding the latest verdict counts that was not taken back.
    """
    taken_back = aliased(Reading)
    # Columns, not rows: a thousand rows as objects take longer than the database does.
    query = (
        select(
            *(Reading.reader, Reading.job_id, Reading.sop_instance_uid, Reading.label),
            *(Reading.presence, Reading.verdict),
        )
        .outerjoin(taken_back, taken_back.undoes_id == Reading.id)
        .where(Reading.model == model, Reading.model_version == model_version, taken_back.id.is_(None))
        .order_by(Reading.id.desc())
        .limit(MOST_JUDGED)
    )
    latest: dict[tuple[str, ...], tuple[str, str, str]] = {}
    for *finding, presence, verdict in session.execute(query):
        if verdict in VERDICTS:
            latest.setdefault(tuple(finding), (str(finding[-1]), presence, verdict))
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for label, presence, verdict in latest.values():
        counts.setdefault((label, presence), dict.fromkeys(VERDICTS, 0))[verdict] += 1
    return [
        Agreement(label, presence, *(by_verdict[verdict] for verdict in VERDICTS))
        for (label, presence), by_verdict in sorted(counts.items())
    ]


def _view(row: Reading, *, undone: bool) -> ReadingView:
    values = {name: getattr(row, name) for name in ReadingView.__dataclass_fields__ if name != "undone"}
    return ReadingView(**values, undone=undone)
