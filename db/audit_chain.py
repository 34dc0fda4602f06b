"""The audit trail as a chain of hashes, so that a row that was changed, moved, slipped in or taken out is seen.

A row is written in the transaction of what it tells of, and would make all transactions wait for one another if it had
to know the row before it. So it only joins a queue there (`audit_unsealed`, by a trigger), and one sealing step gives
the queue's rows their places: each carries the digest of the one before. Between a commit and the next seal, a second
by default, a row is protected by the triggers alone; one that is taken out even so leaves its number in the queue.

The last digest is written outside of the database too (`node/audit/anchors.py`, and every message to a collector), so
that a chain whose end was cut off, or that was computed anew as a whole, does not pass either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, text, update
from sqlalchemy.orm import Session

from db import audit
from db.audit import Entry
from db.audit_tables import AuditBase, AuditCursor, AuditLink, AuditUnsealed
from db.tables import Audit
from db.transitions import affected, insert_ignore
from db.types import utcnow

_FORMAT = "radnode-audit-1"
_NOTHING = "0" * 64
# Any constant does, as long as every node uses the same: two of them must not seal at once.
_POSTGRES_LOCK = 7061657
_MANY = 500


@dataclass(frozen=True)
class Head:
    """The end of the chain: how many rows it has had, and the digest of the last."""

    position: int
    digest: str


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. problem: "" where the chain holds, else the first thing that is wrong, and where."""

    rows: int
    begins_after: int
    head: Head
    waiting: int
    problem: str = ""
    position: int | None = None


