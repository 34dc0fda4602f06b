"""What peers tell of studies that are done: IAN, MPPS and requests for storage commitment.

A notice only hastens: where every instance it names is here the study need not be quiet any longer. A study of which
it names more than is here waits as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from db import audit
from db.order_tables import Notice
from db.states import NoticeKind, NoticeState, StudyState
from db.tables import Instance, Study
from db.transitions import affected, insert_ignore, move
from db.types import utcnow

# Databases bound how many values one statement takes.
_AT_ONCE = 500
KEPT = timedelta(days=7)
"""A notice on a study whose images have not come by then is forgotten."""


def record(
    session: Session,
    kind: NoticeKind,
    uid: str,
    study_uids: Sequence[str],
    *,
    state: NoticeState,
    instances: Iterable[str] = (),
    calling_ae: str,
) -> bool:
    """Note what a peer tells, for each study it names. False where a notice of that kind and UID is known already."""
    now = utcnow()
    _forget(session, now)
    if session.scalar(select(Notice.id).where(Notice.kind == kind, Notice.uid == uid).limit(1)) is not None:
        return False
    named = sorted(set(instances))
    added = [
        insert_ignore(
            session,
            Notice,
            kind=kind,
            uid=uid,
            study_instance_uid=study_uid,
            state=state,
            instances=named,
            calling_ae=calling_ae,
            received_at=now,
            changed_at=now,
        )
        for study_uid in sorted(set(study_uids))
    ]
    if not any(added):
        return False
    _wake(session, study_uids)
    for study_uid in sorted(set(study_uids)):
        audit.note(
            session,
            "notice_received",
            actor=calling_ae,
            subject=study_uid,
            kind=kind.value,
            state=state.value,
            instances=len(named),
        )
    return True


def change_step(session: Session, uid: str, state: NoticeState, instances: Iterable[str]) -> NoticeState | None:
    """What an N-SET says of a performed procedure step: more instances, and whether it has ended.

    Gives the state that the step was in before; None where no step has that UID. One that has ended is not changed.
    """
    mine = [Notice.kind == NoticeKind.MPPS, Notice.uid == uid]
    steps = session.scalars(select(Notice).where(*mine).order_by(Notice.id)).all()
    if not steps:
        return None
    before = steps[0].state
    if before is not NoticeState.IN_PROGRESS:
        return before
    named = sorted({*steps[0].instances, *instances})
    values = {"instances": named, "changed_at": utcnow()}
    if state is NoticeState.IN_PROGRESS:
        affected(session, update(Notice).where(*mine, Notice.state == before).values(**values))
        return before
    if not move(session, Notice, mine, before, state, **values):
        return state
    studies = [step.study_instance_uid for step in steps]
    _wake(session, studies)
    for study_uid in studies:
        audit.note(
            session,
            "notice_received",
            actor=steps[0].calling_ae,
            subject=study_uid,
            kind=NoticeKind.MPPS.value,
            state=state.value,
            instances=len(named),
        )
    return before


def announced(session: Session, study_instance_uid: str) -> str:
    """The kinds of the notices that tell of a study, once no step is under way and all they name is here; else ""."""
    told = session.scalars(select(Notice).where(Notice.study_instance_uid == study_instance_uid)).all()
    if any(one.state is NoticeState.IN_PROGRESS for one in told):
        return ""
    done = [one for one in told if one.state is NoticeState.COMPLETED]
    named = sorted({uid for one in done for uid in one.instances})
    if not named or held_count(session, named) < len(named):
        return ""
    return " and ".join(sorted({one.kind.value for one in done if one.instances}))


def held_count(session: Session, sop_instance_uids: Sequence[str]) -> int:
    """How many of these instances were received, in whatever study."""
    return sum(
        session.scalar(
            select(func.count())
            .select_from(Instance)
            .where(Instance.sop_instance_uid.in_(sop_instance_uids[start : start + _AT_ONCE]))
        )
        or 0
        for start in range(0, len(sop_instance_uids), _AT_ONCE)
    )


def _wake(session: Session, study_uids: Sequence[str]) -> None:
    """Whoever is judging one of the studies now must look again."""
    affected(
        session,
        update(Study)
        .where(Study.study_instance_uid.in_(study_uids), Study.state == StudyState.RECEIVING)
        .values(version=Study.version + 1, check_at=utcnow()),
    )


def _forget(session: Session, now: datetime) -> None:
    old = select(Notice.id).where(Notice.changed_at < now - KEPT).order_by(Notice.changed_at).limit(_AT_ONCE)
    ids = list(session.scalars(old))
    if ids:
        session.execute(delete(Notice).where(Notice.id.in_(ids)))
