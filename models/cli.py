"""`radnode models`: list, show and verify bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from models.errors import BundleError, ModelError
from models.manifest import MANIFEST, Manifest, OperatingPoint
from models.registry import Bundle, candidates, load, load_bundle
from models.runner import check_golden, load_runner

EXIT_FAILED = 1
EXIT_LATER = 3

app = typer.Typer(no_args_is_help=True, help="Model bundles.")

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output and nothing else.")]
Id = Annotated[str, typer.Argument(help="The bundle's id.")]
Folders = Annotated[
    list[Path] | None,
    typer.Option(
        "--models-dir",
        exists=True,
        file_okay=False,
        help="A folder with more bundles, such as one of work.model_dirs; may be given several times.",
    ),
]


@app.command("list")
def list_models(*, models_dir: Folders = None, json_output: AsJson = False) -> None:
    """Every bundle found, the damaged ones with the reason; exit code 1 if one is damaged."""
    rows = [_row(folder) for folder in candidates(models_dir or ())]
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        table = Table("id", "version", "name", "state")
        for row in rows:
            table.add_row(row["id"], row["version"], row["name"], row["state"])
        _out.print(table)
    else:
        _out.print("There is no bundle.")
    damaged = [row for row in rows if row["state"] != "ok"]
    for row in damaged:
        _say(f"{row['folder']}: {row['reason']}")
    if damaged:
        raise typer.Exit(EXIT_FAILED)


def _row(folder: Path) -> dict[str, str]:
    """A damaged bundle goes by its folder's name: the id it claims may be that of a whole one."""
    try:
        found = load_bundle(folder)
    except BundleError as error:
        return {
            "id": folder.name,
            "version": "",
            "name": "",
            "state": "damaged",
            "reason": str(error),
            "folder": str(folder),
        }
    manifest = found.manifest
    return {
        "id": manifest.id,
        "version": manifest.version,
        "name": manifest.name,
        "state": "ok",
        "reason": "",
        "folder": str(folder),
    }


@app.command()
def show(model: Id, *, models_dir: Folders = None, json_output: AsJson = False) -> None:
    """What a bundle is for, what it finds and how well; with --json the whole manifest."""
    bundle = _load(model, models_dir)
    if json_output:
        typer.echo((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
        return
    typer.echo("\n".join(_summary(bundle)))


def _summary(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    return [
        f"{manifest.id} {manifest.version}: {manifest.name}",
        f"  {manifest.intended_use}",
        f"  status: {manifest.regulatory_status}",
        f"  licence: {manifest.licence}",
        f"  network: {manifest.architecture.name}, input {manifest.architecture.input_shape}",
        f"  weights: sha256 {bundle.identity.weights_digest}",
        "Findings:",
        *(f"  {_point(manifest, point)}" for point in manifest.operating_points),
        "Limits:",
        *(f"  - {limit}" for limit in manifest.limits),
    ]


def _point(manifest: Manifest, point: OperatingPoint) -> str:
    display = next(label.display for label in manifest.labels if label.key == point.label)
    rates = (("sensitivity", point.sensitivity), ("specificity", point.specificity))
    measured = ", ".join(f"{name} {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]" for name, rate in rates)
    return f"{display}: present from {point.threshold:.3f} ({point.name}), {measured}"


@app.command()
def verify(model: Id, *, models_dir: Folders = None, json_output: AsJson = False) -> None:
    """Hold every file against its digest and the network against its test vectors; exit code 1 where one differs."""
    document: dict[str, Any] = {"id": model, "verified": False}
    try:
        bundle = load(model, models_dir or ())
        document |= {"version": bundle.manifest.version, "digest": bundle.identity.bundle_digest}
        worst = check_golden(bundle, load_runner(bundle))
    except ModelError as error:
        if json_output:
            typer.echo(json.dumps(document | {"reason": str(error)}, indent=2))
        _say(str(error))
        raise typer.Exit(EXIT_FAILED) from error
    if json_output:
        typer.echo(json.dumps(document | {"verified": True, "largest_difference": worst}, indent=2))
        return
    typer.echo(
        f"{model} {bundle.manifest.version}: every digest fits, and the test vectors are answered as recorded "
        f"(largest difference {worst:.1e})"
    )


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
    _say(f"`radnode models {what} {model}` is not in this release; put the folder where work.model_dirs points.")
    raise typer.Exit(EXIT_LATER)


def _load(model: str, folders: list[Path] | None) -> Bundle:
    try:
        return load(model, folders or ())
    except ModelError as error:
        _say(str(error))
        raise typer.Exit(EXIT_FAILED) from error


def _say(message: str) -> None:
    # Folder names and ids are others' words: no markup is read from them.
    _err.print(f"radnode: {message}", markup=False, soft_wrap=True)
