"""Installed model versions: which of them reads, which reads along, and how one takes another's place.

Every change is one transaction together with its line in the audit, so that at any moment, a power cut included, one
version of a model reads: the old one or the new one. Where no installed version of a model is active, workers use the
bundle that came with the node or lies in one of its folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import audit
from db.audit_events import Event, Outcome
from db.errors import ConflictError, IllegalTransition, RefusedError
from db.states import ModelState
from db.tables import ModelVersion
from db.transitions import affected, insert_ignore, move
from db.types import utcnow

# Changes are made by UPDATE, which the session's own copies of the rows do not see.
_FRESH = {"populate_existing": True}


class UnknownModelVersion(RefusedError):
    """No installed version of that name; the message lists those there are."""


@dataclass(frozen=True)
class NewModelVersion:
    """An unpacked bundle. folder: relative to the data folder. signed_by: a key's id, "" where nobody signed."""

    model_id: str
    version: str
    digest: str
    folder: str
    archive_sha256: str
    signed_by: str


@dataclass(frozen=True)
class ModelVersionView:
    """An installed version; see `NewModelVersion`."""

    id: int
    model_id: str
    version: str
    digest: str
    state: ModelState
    reason: str
    folder: str
    archive_sha256: str
    signed_by: str
    actor: str
    installed_at: datetime
    changed_at: datetime
    previous_id: int | None


def install(session: Session, new: NewModelVersion, *, actor: str) -> ModelVersionView:
    """Write a version down as uploaded; the same bundle again is the row that is there already.

    Raises ConflictError where another bundle bears its version: a version, once given out, means one content for ever.
    """
    now = utcnow()
    values = {**vars(new), "state": ModelState.UPLOADED, "reason": "", "previous_id": None}
    if insert_ignore(session, ModelVersion, **values, actor=actor, installed_at=now, changed_at=now):
        _note(session, "model_installed", new.model_id, new.version, actor, digest=new.digest, signed_by=new.signed_by)
    found = _named(session, new.model_id, new.version)
    if found is None or found.digest != new.digest:
        raise ConflictError(
            f"model {new.model_id} {new.version} is already installed with another content; a changed bundle needs a "
            "version of its own"
        )
    return _view(found)


def validated(session: Session, model_id: str, version: str, *, actor: str) -> None:
    """Its network has answered the test vectors on this node. Does nothing for a version that is past that."""
    row = _locked(session, model_id, version)
    if row.state is ModelState.UPLOADED:
        _move(session, row, ModelState.VALIDATED, actor, reason="")
        _note(session, "model_validated", model_id, version, actor)


def refused(session: Session, model_id: str, version: str, *, reason: str, actor: str) -> None:
    """The node could not validate it: it stays uploaded, with the reason."""
    row = _locked(session, model_id, version)
    affected(session, update(ModelVersion).where(ModelVersion.id == row.id).values(reason=reason, changed_at=utcnow()))
    _note(session, "model_validated", model_id, version, actor, outcome="failure")


def activate(session: Session, model_id: str, version: str, *, actor: str) -> str | None:
    """Let a version read from now on; returns the version whose place it takes, None where there was none.

    Raises UnknownModelVersion, or IllegalTransition for a version that is not validated or reads already.
    """
    row = _locked(session, model_id, version)
    before = _in_state(session, model_id, ModelState.ACTIVE)
    if before is not None and before.id == row.id:
        raise IllegalTransition(f"model {model_id} {version} is active already")
    if row.state is ModelState.UPLOADED:
        raise IllegalTransition(
            f"model {model_id} {version} is not validated{f': {row.reason}' if row.reason else ''}; install it again"
        )
    if before is not None:
        _move(session, before, ModelState.RETIRED, actor, reason=f"replaced by {version}")
    _move(session, row, ModelState.ACTIVE, actor, reason="", previous_id=None if before is None else before.id)
    replaced = None if before is None else before.version
    _note(session, "model_activated", model_id, version, actor, replaced=replaced, digest=row.digest)
    return replaced


def rollback(session: Session, model_id: str, *, actor: str) -> tuple[str, str | None]:
    """Give the place of the active version back to the one before; returns (version that goes, version that comes).

    The second is None where no installed version was active before: then what came with the node reads again.
    Raises UnknownModelVersion where none is active.
    """
    _lock(session, model_id)
    row = _in_state(session, model_id, ModelState.ACTIVE)
    if row is None:
        raise UnknownModelVersion(
            f"no installed version of model {model_id} is active: there is nothing to go back from"
        )
    before = None if row.previous_id is None else session.get_one(ModelVersion, row.previous_id)
    _move(session, row, ModelState.RETIRED, actor, reason="rolled back")
    if before is not None:
        _move(session, before, ModelState.ACTIVE, actor, reason=f"back after {row.version}")
    back = None if before is None else before.version
    _note(session, "model_rolled_back", model_id, row.version, actor, back_to=back)
    return row.version, back


