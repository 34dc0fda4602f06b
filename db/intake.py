"""Taking an instance into the record: one transaction, after its bytes are durable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.orm import Session

from db import audit
from db.domain import Intake, NewInstance, NewRefusal
from db.errors import StudyGoing
from db.intake_statements import (
    DIGESTS,
    INSERT,
    INSTANCES,
    IS_LEAVING,
    KNOWN,
    PLACES,
    SERIES,
    STUDIES,
    TOUCH,
)
from db.prepared import numbered
from db.retention import aside_bytes, is_going, leaving_quarantine
from db.states import InstanceState, RefusalKind, StudyState
from db.tables import Refusal, Series, Study
from db.transitions import affected, insert_or_ignore
from db.types import utcnow

# Of the columns; a date has eight.
_DATE_CHARACTERS = 16
# A promise of more images than a 32-bit column holds is no promise.
_MOST_EXPECTED = 2**31 - 1

# What a study that was deleted and comes again keeps: its row, and how often it has changed.
_STAYS = {"study_instance_uid", "version"}


class _Digests(NamedTuple):
    """Of an instance on record; "" where that one was not taken."""

    blake3: str
    sha256: str

    def are_of(self, other: NewInstance) -> bool:
        """By what both have; where they have nothing in common, nobody knows, and it is not taken for the same."""
        if self.blake3 and other.blake3:
            return self.blake3 == other.blake3
        return bool(self.sha256) and self.sha256 == other.sha256


def record_instance(session: Session, new: NewInstance) -> Intake:
    """`record_instances` of one, in a session's transaction."""
    return record_instances(session.connection(), [new])[0]


def record_instances(
    connection: Connection, arrived: Sequence[NewInstance], *, most_aside_bytes: int | None = None
) -> list[Intake]:
    """Insert studies, series and instances as needed; idempotent. One outcome for each, in their order.

    A second arrival with the same bytes is a DUPLICATE, with other bytes a CONFLICT; neither changes what is there.
    An instance whose Patient ID differs from its study's is kept QUARANTINED: two patients under one Study Instance
    UID must never meet in one result. Where more than `most_aside_bytes` would then lie in quarantine it is NO_ROOM,
    and nothing of it is kept. While files of its study, or its own in quarantine, are being deleted it is GOING.

    How many statements it takes does not depend on how many arrive. Rows are written in the order of their UIDs, so
    that two groups at once wait for each other and never in a circle. Raises StudyGoing where a deletion began between
    two of the statements: then nothing of the group is recorded.
    """
    uids = {one.sop_instance_uid for one in arrived}
    known: dict[str, _Digests] = {}
    own: set[str] = set()
    for uid, blake3, sha256 in KNOWN.rows(connection, numbered("uid", list(uids)), len(uids)):
        if blake3 or sha256:
            known[uid] = _Digests(blake3, sha256)
        else:
            own.add(uid)
    # The first of several with one UID stands for it.
    candidates = {one.sop_instance_uid: one for one in reversed(arrived) if one.sop_instance_uid not in known}
    ordered = [_storable(candidates[uid], own_result=uid in own) for uid in sorted(candidates)]
    written = _insert(connection, ordered, most_aside_bytes) if ordered else _Written(set(), {})
    if len(known) + len(written.taken) + len(written.refused) < len(uids):
        # PostgreSQL: another group committed one of them between our look and our insert.
        found = DIGESTS.rows(connection, numbered("uid", list(uids)), len(uids))
        known = {uid: _Digests(blake3, sha256) for uid, blake3, sha256 in found}
    outcomes = []
    for one in arrived:
        uid = one.sop_instance_uid
        if uid in written.refused:
            outcomes.append(written.refused[uid])
        elif uid in written.taken and candidates[uid] is one:
            outcomes.append(Intake.NEW)
        else:
            digests = known.get(uid) or _Digests(candidates[uid].blake3, candidates[uid].sha256)
            outcomes.append(Intake.DUPLICATE if digests.are_of(one) else Intake.CONFLICT)
    return outcomes


