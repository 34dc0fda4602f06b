"""`radnode web`: apart from the other commands, which need nothing of what it loads."""

from __future__ import annotations

import typer

from node import logs
from node.cli.common import Config, open_record
from node.processes import report_ready
from node.web import server

app = typer.Typer()


@app.command()
def web(config: Config = None) -> None:
    """The pages, the API, health and metrics over HTTP."""
    with open_record(config) as (settings, record):
        logs.configure(settings)
        server.run(settings, record, report_ready)