def shadow(session: Session, model_id: str, version: str, *, actor: str) -> str | None:
    """Let a validated version read along; returns the version that did so before, which is merely validated again."""
    row = _locked(session, model_id, version)
    if row.state is not ModelState.VALIDATED:
        raise IllegalTransition(f"model {model_id} {version} is {row.state}; only a validated one goes into the shadow")
    before = _in_state(session, model_id, ModelState.SHADOW)
    if before is not None:
        _move(session, before, ModelState.VALIDATED, actor, reason="")
    _move(session, row, ModelState.SHADOW, actor, reason="")
    replaced = None if before is None else before.version
    _note(session, "model_shadowed", model_id, version, actor, replaced=replaced)
    return replaced


def retire(session: Session, model_id: str, version: str, *, actor: str) -> ModelState:
    """Use a version no longer; returns the state it was in. No roll-back leads to it.

    Raises UnknownModelVersion, or IllegalTransition where it is retired already.
    """
    row = _locked(session, model_id, version)
    was = row.state
    if was is not ModelState.RETIRED:
        _move(session, row, ModelState.RETIRED, actor, reason="retired")
    elif row.reason == "retired":
        raise IllegalTransition(f"model {model_id} {version} is retired already")
    else:
        affected(session, update(ModelVersion).where(ModelVersion.id == row.id).values(reason="retired", actor=actor))
    for heir in session.scalars(select(ModelVersion).where(ModelVersion.previous_id == row.id)):
        # It goes back to what the retired one had replaced, unless that is itself.
        heir.previous_id = None if row.previous_id == heir.id else row.previous_id
    _note(session, "model_retired", model_id, version, actor, was=was.value)
    return was


def serving(session: Session, model_id: str, state: ModelState = ModelState.ACTIVE) -> ModelVersionView | None:
    """The version in ACTIVE (or SHADOW) state; None where there is none."""
    found = _in_state(session, model_id, state)
    return None if found is None else _view(found)


def find(session: Session, model_id: str, version: str) -> ModelVersionView:
    """Raises UnknownModelVersion."""
    found = _named(session, model_id, version)
    if found is None:
        raise UnknownModelVersion(_no_such(session, model_id, version))
    return _view(found)


def versions(session: Session) -> list[ModelVersionView]:
    """All installed versions, by model and in the order of their installation."""
    return [
        _view(row) for row in session.scalars(select(ModelVersion).order_by(ModelVersion.model_id, ModelVersion.id))
    ]


def _move(session: Session, row: ModelVersion, target: ModelState, actor: str, **values: Any) -> None:
    moved = move(
        session,
        ModelVersion,
        [ModelVersion.id == row.id],
        row.state,
        target,
        actor=actor,
        changed_at=utcnow(),
        **values,
    )
    if not moved:
        raise ConflictError(f"model {row.model_id} {row.version} was changed meanwhile; look again before acting")


def _lock(session: Session, model_id: str) -> None:
    """Whoever changes versions of a model takes turns: on PostgreSQL by these locks, on SQLite because writers do."""
    rows = select(ModelVersion.id).where(ModelVersion.model_id == model_id).order_by(ModelVersion.id)
    session.execute(rows.with_for_update()).all()


def _locked(session: Session, model_id: str, version: str) -> ModelVersion:
    _lock(session, model_id)
    found = _named(session, model_id, version)
    if found is None:
        raise UnknownModelVersion(_no_such(session, model_id, version))
    return found


def _named(session: Session, model_id: str, version: str) -> ModelVersion | None:
    query = select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.version == version)
    return session.scalars(query, execution_options=_FRESH).one_or_none()


def _in_state(session: Session, model_id: str, state: ModelState) -> ModelVersion | None:
    query = select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.state == state)
    return session.scalars(query, execution_options=_FRESH).one_or_none()


def _no_such(session: Session, model_id: str, version: str) -> str:
    query = select(ModelVersion.version).where(ModelVersion.model_id == model_id).order_by(ModelVersion.id)
    known = ", ".join(session.scalars(query))
    return f"no version {version!r} of model {model_id!r} is installed; there {f'is {known}' if known else 'is none'}"


def _note(
    session: Session,
    event: Event,
    model_id: str,
    version: str,
    actor: str,
    *,
    outcome: Outcome = "success",
    **detail: Any,
) -> None:
    audit.note(session, event, actor=actor, subject=f"{model_id} {version}", outcome=outcome, **detail)


def _view(row: ModelVersion) -> ModelVersionView:
    return ModelVersionView(**{name: getattr(row, name) for name in ModelVersionView.__dataclass_fields__})