def sha256_of_earlier(session: Session, sop_instance_uid: str) -> str:
    """The SHA-256 by which alone an instance is on record, as releases before BLAKE3 took it; "" for all others."""
    query = select(INSTANCES.c.sha256).where(INSTANCES.c.sop_instance_uid == sop_instance_uid, INSTANCES.c.blake3 == "")
    return session.scalar(query) or ""


def record_refusal(
    session: Session, kind: RefusalKind, new: NewRefusal, *, take_row: Callable[[], bool] = lambda: True
) -> bool:
    """Note what was not taken. The same one again counts up instead of adding a row.

    take_row: asked, of one that is new, whether the audit may have a row for it. Returns False where it may not: then
    the caller owes it to the audit's count, once this is committed.

    Raises StudyGoing where an earlier file of the same name is being deleted: the new one would go with it.
    """
    if new.path and is_going(session, new.path):
        raise StudyGoing("an object like it is being deleted; send it again in a minute")
    same = (
        Refusal.kind == kind,
        Refusal.sop_instance_uid == new.sop_instance_uid,
        Refusal.sop_class_uid == new.sop_class_uid,
        Refusal.calling_ae == new.calling_ae,
        Refusal.reason == new.reason,
        Refusal.blake3 == new.blake3,
        Refusal.sha256 == new.sha256,
    )
    again = update(Refusal).where(*same).values(occurrences=Refusal.occurrences + 1, at=utcnow())
    if affected(session, again):
        if new.path:
            here = {"path": new.path, "size_bytes": new.size_bytes}
            affected(session, update(Refusal).where(*same, Refusal.path == "").values(**here))
            # The update has waited for a deletion that began meanwhile.
            if is_going(session, new.path):
                raise StudyGoing("an object like it is being deleted; send it again in a minute")
        return True
    session.add(
        Refusal(
            kind=kind,
            at=utcnow(),
            sop_instance_uid=new.sop_instance_uid,
            sop_class_uid=new.sop_class_uid,
            study_instance_uid=new.study_instance_uid,
            status=new.status,
            reason=new.reason,
            calling_ae=new.calling_ae,
            peer_address=new.peer_address,
            path=new.path,
            blake3=new.blake3,
            sha256=new.sha256,
            size_bytes=new.size_bytes,
        )
    )
    if not take_row():
        return False
    audit.note(
        session,
        "instance_refused",
        actor=new.calling_ae,
        subject=new.sop_instance_uid,
        outcome="failure",
        kind=kind.value,
        status=new.status,
        study=new.study_instance_uid,
        address=new.peer_address,
        attempts=1,
    )
    return True


def _storable(new: NewInstance, *, own_result: bool) -> NewInstance:
    """What a peer's header says, made fit for both databases: PostgreSQL takes no NUL and no number beyond 32 bits."""
    expected = new.expected_instances
    if expected is not None and not 0 <= expected <= _MOST_EXPECTED:
        expected = None
    return replace(
        new,
        own_result=new.own_result or own_result,
        expected_instances=expected,
        patient_id=_text(new.patient_id),
        patient_name=_text(new.patient_name),
        patient_birth_date=_text(new.patient_birth_date)[:_DATE_CHARACTERS],
        study_date=_text(new.study_date)[:_DATE_CHARACTERS],
        accession_number=_text(new.accession_number),
        study_description=_text(new.study_description),
        modality=_text(new.modality),
        series_description=_text(new.series_description),
    )


def _text(value: str) -> str:
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class _Places:
    """Rows that instances belong to: studies (row id, Patient ID) by UID, series by study's row id and UID.

    going, gone: UIDs of studies that are being deleted, and of those that were.
    """

    studies: dict[str, tuple[int, str]]
    series: dict[tuple[int, str], int]
    going: set[str]
    gone: set[str]


@dataclass(frozen=True)
class _Written:
    """SOP Instance UIDs: those that nobody else had written meanwhile, and those that were not to be."""

    taken: set[str]
    refused: dict[str, Intake]


