"""`radnode routes | config | db`, and the names kept for later releases."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from db import schema
from db.domain import InstanceView, StudyView
from db.session import Record, safe_url
from db.states import InstanceState
from db.types import utcnow
from node import header, routing
from node.cli.common import Config, Json, err, later, out
from node.identity import MANUFACTURER
from node.settings import Settings, load
from node.syntaxes import readable_sop_classes
from node.verdicts import plan

routes_app = typer.Typer(no_args_is_help=True)
config_app = typer.Typer(no_args_is_help=True)
db_app = typer.Typer(no_args_is_help=True)
bench_app = typer.Typer()
federate_app = typer.Typer(no_args_is_help=True)


@routes_app.callback()
def routes() -> None:
    """Routing rules."""


@routes_app.command("test")
def routes_test(
    file: Annotated[Path, typer.Argument(help="A DICOM file.", exists=True, dir_okay=False)],
    calling_ae: Annotated[str, typer.Option(help="The AE title it would come from.")] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Explain, rule by rule, how a file would be routed."""
    settings = load(config)
    facts = header.facts(header.read_file(file), calling_ae)
    report = explain(settings, facts)
    if json:
        typer.echo(json_module.dumps(report, indent=2))
        return
    for outcome in report["routes"]:
        out.print(f"route {outcome['route']}: {'matches' if outcome['matched'] else 'does not match'}")
        for check in outcome["checks"]:
            out.print(f"  {'yes' if check['held'] else 'NO '}  {check['detail']}", markup=False)
    out.print(f"outcome: {report['outcome']}", markup=False)


def explain(settings: Settings, facts: dict[str, Any]) -> dict[str, Any]:
    """Every route's conditions held against one file's facts, and what would happen."""
    outcomes = [routing.try_route(route, facts) for route in settings.routes]
    chosen = routing.choose(settings.routes, facts, settings.route_match)
    stored = _why_stored(settings, facts)
    if stored:
        outcome = f"stored, not read: {stored}"
    else:
        outcome = "; ".join(
            f"{route.name} -> {', '.join(route.models)} ({route.priority}), "
            f"{'as it arrives' if route.mode == 'instance' else 'when the study is complete'}, "
            f"results to {', '.join(route.destinations)}"
            for route, _ in chosen
        )
    return {"facts": facts, "routes": [o.as_dict() for o in outcomes], "outcome": outcome}


def _why_stored(settings: Settings, facts: dict[str, Any]) -> str:
    """What the sweeper would write of a study that is this image alone; "" where a model reads it."""
    now = utcnow()
    image = InstanceView(
        id=0,
        sop_instance_uid="",
        series_instance_uid="",
        sop_class_uid=facts["sop_class_uid"],
        state=InstanceState.RECEIVED,
        facts=facts,
        calling_ae=facts["calling_ae"],
        own_result=facts["manufacturer"] == MANUFACTURER,
        received_at=now,
    )
    study = StudyView(
        id=0,
        study_instance_uid="",
        version=0,
        first_received_at=now,
        last_received_at=now,
        calling_ae=image.calling_ae,
        expected_instances=None,
        instances=(image,),
        routed=frozenset(),
    )
    readable = readable_sop_classes(settings.read_secondary_captures, settings.read_for_processing)
    return next((reason for _, reason in plan(study, settings, readable, None, now).stored), "")


@config_app.callback()
def config_group() -> None:
    """Settings."""


@config_app.command("check")
def config_check(config: Config = None) -> None:
    """Read the settings as `serve` would and say what they amount to."""
    settings = load(config)
    out.print(f"DICOM {settings.ae_title}@{settings.dicom_host}:{settings.dicom_port}")
    out.print(f"data folder {settings.data_dir}, record {safe_url(settings.record_url)}")
    out.print(f"broker {'embedded' if settings.embedded_broker else 'external'}")
    out.print(f"peers {', '.join(settings.peers) or 'none: results stay on this node'}")
    out.print(f"routes {', '.join(route.name for route in settings.routes) or 'none: images are stored only'}")
    err.print("The settings are valid.")


@db_app.callback()
def db_group() -> None:
    """The database."""


@db_app.command("upgrade")
def db_upgrade(config: Config = None) -> None:
    """Bring the database to this release's tables."""
    record = Record(load(config).record_url)
    try:
        before = schema.current(record)
        schema.upgrade(record)
        after = schema.current(record)
    finally:
        record.close()
    err.print(f"The record was at schema {before or 'none'} and is at {after}.")


@bench_app.command()
def bench() -> None:
    """Measure this machine (a release to come)."""
    later("`radnode bench`")


@federate_app.callback()
def federate() -> None:
    """Train together with other hospitals (a release to come)."""


@federate_app.command()
def hub() -> None:
    """The hub (a release to come)."""
    later("`radnode federate hub`")


@federate_app.command()
def site() -> None:
    """A site (a release to come)."""
    later("`radnode federate site`")
