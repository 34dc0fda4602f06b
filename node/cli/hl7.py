"""`radnode hl7`: the MLLP listener, and what was sent and taken."""

from __future__ import annotations

from typing import Annotated

import typer

from db import hl7_received, hl7_spool, identities
from db.errors import ConfigError
from node import logs
from node.audit import activity
from node.cli.common import Config, Json, open_record, show
from node.cli.run import stop_event
from node.processes import report_ready

app = typer.Typer(no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, help="How many, the newest first.")]


@app.command()
def listen(config: Config = None) -> None:
    """Take orders and changes of identity by HL7 v2; `radnode serve` runs it where hl7.listener.enabled is true."""
    from node.worklist.hl7.server import run_server  # noqa: PLC0415 - the lists need no hl7apy

    with open_record(config) as (settings, record):
        if not settings.hl7.listener.enabled:
            raise ConfigError("hl7.listener.enabled is false; set it to true to take messages")
        logs.configure(settings)
        with activity.on_record(settings, "hl7"):
            run_server(settings, record, stop_event(), report_ready)


@app.command()
def sent(config: Config = None, json: Json = False, limit: Limit = 100) -> None:
    """List messages that were sent, with their answers; `radnode retry --destination NAME` sends dead letters again."""
    with open_record(config) as (_, record), record.read() as session:
        rows = hl7_spool.messages(session, limit)
    show(rows, ["control_id", "kind", "destination", "state", "answer", "attempts", "reason"], json, "None was sent.")


@app.command()
def received(config: Config = None, json: Json = False, limit: Limit = 100) -> None:
    """List messages that were taken, and what each did."""
    with open_record(config) as (_, record), record.read() as session:
        rows = hl7_received.received(session, limit)
    show(rows, ["received_at", "control_id", "kind", "sender", "outcome"], json, "None was taken.")


@app.command()
def identity(config: Config = None, json: Json = False, limit: Limit = 100) -> None:
    """List changes of patients' identity, and for which studies there are results under a superseded one."""
    with open_record(config) as (_, record), record.read() as session:
        rows = identities.changes(session, limit)
    show(rows, ["at", "kind", "study_instance_uid", "applied", "finished_results", "sender"], json, "None changed.")
