"""`radnode ups`: Unified Procedure Steps."""

from __future__ import annotations

from typing import Annotated

import typer

from db import performances
from node.cli.common import Config, Json, open_record, show

app = typer.Typer(no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, help="How many, the newest first.")]


@app.callback()
def ups() -> None:
    """Unified Procedure Steps: work items of other systems."""


@app.command()
def performed(config: Config = None, json: Json = False, limit: Limit = 100) -> None:
    """List work items of other systems that this node performs or performed, and how they stand."""
    with open_record(config) as (_, record), record.read() as session:
        rows = performances.shown(session, limit)
    show(
        rows,
        ["workitem_uid", "manager", "state", "progress_percent", "priority", "reason"],
        json,
        "No work item was claimed.",
    )
