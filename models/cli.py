"""`radnode models`: list, show and verify bundles."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.errors import ModelError
from models.registry import Bundle, find_folders, load
from models.runner import load_runner

EXIT_LATER = 3
app = typer.Typer(no_args_is_help=True, help="Model bundles.")
err = Console(stderr=True, highlight=False)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Id = Annotated[str, typer.Argument(help="The bundle's id.")]


@app.command("list")
def list_models(json: Json = False) -> None:
    """The bundles of this installation."""
    rows = []
    for model_id, folder in find_folders().items():
        manifest = load(model_id).manifest
        rows.append({"id": model_id, "version": manifest.version, "name": manifest.name, "folder": str(folder)})
    if json:
        typer.echo(json_module.dumps(rows, indent=2))
        return
    table = Table("id", "version", "name")
    for row in rows:
        table.add_row(row["id"], row["version"], row["name"])
    Console(highlight=False).print(table)


@app.command()
def show(model: Id, json: Json = False) -> None:
    """A bundle's card, or its whole manifest as JSON."""
    bundle = _load(model)
    if json:
        typer.echo(bundle.manifest.model_dump_json(indent=2, by_alias=True))
        return
    typer.echo((bundle.folder / bundle.manifest.file("card")).read_text(encoding="utf-8"))


@app.command()
def verify(model: Id, json: Json = False) -> None:
    """Hold every file against its digest, and the network against its test vectors."""
    try:
        bundle = load(model)
        load_runner(bundle)
    except ModelError as error:
        err.print(f"radnode: {error}")
        raise typer.Exit(1) from error
    if json:
        typer.echo(json_module.dumps({"id": model, "digest": bundle.identity.bundle_digest, "verified": True}))
        return
    typer.echo(f"{model} {bundle.manifest.version}: every digest fits, the test vectors are answered as recorded")


@app.command()
def install(model: Id) -> None:
    """Install a bundle (a release to come)."""
    _later("install", model)


@app.command()
def activate(model: Id) -> None:
    """Activate a bundle (a release to come)."""
    _later("activate", model)


@app.command()
def rollback(model: Id) -> None:
    """Go back to the bundle before (a release to come)."""
    _later("rollback", model)


def _later(what: str, model: str) -> None:
    err.print(f"`radnode models {what} {model}` is not in this release; put the folder where work.model_dirs points.")
    raise typer.Exit(EXIT_LATER)


def _load(model: str) -> Bundle:
    try:
        return load(model)
    except ModelError as error:
        err.print(f"radnode: {error}")
        raise typer.Exit(1) from error
