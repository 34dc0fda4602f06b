"""What the commands share: settings, the record, their name in the audit, output, exit statuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from db import schema
from db.session import Record
from node.settings import Settings, load

# Who did it, as the audit names whoever runs a command.
ACTOR = "command line"

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_LATER = 3

Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file; without it defaults and RADNODE_… apply.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output and nothing else.")]

# What is printed holds paths and peers' strings: nothing in it is markup or an emoji's name.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@contextmanager
def open_record(config: Path | None) -> Iterator[tuple[Settings, Record]]:
    """The settings and a record whose schema fits. An embedded record that is not there yet is made."""
    settings = load(config)
    record = Record(settings.record_url)
    try:
        if not settings.database_url:
            schema.upgrade(record)
        schema.require_current(record)
        yield settings, record
    finally:
        record.close()


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool, empty: str) -> None:
    """Rows as one JSON list, or as a table of `columns`."""
    if as_json:
        typer.echo(json.dumps(list(rows), indent=2))
        return
    if not rows:
        err.print(empty)
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(("" if row.get(c) is None else plain(str(row.get(c, "")))) for c in columns))
    out.print(table)


def plain(text: str) -> str:
    """Outside text made fit for a terminal, which would act on control characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def later(what: str) -> None:
    """A command whose name is kept for a release to come."""
    err.print(f"{what} is not in this release.")
    raise typer.Exit(EXIT_LATER)
