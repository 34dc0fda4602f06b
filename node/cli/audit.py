"""`radnode audit verify | list | export`: is the trail whole, and what does it say."""

from __future__ import annotations

import json as json_module
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from db import audit, audit_chain
from db.audit import Entry, Wanted
from db.audit_chain import Head
from db.audit_events import EVENTS
from db.errors import ConfigError, StorageFull
from db.session import Record
from node.audit import anchors
from node.audit.message import DECLARATION, Origin, xml
from node.audit.service import origin
from node.cli.common import ACTOR, EXIT_FAILED, Config, Json, err, open_record, out, plain, show

app = typer.Typer(no_args_is_help=True)

_ANCHOR = re.compile(r"(\d{1,18}):([0-9a-f]{64})")

Events = Annotated[list[str] | None, typer.Option("--event", help="Only events of this name; may be repeated.")]
Actor = Annotated[str, typer.Option(help="Only what this account, peer or program did.")]
Subject = Annotated[str, typer.Option(help="Only what this UID or id is the subject of.")]
OutcomeIs = Annotated[str, typer.Option("--outcome", help="success, warning or failure.")]
Since = Annotated[str, typer.Option(help="From this moment on (ISO 8601; UTC unless it says otherwise).")]
Until = Annotated[str, typer.Option(help="Before this moment.")]


@app.callback()
def group() -> None:
    """What happened, for the record."""


@app.command()
def verify(
    config: Config = None,
    json: Json = False,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="PLACE:DIGEST noted earlier, by hand or at a collector; may be repeated."),
    ] = None,
) -> None:
    """Compute the audit's chain anew. Exit status 1 where it is broken, with the first place that is.

    Held against it are the anchors that the node wrote outside of the database, and those given here.
    """
    given = [_anchor(text) for text in anchor or []]
    with open_record(config) as (settings, record):
        known = anchors.read(anchors.anchor_file(settings))
        with record.read() as session:
            verdict = audit_chain.verify(session, [*known, *given])
    told = {
        "intact": not verdict.problem,
        "rows": verdict.rows,
        "begins_after": verdict.begins_after,
        "position": verdict.head.position,
        "digest": verdict.head.digest,
        "waiting": verdict.waiting,
        "anchors": len(known) + len(given),
        "problem": verdict.problem,
        "first_broken": verdict.position,
    }
    if json:
        typer.echo(json_module.dumps(told, indent=2))
    elif verdict.problem:
        err.print(f"BROKEN: {verdict.problem}.", soft_wrap=True)
        err.print(f"{verdict.rows} rows before it hold.")
    else:
        out.print(f"{verdict.rows} rows hold, {verdict.waiting} wait for their place, {told['anchors']} anchors fit.")
        out.print(f"{verdict.head.position}:{verdict.head.digest}", soft_wrap=True)
    if verdict.problem:
        raise typer.Exit(EXIT_FAILED)


@app.command("list")
def list_entries(
    *,
    config: Config = None,
    json: Json = False,
    event: Events = None,
    actor: Actor = "",
    subject: Subject = "",
    outcome: OutcomeIs = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, newest first.")] = 100,
) -> None:
    """List what happened, newest first. That it was looked at is on record too."""
    wanted = _wanted(event, actor=actor, subject=subject, outcome=outcome, since=since, until=until)
    with open_record(config) as (_, record):
        with record.read() as session:
            rows = [as_json(one) for one in audit.entries(session, wanted, limit=limit, newest=True)]
        _note_used(record, "list", wanted)
    show(rows, ["at", "event", "outcome", "actor", "subject"], json, "Nothing that matches is on record.")


@app.command()
def export(
    *,
    config: Config = None,
    to: Annotated[Path | None, typer.Option("--out", help="A new file; without it standard output.")] = None,
    form: Annotated[str, typer.Option("--format", help="jsonl, or xml for messages of DICOM PS3.15 A.5.")] = "jsonl",
    event: Events = None,
    actor: Actor = "",
    subject: Subject = "",
    outcome: OutcomeIs = "",
    since: Since = "",
    until: Until = "",
) -> None:
    """Write the audit trail out, oldest first. That it was is on record too."""
    wanted = _wanted(event, actor=actor, subject=subject, outcome=outcome, since=since, until=until)
    with open_record(config) as (settings, record):
        if form not in _WRITERS:
            raise ConfigError(f"there is no format {form}; the formats are {' and '.join(_WRITERS)}")
        with _target(to) as file:
            # First, for what is written is out even if the rest fails.
            _note_used(record, f"export as {form}", wanted)
            with record.read() as session:
                count = _WRITERS[form](file, audit.entries(session, wanted), origin(settings))
    err.print(f"{count} rows.")


def as_json(entry: Entry) -> dict[str, Any]:
    """The row as JSON holds it; with it anybody can compute the digest again."""
    return {"position": entry.position, "digest": entry.digest, **entry.values}


def _write_lines(file: TextIO, entries: Iterator[Entry], _origin: Origin) -> int:
    count = 0
    for count, one in enumerate(entries, start=1):  # noqa: B007 - the last one counts them
        file.write(json_module.dumps(as_json(one), sort_keys=True) + "\n")
    return count


def _write_xml(file: TextIO, entries: Iterator[Entry], source: Origin) -> int:
    count = 0
    file.write(f"{DECLARATION}\n<AuditMessages>\n")
    for count, one in enumerate(entries, start=1):  # noqa: B007
        file.write(f"{xml(one, source)}\n")
    file.write("</AuditMessages>\n")
    return count


_WRITERS: dict[str, Callable[[TextIO, Iterator[Entry], Origin], int]] = {"jsonl": _write_lines, "xml": _write_xml}


@contextmanager
def _target(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            yield file
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already; name a new file") from error
    except OSError as error:
        raise StorageFull(f"{path} cannot be written ({error.strerror})") from error


def _note_used(record: Record, how: str, wanted: Wanted) -> None:
    with record.write() as session:
        audit.note(
            session,
            "audit_used",
            actor=ACTOR,
            how=how,
            events=list(wanted.events),
            of_actor=wanted.actor,
            of_subject=wanted.subject,
        )


def _wanted(events: list[str] | None, *, actor: str, subject: str, outcome: str, since: str, until: str) -> Wanted:
    unknown = [name for name in events or [] if name not in EVENTS]
    if unknown:
        raise ConfigError(f"there is no event {plain(', '.join(unknown))}; the events are {', '.join(EVENTS)}")
    if outcome not in {"", "success", "warning", "failure"}:
        raise ConfigError("the outcome is success, warning or failure")
    return Wanted(tuple(events or ()), actor, subject, outcome, _moment(since), _moment(until))


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{plain(text)} is no moment; write 2026-03-01 or 2026-03-01T12:00:00+01:00") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _anchor(text: str) -> Head:
    written = _ANCHOR.fullmatch(text)
    if written is None:
        raise ConfigError(f"{plain(text)} is no anchor; write PLACE:DIGEST as `radnode audit verify` prints it")
    return Head(int(written[1]), written[2])
