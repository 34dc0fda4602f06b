"""`radnode models`, as far as it needs no record: list, show and verify bundles, make keys, pack and sign."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from models.errors import BundleError, ModelError, SigningKeyError
from models.manifest import MANIFEST, Manifest, OperatingPoint
from models.packaging import keys, pack
from models.registry import Bundle, candidates, load, open_bundle
from models.runner import check_golden, load_runner

EXIT_FAILED = 1

app = typer.Typer(no_args_is_help=True, help="Model bundles.")

# Folder names, ids and labels are others' words: no markup and no :name: is read from them.
_out = Console(highlight=False, markup=False, emoji=False)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False)

Row = dict[str, Any]
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
Passphrase = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="File whose first line locks the private key.")
]


@app.command("list")
def list_models(*, models_dir: Folders = None, json_output: AsJson = False) -> None:
    """Every bundle found, the damaged ones with the reason; exit code 1 if one is damaged."""
    print_rows([folder_row(folder) for folder in candidates(models_dir or ())], json_output=json_output)


def print_rows(
    rows: list[Row], *, json_output: bool, columns: Sequence[str] = ("id", "version", "name", "state")
) -> None:
    """Rows as JSON or as a table; names the damaged ones and raises typer.Exit for them."""
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        table = Table(*columns)
        for row in rows:
            table.add_row(*(str(row[column]) for column in columns))
        _out.print(table)
    else:
        _out.print("There is no bundle.")
    damaged = [row for row in rows if row["state"] == "damaged"]
    for row in damaged:
        say(f"{row['folder']}: {row['reason']}")
    if damaged:
        raise typer.Exit(EXIT_FAILED)


def folder_row(folder: Path) -> Row:
    """A damaged bundle goes by its folder's name: the id it claims may be that of a whole one."""
    try:
        found = open_bundle(folder)
    except BundleError as error:
        row = {"id": folder.name, "version": "", "name": "", "state": "damaged", "reason": str(error), "digest": ""}
    else:
        row = {
            "id": found.manifest.id,
            "version": found.manifest.version,
            "name": found.manifest.name,
            "state": "ok",
            "reason": "",
            "digest": found.identity.bundle_digest,
        }
    return row | {"folder": str(folder)}


@app.command()
def show(model: Id, *, models_dir: Folders = None, json_output: AsJson = False) -> None:
    """What a bundle is for, what it finds and how well; with --json the whole manifest."""
    with told():
        print_bundle(load(model, models_dir or ()), json_output=json_output)


def print_bundle(bundle: Bundle, *, json_output: bool) -> None:
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
        *_listed("Limits:", manifest.limits),
        *_listed("Not to be used for:", manifest.contraindications),
        *_listed("Changes:", [f"{change.version}: {change.text}" for change in manifest.changelog]),
        *_listed("References:", manifest.references),
    ]


def _listed(title: str, texts: tuple[str, ...] | list[str]) -> list[str]:
    return [title, *(f"  - {text}" for text in texts)] if texts else []


def _point(manifest: Manifest, point: OperatingPoint) -> str:
    display = next(label.display for label in manifest.labels if label.key == point.label)
    rates = (("sensitivity", point.sensitivity), ("specificity", point.specificity))
    measured = ", ".join(f"{name} {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]" for name, rate in rates)
    return f"{display}: present from {point.threshold:.3f} ({point.name}), {measured}"


@app.command()
def verify(model: Id, *, models_dir: Folders = None, json_output: AsJson = False) -> None:
    """Hold every file against its digest and the network against its test vectors; exit code 1 where one differs."""
    print_verification(model, lambda: load(model, models_dir or ()), json_output=json_output)


def print_verification(model: str, find: Callable[[], Bundle], *, json_output: bool) -> None:
    """Verify the bundle that ``find`` loads; raises typer.Exit where it is not whole or answers differently."""
    document: dict[str, Any] = {"id": model, "verified": False}
    try:
        bundle = find()
        document |= {"version": bundle.manifest.version, "digest": bundle.identity.bundle_digest}
        worst = check_golden(bundle, load_runner(bundle))
    except ModelError as error:
        if json_output:
            typer.echo(json.dumps(document | {"reason": str(error)}, indent=2))
        say(str(error))
        raise typer.Exit(EXIT_FAILED) from error
    if json_output:
        typer.echo(json.dumps(document | {"verified": True, "largest_difference": worst}, indent=2))
        return
    typer.echo(
        f"{model} {bundle.manifest.version}: every digest fits, and the test vectors are answered as recorded "
        f"(largest difference {worst:.1e})"
    )


@app.command()
def keygen(
    folder: Annotated[Path, typer.Option("--out", file_okay=False, help="Folder for the two files.")],
    name: Annotated[str, typer.Option(help="Name of the two files, NAME.key and NAME.pub.")] = "models",
    passphrase_file: Passphrase = None,
) -> None:
    """Make a key pair for signing bundles. NAME.pub goes to every node that shall trust it; NAME.key to none."""
    with told():
        if Path(name).name != name:
            raise SigningKeyError("the name of a key is no path")
        private, public, identity = keys.generate(folder, name, _first_line(passphrase_file))
    typer.echo(f"key {identity}: {private} signs, {public} is for the nodes' folders of trusted keys")


@app.command("pack")
def pack_bundle(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A bundle's folder.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The zip to write; its signature goes beside it.")],
    key: Annotated[Path | None, typer.Option(dir_okay=False, help="Private key to sign with.")] = None,
    passphrase_file: Passphrase = None,
    *,
    json_output: AsJson = False,
) -> None:
    """Make one zip of a bundle and, with a key, sign it. The same bundle gives the same bytes."""
    with told():
        signing = None if key is None else keys.read_private(key, _first_line(passphrase_file))
        made = pack(folder, out, signing)
    if json_output:
        typer.echo(
            json.dumps({"file": str(made.path), "sha256": made.sha256, "signed_by": made.signed_by or None}, indent=2)
        )
        return
    signed = f", signed with key {made.signed_by}" if made.signed_by else ""
    typer.echo(f"{made.path}: sha256 {made.sha256}{signed}")
    if not made.signed_by:
        say("it is not signed: nodes take it only with --allow-unsigned, and never in clinical_mode")


def _first_line(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes().partition(b"\n")[0].rstrip(b"\r")


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong with a model is one line on standard error and exit code 1."""
    try:
        yield
    except ModelError as error:
        say(str(error))
        raise typer.Exit(EXIT_FAILED) from error


def say(message: str) -> None:
    _err.print(f"radnode: {message}", soft_wrap=True)
