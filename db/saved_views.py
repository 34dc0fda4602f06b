"""The views of the worklist that people keep for themselves: a name for a set of filters."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from db.errors import RefusedError
from db.reader_tables import SavedView
from db.transitions import affected, insert_ignore
from db.types import utcnow

MOST_VIEWS = 20


@dataclass(frozen=True)
class View:
    """query: the part of the worklist's address behind the question mark."""

    id: int
    name: str
    query: str


class TooManyViews(RefusedError):
    """A person has as many views as one may have."""


def keep(session: Session, owner: str, name: str, query: str) -> None:
    """Keep a view; one of that name is replaced. Raises TooManyViews."""
    mine = SavedView.owner == owner
    changed = affected(session, update(SavedView).where(mine, SavedView.name == name).values(query=query))
    if changed:
        return
    if (session.scalar(select(func.count()).select_from(SavedView).where(mine)) or 0) >= MOST_VIEWS:
        raise TooManyViews(f"{MOST_VIEWS} views are kept at most; remove one first")
    insert_ignore(session, SavedView, owner=owner, name=name, query=query, created_at=utcnow())


def drop(session: Session, owner: str, view_id: int) -> bool:
    """Forget a view of this person; False where they have none of that id."""
    return affected(session, delete(SavedView).where(SavedView.owner == owner, SavedView.id == view_id)) > 0


def views(session: Session, owner: str) -> list[View]:
    """A person's views by name."""
    query = select(SavedView).where(SavedView.owner == owner).order_by(SavedView.name)
    return [View(row.id, row.name, row.query) for row in session.scalars(query)]
