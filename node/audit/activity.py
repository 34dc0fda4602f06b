"""Start, stop and changed settings of the node's programs, on record."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import structlog
from sqlalchemy.orm import Session

from db import audit, audit_chain
from db.audit import Wanted
from db.audit_events import Event, Outcome
from db.errors import RetriableError
from db.session import Record
from node.identity import owner_prefix
from node.settings import Settings
from node.version import VERSION

log = structlog.get_logger(__name__)


@contextmanager
def on_record(settings: Settings, role: str) -> Iterator[None]:
    """Note that a program starts, with the settings it found, and how it stops.

    The record is opened for each note alone: what runs inside may fork.
    """
    _note(settings, role, "application_started", "success")
    outcome: Outcome = "failure"
    try:
        yield
        outcome = "success"
    finally:
        _note(settings, role, "application_stopped", outcome)


def _note(settings: Settings, role: str, event: Event, outcome: Outcome) -> None:
    record = Record(settings.record_url, pool_size=1)
    try:
        with record.write() as session:
            if event == "application_started":
                note_settings(session, settings)
            audit.note(
                session,
                event,
                actor=f"uid {os.getuid()}",
                subject=f"{role}:{os.getpid()}",
                outcome=outcome,
                version=VERSION,
                host=socket.gethostname(),
            )
            if event == "application_stopped":
                # Perhaps no keeper runs any more, and rows without a place should not wait for the next start.
                audit_chain.seal(session)
    except RetriableError as error:
        # The program may run all the same: what it receives is refused until the record is back.
        log.error("activity_not_recorded", what=event, reason=str(error))
    finally:
        record.close()


def note_settings(session: Session, settings: Settings) -> None:
    """Note which sections of the settings differ from those this place ran with before; nothing where none does."""
    place = owner_prefix(settings).rstrip(":")
    sections = section_digests(settings)
    before = audit.latest(session, Wanted(events=("settings_changed",), subject=place))
    known = {} if before is None else before.detail["sections"]
    if known == sections:
        return
    changed = sorted(name for name in {*known, *sections} if known.get(name) != sections.get(name))
    audit.note(
        session,
        "settings_changed",
        actor=f"uid {os.getuid()}",
        subject=place,
        changed=[] if before is None else changed,
        sections=sections,
    )


def section_digests(settings: Settings) -> dict[str, str]:
    """A short digest of each section, and one of what stands at the top. Passwords in URLs are left out."""
    values = settings.model_dump(mode="json")
    for name in ("database_url", "broker_url"):
        if values[name]:
            parts = urlsplit(values[name])
            values[name] = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    top = {name: value for name, value in values.items() if not isinstance(value, dict | list)}
    sections = {"top": top} | {name: value for name, value in values.items() if name not in top}
    return {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]
        for name, part in sorted(sections.items())
    }