def _insert(connection: Connection, arrived: list[NewInstance], most_aside_bytes: int | None) -> _Written:
    """Write instances with what they belong to."""
    places = _find_places(connection, arrived)
    # A new study has nothing in quarantine; in one that is known an image may just be on its way out, by its very name.
    leaving: set[str] = set()
    if places.studies and IS_LEAVING.rows(connection, {}):
        leaving = {path for paths in connection.scalars(leaving_quarantine()) for path in paths}
    refused = {
        one.sop_instance_uid: Intake.GOING
        for one in arrived
        if one.study_instance_uid in places.going or one.path in leaving
    }
    ordered = [one for one in arrived if one.sop_instance_uid not in refused]
    if most_aside_bytes is not None:
        crowded = _beyond_quarantine(connection, ordered, places, most_aside_bytes)
        refused |= dict.fromkeys(crowded, Intake.NO_ROOM)
        ordered = [one for one in ordered if one.sop_instance_uid not in crowded]
    if not ordered:
        return _Written(set(), refused)
    places, opened_studies, opened_series = _make_places(connection, ordered, places)
    rows = [_instance_row(one, places) for one in ordered]
    values = {f"{name}{number}": value for number, row in enumerate(rows) for name, value in row.items()}
    taken = {row[0] for row in INSERT.rows(connection, values, len(rows))}
    touched = _touch(connection, [one for one in ordered if one.sop_instance_uid in taken], places)
    if len(taken) < len(ordered):
        # Neither a study nor a series must stay behind empty.
        kept = {row["series_id"] for row in rows if row["sop_instance_uid"] in taken}
        connection.execute(delete(SERIES).where(SERIES.c.id.in_(opened_series - kept)))
        connection.execute(delete(STUDIES).where(STUDIES.c.id.in_(opened_studies - touched)))
    quarantined = [r for r in rows if r["state"] is InstanceState.QUARANTINED and r["sop_instance_uid"] in taken]
    if quarantined:
        with Session(connection, join_transaction_mode="create_savepoint") as session, session.begin():
            for row in quarantined:
                audit.note(
                    session,
                    "patient_mismatch",
                    actor=row["calling_ae"],
                    subject=row["sop_instance_uid"],
                    outcome="warning",
                )
    return _Written(taken, refused)


def _beyond_quarantine(
    connection: Connection, ordered: list[NewInstance], places: _Places, most_bytes: int
) -> set[str]:
    """The instances of another patient than their study's for which quarantine has no room left."""
    patients = {uid: patient_id for uid, (_, patient_id) in places.studies.items() if uid not in places.gone}
    foreign = [one for one in ordered if patients.get(one.study_instance_uid, one.patient_id) != one.patient_id]
    if not foreign:
        return set()
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        lies = aside_bytes(session)
    beyond = set()
    for one in foreign:
        if lies + one.size_bytes > most_bytes:
            beyond.add(one.sop_instance_uid)
        else:
            lies += one.size_bytes
    return beyond


def _make_places(
    connection: Connection, ordered: list[NewInstance], places: _Places
) -> tuple[_Places, set[int], set[int]]:
    """Where the instances belong, and the row ids of the studies and of the series that this call made."""
    by_study = {one.study_instance_uid: one for one in reversed(ordered)}
    opened_studies: set[int] = set()
    deleted = sorted(places.gone & by_study.keys())
    if deleted:
        # Of what was deleted only UIDs are left: whose it is, the new image says.
        for uid in deleted:
            anew = {key: value for key, value in _study_row(by_study[uid]).items() if key not in _STAYS}
            here = (STUDIES.c.study_instance_uid == uid) & (STUDIES.c.state == StudyState.DELETED)
            connection.execute(update(STUDIES).where(here).values(**anew))
        places = _find_places(connection, ordered)
    missing = [by_study[uid] for uid in sorted(by_study) if uid not in places.studies]
    if missing:
        statement = insert_or_ignore(connection, Study).returning(STUDIES.c.id)
        opened_studies = set(connection.scalars(statement, [_study_row(one) for one in missing]))
        places = _find_places(connection, ordered)
    by_series = {(places.studies[one.study_instance_uid][0], one.series_instance_uid): one for one in reversed(ordered)}
    absent = [key for key in sorted(by_series) if key not in places.series]
    if not absent:
        return places, opened_studies, set()
    rows = [
        {
            "study_id": study_id,
            "series_instance_uid": uid,
            "modality": by_series[study_id, uid].modality,
            "series_description": by_series[study_id, uid].series_description,
        }
        for study_id, uid in absent
    ]
    opened_series = set(connection.scalars(insert_or_ignore(connection, Series).returning(SERIES.c.id), rows))
    return _find_places(connection, ordered), opened_studies, opened_series