def digest(previous: str, position: int, entry: Entry) -> str:
    """SHA-256 over a canonical form of the row (JSON, keys sorted, UTC to the microsecond), place and `previous`."""
    canonical = json.dumps(entry.values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{_FORMAT}\n{previous}\n{position}\n{canonical}".encode()).hexdigest()


def head(session: Session) -> Head:
    """The end of the chain; place 0 where it has not begun."""
    last = session.execute(
        select(AuditLink.position, AuditLink.digest).order_by(AuditLink.position.desc()).limit(1)
    ).one_or_none()
    return _base(session) if last is None else Head(last[0], last[1])


def waiting(session: Session) -> int:
    """How many rows have no place yet."""
    return session.scalar(select(func.count()).select_from(AuditUnsealed)) or 0


def any_waiting(session: Session) -> bool:
    """Whether there is anything to seal. Takes no lock, so that an idle keeper costs the record nothing."""
    return session.scalar(select(AuditUnsealed.audit_id).limit(1)) is not None


def seal(session: Session, *, limit: int = _MANY) -> tuple[int, Head]:
    """Give up to `limit` waiting rows their places. Returns how many, and the end of the chain afterwards."""
    _alone(session)
    query = select(Audit).join(AuditUnsealed, AuditUnsealed.audit_id == Audit.id).order_by(Audit.id).limit(limit)
    end = head(session)
    links: list[dict[str, Any]] = []
    for row in session.scalars(query):
        after = Head(end.position + 1, digest(end.digest, end.position + 1, audit.entry(row)))
        links.append({"position": after.position, "audit_id": row.id, "previous": end.digest, "digest": after.digest})
        end = after
    if links:
        session.execute(insert(AuditLink), links)
        placed = [link["audit_id"] for link in links]
        affected(session, delete(AuditUnsealed).where(AuditUnsealed.audit_id.in_(placed)))
    return len(links), end


def sealed(session: Session, *, after: int, limit: int) -> list[Entry]:
    """The rows that follow place `after`, in the chain's order."""
    query = (
        select(Audit, AuditLink.position, AuditLink.digest)
        .join(AuditLink, AuditLink.audit_id == Audit.id)
        .where(AuditLink.position > after)
        .order_by(AuditLink.position)
        .limit(limit)
    )
    return [audit.entry(*row) for row in session.execute(query)]


def verify(session: Session, anchors: Iterable[Head] = ()) -> Verdict:
    """Compute the whole chain again and hold it against what is stored, and against `anchors` noted earlier elsewhere.

    Use a transaction of its own, to be the first to ask in it: it reads one moment of the record.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    walk = _Walk(_base(session), {anchor.position: anchor.digest for anchor in anchors})
    query = (
        select(AuditLink, Audit)
        .outerjoin(Audit, Audit.id == AuditLink.audit_id)
        .order_by(AuditLink.position)
        .execution_options(yield_per=_MANY)
    )
    with session.execute(query) as found:
        for link, row in found:
            walk.step(link, None if row is None else audit.entry(row))
            session.expunge(link)
            if row is not None:
                session.expunge(row)
            if walk.problem:
                break
    if not walk.problem:
        walk.problem = walk.anchors_left() or _loose(session) or _base_unfounded(session, walk.begins)
    return Verdict(
        rows=walk.end.position - walk.begins.position,
        begins_after=walk.begins.position,
        head=walk.end,
        waiting=waiting(session),
        problem=walk.problem,
        position=walk.at,
    )


@dataclass
class _Walk:
    """The chain as far as it has been followed."""

    begins: Head
    anchors: Mapping[int, str]
    end: Head = field(init=False)
    problem: str = ""
    at: int | None = None

    def __post_init__(self) -> None:
        self.end = self.begins
        self._hold_against_anchor()

    def step(self, link: AuditLink, entry: Entry | None) -> None:
        expected = self.end.position + 1
        if link.position != expected:
            self._broken(expected, f"place {expected} is missing: the next one there is has number {link.position}")
        elif entry is None:
            self._broken(expected, f"the row at place {expected} (audit id {link.audit_id}) is gone")
        elif link.previous != self.end.digest:
            self._broken(expected, f"place {expected} does not follow what stands before it")
        elif link.digest != digest(link.previous, link.position, entry):
            self._broken(expected, f"the row at place {expected} (audit id {entry.id}) is not what was sealed")
        else:
            self.end = Head(link.position, link.digest)
            self._hold_against_anchor()

    def anchors_left(self) -> str:
        beyond = [position for position in self.anchors if position > self.end.position]
        if not beyond:
            return ""
        self.at = self.end.position + 1
        return f"the chain ends at place {self.end.position}, but an anchor tells of {max(beyond)}: rows were cut off"

    def _hold_against_anchor(self) -> None:
        noted = self.anchors.get(self.end.position)
        if noted is not None and noted != self.end.digest:
            self._broken(self.end.position, f"place {self.end.position} is not its anchor's: the chain was made anew")

    def _broken(self, position: int, problem: str) -> None:
        self.at, self.problem = position, problem


def _loose(session: Session) -> str:
    """Rows outside of chain and queue, and queued numbers whose row is gone."""
    stray = session.scalar(
        select(func.min(Audit.id))
        .outerjoin(AuditLink, AuditLink.audit_id == Audit.id)
        .outerjoin(AuditUnsealed, AuditUnsealed.audit_id == Audit.id)
        .where(AuditLink.audit_id.is_(None), AuditUnsealed.audit_id.is_(None))
    )
    if stray is not None:
        return f"the row with audit id {stray} has no place in the chain and does not wait for one"
    gone = session.scalar(
        select(func.min(AuditUnsealed.audit_id))
        .outerjoin(Audit, Audit.id == AuditUnsealed.audit_id)
        .where(Audit.id.is_(None))
    )
    return "" if gone is None else f"the row with audit id {gone} was taken out before it had a place"


def _alone(session: Session) -> None:
    """No other session changes the chain until this transaction ends; SQLite has one writer as it is."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))


def _base(session: Session) -> Head:
    last = session.execute(
        select(AuditBase.position, AuditBase.digest).order_by(AuditBase.position.desc()).limit(1)
    ).one_or_none()
    return Head(0, _NOTHING) if last is None else Head(last[0], last[1])


def _base_unfounded(session: Session, base: Head) -> str:
    """A chain that does not begin at its beginning needs the row that says who let the older part go."""
    if base.position == 0:
        return ""
    told = session.scalars(select(Audit.detail).where(Audit.event == "audit_pruned"))
    if any(one.get("up_to") == base.position and one.get("digest") == base.digest for one in told):
        return ""
    return f"the chain begins after place {base.position}, and no row tells who let the older ones go"


def prune(session: Session, *, before: datetime, actor: str, collector: str = "", limit: int = 10_000) -> int:
    """Let the oldest rows go: the sealed ones in front of the first that is not older than `before`.

    collector: only what it has got. What remains begins with the digest of the last that went, and a new row says so.
    Returns how many went; `limit` at most, because nothing else is written meanwhile.
    """
    _alone(session)
    base = _base(session)
    most = min(head(session).position, base.position + limit)
    young = session.scalar(
        select(func.min(AuditLink.position))
        .join(Audit, Audit.id == AuditLink.audit_id)
        .where(Audit.at >= before, AuditLink.position > base.position, AuditLink.position <= most)
    )
    last = most if young is None else young - 1
    if collector:
        last = min(last, cursor(session, collector))
    if last <= base.position:
        return 0
    sealed_as = session.scalars(select(AuditLink.digest).where(AuditLink.position == last)).one()
    session.add(AuditBase(position=last, digest=sealed_as, at=utcnow()))
    session.flush()
    going = select(AuditLink.audit_id).where(AuditLink.position <= last)
    count = affected(session, delete(Audit).where(Audit.id.in_(going)))
    affected(session, delete(AuditLink).where(AuditLink.position <= last))
    audit.note(session, "audit_pruned", actor=actor, up_to=last, digest=sealed_as, rows=count)
    return count


def cursor(session: Session, collector: str) -> int:
    """The last place that collector has; 0 where it has nothing."""
    return session.scalar(select(AuditCursor.position).where(AuditCursor.collector == collector)) or 0


def take_cursor(session: Session, collector: str, owner: str, *, lease_s: float) -> int | None:
    """Become the one who sends to that collector; returns the last place it has. None while another does."""
    now = utcnow()
    insert_ignore(session, AuditCursor, collector=collector, position=0, lease_owner="", lease_until=None)
    free = or_(AuditCursor.lease_until.is_(None), AuditCursor.lease_until < now, AuditCursor.lease_owner == owner)
    taken = affected(
        session,
        update(AuditCursor)
        .where(AuditCursor.collector == collector, free)
        .values(lease_owner=owner, lease_until=now + timedelta(seconds=lease_s)),
    )
    return cursor(session, collector) if taken else None


def advance_cursor(session: Session, collector: str, owner: str, position: int) -> bool:
    """The collector has everything up to `position`. False where the lease was lost meanwhile."""
    return bool(
        affected(
            session,
            update(AuditCursor)
            .where(
                AuditCursor.collector == collector,
                AuditCursor.lease_owner == owner,
                AuditCursor.position <= position,
            )
            .values(position=position),
        )
    )


def leave_cursor(session: Session, collector: str, owner: str) -> None:
    """Let another send at once."""
    affected(
        session,
        update(AuditCursor)
        .where(AuditCursor.collector == collector, AuditCursor.lease_owner == owner)
        .values(lease_owner="", lease_until=None),
    )
