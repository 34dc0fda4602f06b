"""`radnode parked` and `radnode quarantine`: what waits for a person."""

from __future__ import annotations

from typing import Annotated

import typer

from db import aside, deletions
from db.errors import ConfigError
from node.cli.common import ACTOR, EXIT_FAILED, Config, Json, err, open_record, show
from node.deletion import carry_out
from node.identity import owner

parked_app = typer.Typer(no_args_is_help=True)
quarantine_app = typer.Typer(no_args_is_help=True)


@parked_app.callback()
def parked() -> None:
    """Jobs that were tried often enough, or that trying again does not help."""


@parked_app.command("list")
def list_parked(config: Config = None, json: Json = False) -> None:
    """List parked jobs, the one that waits longest first. With --json also their images and where these lie."""
    with open_record(config) as (_, record), record.read() as session:
        rows = aside.parked(session)
    show(rows, ["id", "study_instance_uid", "model", "attempts", "parked_at", "reason"], json, "No job is parked.")


@parked_app.command("give-up")
def give_up(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB…", help="Ids of parked jobs.")], config: Config = None
) -> None:
    """Close parked jobs for good: their images stay unread, and nobody is reminded of them any more."""
    with open_record(config) as (_, record), record.write() as session:
        done = [job for job in jobs if aside.give_up(session, job, actor=ACTOR)]
    _tell(len(done), len(jobs), "parked jobs are given up")


@quarantine_app.callback()
def quarantine() -> None:
    """Images that were kept apart: of another patient than their study, or under a UID that others have."""


@quarantine_app.command("list")
def list_quarantine(config: Config = None, json: Json = False) -> None:
    """List what was set aside, why, and where it lies below the data folder."""
    with open_record(config) as (_, record), record.read() as session:
        rows = aside.set_aside(session)
    show(rows, ["sop_instance_uid", "state", "calling_ae", "reason", "path"], json, "Nothing is set aside.")


@quarantine_app.command("release")
def release(
    instances: Annotated[list[str], typer.Argument(metavar="UID…", help="SOP Instance UIDs of QUARANTINED images.")],
    config: Config = None,
) -> None:
    """Take images into their study after all. Only once you have made sure that they are of its patient."""
    with open_record(config) as (_, record), record.write() as session:
        done = [uid for uid in instances if aside.release(session, uid, actor=ACTOR)]
    _tell(len(done), len(instances), "images are released; their studies are judged again")


@quarantine_app.command("delete")
def delete(
    instances: Annotated[list[str], typer.Argument(metavar="UID…", help="SOP Instance UIDs of what was set aside.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit trail. Name no patient.")],
    *,
    config: Config = None,
) -> None:
    """Delete for good what was set aside under these UIDs; what is in its study is not touched."""
    if not reason.strip():
        raise ConfigError("say why: --reason")
    with open_record(config) as (settings, record):
        with record.write() as session:
            done = [uid for uid in instances if deletions.begin_set_aside(session, uid, actor=ACTOR, reason=reason)]
        carry_out(settings, record, owner(settings, "delete"))
    _tell(len(done), len(instances), "objects are deleted")


def _tell(done: int, asked: int, what: str) -> None:
    err.print(f"{done} of {asked} {what}.")
    if done < asked:
        raise typer.Exit(EXIT_FAILED)
