"""`radnode fhir`: what was sent to FHIR servers, and what a study would be there."""

from __future__ import annotations

import json as json_lib
from typing import Annotated

import typer

from db import audit, fhir_view, listing
from db.errors import ConfigError
from db.fhir_view import FINISHED, Wanted
from node.cli.common import ACTOR, EXIT_FAILED, Config, Json, err, open_record, show
from node.worklist.fhir import ids
from node.worklist.fhir.bundles import transaction
from node.worklist.fhir.models import checked
from node.worklist.fhir.resources import Writer

app = typer.Typer(no_args_is_help=True)
_EXAMPLE = "https://fhir.example.org/R4"


@app.command()
def sent(config: Config = None, json: Json = False) -> None:
    """List reports for FHIR servers; `radnode retry --destination NAME` sends dead letters again."""
    with open_record(config) as (settings, record), record.read() as session:
        rows = [
            {"report": ids.report_id(row["sop_instance_uid"]), **row}
            for row in listing.deliveries(session)
            if row["destination"] in settings.fhir.destinations
        ]
    show(rows, ["report", "destination", "state", "attempts", "reason"], json, "None was sent.")


@app.command(name="show")
def show_bundles(
    study: Annotated[str, typer.Argument(help="Its Study Instance UID.")],
    config: Config = None,
    destination: Annotated[str, typer.Option(help="As this [fhir.destinations.NAME] gets it.")] = "",
) -> None:
    """Print what a FHIR server gets of a study, one transaction for each report, without sending it."""
    with open_record(config) as (settings, record):
        to = settings.fhir.destinations.get(destination)
        if destination and to is None:
            raise ConfigError(f"no [fhir.destinations.{destination}] entry in the settings")
        with record.read() as session:
            found, _ = fhir_view.works(session, Wanted(study_uid=study, states=FINISHED), limit=10_000)
            told = [(one, fhir_view.earlier(session, one)) for one in found if one.report_uid]
        with record.write() as session:
            audit.note(session, "study_viewed", actor=ACTOR, subject=study, kind="FHIR")
    if not told:
        err.print("No finished report of a study of that UID is here.")
        raise typer.Exit(EXIT_FAILED)
    writer, url = (Writer(settings.fhir), _EXAMPLE) if to is None else (Writer(settings.fhir, to.imaging_study), to.url)
    bundles = [checked(transaction(one, earlier, writer, url)) for one, earlier in told]
    typer.echo(json_lib.dumps(bundles, ensure_ascii=False, indent=1))
