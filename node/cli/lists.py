"""`radnode studies | instances | jobs | deliveries | retry`: the record, for people and scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from db import deletions, listing
from db import deliveries as db_deliveries
from db import jobs as db_jobs
from db.errors import ConfigError
from node.cli.common import ACTOR, EXIT_FAILED, Config, Json, err, open_record, show
from node.deletion import carry_out, path_of_result
from node.identity import owner

studies_app = typer.Typer()
instances_app = typer.Typer()
jobs_app = typer.Typer()
deliveries_app = typer.Typer()
retry_app = typer.Typer()


@studies_app.callback(invoke_without_command=True)
def studies(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """List the studies received, newest first; or delete one."""
    if context.invoked_subcommand is not None:
        return
    with open_record(config) as (_, record), record.read() as session:
        rows = listing.studies(session)
    show(
        rows,
        ["study_instance_uid", "state", "instances", "calling_ae", "last_received_at", "reason"],
        json,
        "No study has been received yet.",
    )


@studies_app.command("delete")
def delete_study(
    study: Annotated[str, typer.Argument(metavar="UID", help="Its Study Instance UID.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit trail. Name no patient.")],
    *,
    config: Config = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even where something is not finished: jobs are closed, nothing more is sent."),
    ] = False,
) -> None:
    """Delete a study for good: its images, its results here, what names the patient, what was found.

    What was sent to other systems stays there. Its UIDs stay on record, so that none is used twice; images that come
    again are read as those of a new study.
    """
    if not reason.strip():
        raise ConfigError("say why: --reason")
    with open_record(config) as (settings, record):
        with record.write() as session:
            deletions.begin_study(
                session, study, path_of=path_of_result, actor=ACTOR, reason=reason.strip(), force=force
            )
        done = carry_out(settings, record, owner(settings, "delete"))
    err.print("The study is deleted." if done else "The study is going; the keeper removes its files.")


@instances_app.command()
def instances(
    config: Config = None,
    json: Json = False,
    study: Annotated[str | None, typer.Option(help="Only this Study Instance UID.")] = None,
) -> None:
    """List every image received, refused or set aside, and what became of it."""
    with open_record(config) as (_, record), record.read() as session:
        rows = listing.instances(session, study)
    show(rows, ["sop_instance_uid", "state", "reason"], json, "No image has been received yet.")


@jobs_app.command()
def jobs(config: Config = None, json: Json = False) -> None:
    """List the work: one model on one set of images."""
    with open_record(config) as (_, record), record.read() as session:
        rows = listing.jobs(session)
    show(rows, ["id", "model", "state", "priority", "attempts", "reason"], json, "There is no job yet.")


@deliveries_app.command()
def deliveries(config: Config = None, json: Json = False) -> None:
    """List what was sent where, and how far it got."""
    with open_record(config) as (_, record), record.read() as session:
        rows = listing.deliveries(session)
    show(
        rows,
        ["sop_instance_uid", "kind", "destination", "state", "attempts", "reason"],
        json,
        "Nothing has been sent yet.",
    )


@retry_app.command()
def retry(
    config: Config = None,
    job: Annotated[str | None, typer.Option(help="Only this job.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only dead letters to this destination.")] = None,
) -> None:
    """Try parked jobs and dead letters again, with their attempts forgiven."""
    with open_record(config) as (_, record), record.write() as session:
        letters = db_deliveries.retry(session, actor=ACTOR, destination=destination, job_id=job)
        parked = [] if destination else ([job] if job else db_jobs.parked(session))
        tried = sum(db_jobs.retry(session, one, actor=ACTOR) for one in parked)
    err.print(f"{tried} parked jobs and {letters} dead letters are tried again.")
    if (job or destination) and not tried and not letters:
        raise typer.Exit(EXIT_FAILED)
