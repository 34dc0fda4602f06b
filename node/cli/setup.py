"""`radnode routes | config | db`, and the names kept for later releases."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from db import schema
from db.session import Record, safe_url
from node import header
from node.cli import bench
from node.cli.common import Config, Json, err, later, out
from node.route_test import explain
from node.settings import load

routes_app = typer.Typer(no_args_is_help=True)
config_app = typer.Typer(no_args_is_help=True)
db_app = typer.Typer(no_args_is_help=True)
bench_app = bench.app
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
