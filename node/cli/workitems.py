"""`radnode workitems`: what peers have pushed to this node (UPS Push), and what became of it."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from db import workitem_queries, workitem_subscriptions, workitem_tidings, workitems
from db.dicom_json import items, text
from db.errors import ConfigError
from db.states import WorkitemState
from db.workitem_rules import LABEL, PROGRESS, PROGRESS_INFORMATION, names_patient
from db.workitems import WorkitemView
from node.cli.common import Config, Json, open_record, show

app = typer.Typer(no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, help="How many, the newest first.")]
States = Annotated[list[WorkitemState] | None, typer.Option("--state", help="Only in this state; may be repeated.")]


@app.command("list")
def list_items(config: Config = None, json: Json = False, state: States = None, limit: Limit = 100) -> None:
    """List work items that were pushed, newest first."""
    with open_record(config) as (_, record), record.read() as session:
        rows = [_row(one) for one in workitem_queries.shown(session, states=tuple(state or ()), limit=limit)]
    columns = ["workitem_uid", "state", "priority", "progress_percent", "study_instance_uid", "performer", "reason"]
    show(rows, columns, json, "No work item was pushed.")


@app.command("show")
def show_item(
    uid: Annotated[str, typer.Argument(metavar="UID", help="Its SOP Instance UID.")],
    *,
    config: Config = None,
    patient: Annotated[bool, typer.Option("--patient", help="With what names the patient.")] = False,
) -> None:
    """Print one work item as JSON: its attributes (DICOM JSON model), who is told of it, and of which events."""
    with open_record(config) as (_, record), record.read() as session:
        found = workitems.load(session, uid)
        if found is None:
            raise ConfigError(f"no work item {uid} is on the worklist; see `radnode workitems list`")
        told = workitem_tidings.of_item(session, uid)
        watched = workitem_subscriptions.subscribers(session, found.id)
    kept = {tag: one for tag, one in found.data.items() if patient or not names_patient(tag)}
    row = {**_row(found), "subscribers": watched, "events": told, "attributes": kept}
    typer.echo(json_module.dumps(row, indent=2))


def _row(one: WorkitemView) -> dict[str, Any]:
    progress = (items(one.data, PROGRESS_INFORMATION) or [{}])[0]
    return {
        "workitem_uid": one.sop_instance_uid,
        "label": text(one.data, LABEL),
        "state": one.state.value,
        "priority": one.priority,
        "progress_percent": text(progress, PROGRESS),
        "study_instance_uid": one.study_instance_uid,
        "created_by": one.created_by,
        "performer": one.performer,
        "reason": one.reason,
        "created_at": one.created_at.isoformat(timespec="seconds"),
        "changed_at": one.changed_at.isoformat(timespec="seconds"),
    }