def _find_places(connection: Connection, ordered: list[NewInstance]) -> _Places:
    wanted = numbered("study_uid", [one.study_instance_uid for one in ordered])
    wanted |= numbered("series_uid", [one.series_instance_uid for one in ordered])
    found = _Places({}, {}, set(), set())
    rows = PLACES.rows(connection, wanted, len(ordered))
    for study_uid, study_id, patient_id, state, series_uid, series_id in rows:
        found.studies[study_uid] = study_id, patient_id
        if state == StudyState.DELETING:
            found.going.add(study_uid)
        elif state == StudyState.DELETED:
            found.gone.add(study_uid)
        if series_id is not None:
            found.series[study_id, series_uid] = series_id
    return found


def _touch(connection: Connection, taken: list[NewInstance], places: _Places) -> set[int]:
    """The studies have news: whoever was deciding on one must look again, and a late image reopens it."""
    news: dict[int, list[NewInstance]] = {}
    for one in taken:
        news.setdefault(places.studies[one.study_instance_uid][0], []).append(one)
    changes = [
        {
            "study_id": study_id,
            "more": len(images),
            "received_at": max(image.received_at for image in images),
            "promised": next(
                (i.expected_instances for i in reversed(images) if i.expected_instances is not None), None
            ),
        }
        for study_id, images in sorted(news.items())
    ]
    if changes and TOUCH.change(connection, changes) != len(changes):
        # PostgreSQL: the deletion was committed between our look and now.
        raise StudyGoing("a study of these images is being deleted; send them again in a minute")
    return set(news)


def _study_row(new: NewInstance) -> dict[str, Any]:
    return {
        "study_instance_uid": new.study_instance_uid,
        "state": StudyState.RECEIVING,
        "version": 0,
        "first_received_at": new.received_at,
        "last_received_at": new.received_at,
        "check_at": new.received_at,
        "completeness_reason": "",
        "calling_ae": new.calling_ae,
        "patient_id": new.patient_id,
        "patient_name": new.patient_name,
        "patient_birth_date": new.patient_birth_date,
        "study_date": new.study_date,
        "accession_number": new.accession_number,
        "study_description": new.study_description,
        "expected_instances": new.expected_instances,
    }


def _instance_row(new: NewInstance, places: _Places) -> dict[str, Any]:
    study_id, patient_id = places.studies[new.study_instance_uid]
    mismatch = patient_id != new.patient_id
    return {
        "study_id": study_id,
        "series_id": places.series[study_id, new.series_instance_uid],
        "sop_instance_uid": new.sop_instance_uid,
        "sop_class_uid": new.sop_class_uid,
        "transfer_syntax_uid": new.transfer_syntax_uid,
        "state": InstanceState.QUARANTINED if mismatch else InstanceState.RECEIVED,
        "reason": "its Patient ID differs from that of its study" if mismatch else "",
        "path": new.path,
        "size_bytes": new.size_bytes,
        "blake3": new.blake3,
        "sha256": new.sha256,
        "facts": new.facts,
        "own_result": new.own_result,
        "calling_ae": new.calling_ae,
        "called_ae": new.called_ae,
        "peer_address": new.peer_address,
        "received_at": new.received_at,
    }
