"""What happened, for the record. Append only: the database refuses changes, `db.audit_chain` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db.audit_events import UID_SUBJECTS, Event, Outcome
from db.audit_tables import AuditLink
from db.tables import Audit
from db.types import utcnow

_LONGEST_NAME = 128
_LONGEST_TEXT = 1024
# A message of more would not fit into the 8 KiB that a collector must take at most (RFC 5425 4.3.1).
_MOST_NAMED = 24
# Control characters and halves of surrogate pairs: PostgreSQL takes no NUL, XML none of them, and a line break in a
# syslog message could pass for another message.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


_UID = re.compile(r"[0-9.]{1,64}")
NO_UID = "not a UID"


@dataclass(frozen=True)
class Entry:
    """One row. position and digest: its place in the chain; None and "" while it waits for one."""

    id: int
    at: datetime
    event: str
    outcome: str
    actor: str
    subject: str
    detail: dict[str, Any]
    position: int | None = None
    digest: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """What the digest is computed over, as JSON holds it; ``at`` in UTC to the microsecond."""
        return {
            "id": self.id,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "event": self.event,
            "outcome": self.outcome,
            "actor": self.actor,
            "subject": self.subject,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Wanted:
    """Which entries. An empty filter takes all; since is inclusive, until is not."""

    events: Sequence[str] = ()
    actor: str = ""
    subject: str = ""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None


def note(
    session: Session, event: Event, *, actor: str, subject: str = "", outcome: Outcome = "success", **detail: Any
) -> None:
    """Append one event in the caller's transaction, so that it is there exactly if what it tells of is.

    actor: who did it (AE title, worker, account, command). subject: a UID or row id, never a patient. detail: values
    that JSON holds. Text that a peer chose may come in as it is: what cannot be printed is replaced, what is too long
    is cut, and what stands in a UID's place (the subject of some events, ``study`` of all) without being one is
    withheld.
    """
    if event in UID_SUBJECTS and subject and _UID.fullmatch(subject) is None:
        subject = NO_UID
    if "study" in detail and _UID.fullmatch(str(detail["study"])) is None:
        detail["study"] = NO_UID if detail["study"] else ""
    session.add(
        Audit(
            at=utcnow(),
            event=event,
            outcome=outcome,
            actor=clean(actor, _LONGEST_NAME),
            subject=clean(subject, _LONGEST_NAME),
            detail={key: _clean(value) for key, value in detail.items()},
        )
    )


def clean(text: str, longest: int = _LONGEST_TEXT) -> str:
    """Outside text as the audit holds it: one printable line of at most `longest` characters."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text[:longest])


def count_by_class(instances: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """(SOP Class UID, SOP Instance UID) pairs as a detail: how many of each class, and which where they are few."""
    classes: dict[str, list[str]] = {}
    for sop_class, instance in instances:
        classes.setdefault(sop_class, []).append(instance)
    few = sum(map(len, classes.values())) <= _MOST_NAMED
    return {name: {"count": len(uids), **({"uids": uids} if few else {})} for name, uids in sorted(classes.items())}


def entries(
    session: Session, wanted: Wanted, *, limit: int | None = None, newest: bool = False, after: int = 0
) -> Iterator[Entry]:
    """What matches, oldest first unless `newest`; streamed, so that millions of rows need no memory.

    after: only rows of a greater id.
    """
    query = narrowed(
        select(Audit, AuditLink.position, AuditLink.digest).outerjoin_from(Audit, AuditLink, _SAME), wanted
    )
    if after:
        query = query.where(Audit.id > after)
    query = query.order_by(Audit.id.desc() if newest else Audit.id)
    if limit is not None:
        query = query.limit(limit)
    with session.execute(query, execution_options={"yield_per": 500}) as found:
        for row, position, digest in found:
            yield entry(row, position, digest or "")
            # Else the session would keep every row it has given out.
            session.expunge(row)


def entry(row: Audit, position: int | None = None, digest: str = "") -> Entry:
    """The row as a value."""
    return Entry(row.id, row.at, row.event, row.outcome, row.actor, row.subject, dict(row.detail), position, digest)


def latest(session: Session, wanted: Wanted) -> Entry | None:
    """The last entry that matches."""
    return next(entries(session, wanted, limit=1, newest=True), None)


_SAME = AuditLink.audit_id == Audit.id
_Rows = Select[Audit, int, str]


def narrowed(query: _Rows, wanted: Wanted) -> _Rows:
    """The query with the filter's conditions."""
    if wanted.events:
        query = query.where(Audit.event.in_(list(wanted.events)))
    for column, value in (
        (Audit.actor, wanted.actor),
        (Audit.subject, wanted.subject),
        (Audit.outcome, wanted.outcome),
    ):
        if value:
            query = query.where(column == value)
    if wanted.since is not None:
        query = query.where(Audit.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(Audit.at < wanted.until)
    return query


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return value
