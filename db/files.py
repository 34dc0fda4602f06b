"""Which files the record names, for whoever compares it with the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Select, literal, select
from sqlalchemy.orm import Session

from db.house_tables import Deletion
from db.states import DeletionState
from db.tables import Delivery, Instance, Refusal, Result

_AT_ONCE = 1000


@dataclass(frozen=True)
class NamedFile:
    """kind: image, result or object set aside. path: relative to the data folder. sha256, blake3: digests of a
    result's file, of the data set in an image's; "" where none of the kind is on record. size_bytes: 0 where unknown.
    """

    kind: str
    sop_instance_uid: str
    path: str
    size_bytes: int
    sha256: str
    blake3: str = ""


def named_files(session: Session) -> Iterator[NamedFile]:
    """Every file that the record says is there; streamed."""
    queries: dict[str, Select[str, str, int, str, str]] = {
        "image": select(
            Instance.sop_instance_uid, Instance.path, Instance.size_bytes, Instance.sha256, Instance.blake3
        ),
        "result": select(
            Result.sop_instance_uid, Result.path, Result.size_bytes, Result.sha256, literal("").label("blake3")
        ).where(Result.deleted_at.is_(None)),
        "set aside": select(
            Refusal.sop_instance_uid, Refusal.path, Refusal.size_bytes, Refusal.sha256, Refusal.blake3
        ).where(Refusal.path != ""),
    }
    for kind, query in queries.items():
        for uid, path, size_bytes, sha256, blake3 in session.execute(query, execution_options={"yield_per": _AT_ONCE}):
            yield NamedFile(kind, uid, path, size_bytes, sha256, blake3)


def sent_under_own_uid(session: Session) -> Iterator[str]:
    """SOP Instance UIDs of reports that were sent as another class than they were made in; their files may be there."""
    query = (
        select(Delivery.sent_sop_instance_uid)
        .join(Result, Result.id == Delivery.result_id)
        .where(
            Delivery.sent_sop_instance_uid != "",
            Delivery.sent_sop_instance_uid != Result.sop_instance_uid,
            Result.deleted_at.is_(None),
        )
    )
    yield from session.scalars(query.execution_options(yield_per=_AT_ONCE))


def going_files(session: Session) -> set[str]:
    """Paths of files that are being deleted, whether they are still there or not."""
    paths = session.scalars(select(Deletion.paths).where(Deletion.state == DeletionState.BEGUN))
    return {path for listed in paths for path in listed}
