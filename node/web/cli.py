"""`radnode web`: apart from the other commands, which need nothing of what it loads."""

from __future__ import annotations

import signal
from types import FrameType

import typer

from node import logs
from node.audit import activity
from node.cli.common import Config, open_record
from node.processes import report_ready
from node.web import server

app = typer.Typer()


@app.command()
def web(config: Config = None) -> None:
    """The pages, the API, health and metrics over HTTP."""
    with open_record(config) as (settings, record):
        logs.configure(settings)
        # uvicorn stops, and then raises the signal again: the default would end the process before that is on record.
        signal.signal(signal.SIGTERM, _heard)
        with activity.on_record(settings, "web"):
            server.run(settings, record, report_ready)


def _heard(_number: int, _frame: FrameType | None) -> None:
    """The server has stopped for it already."""
