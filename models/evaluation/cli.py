"""`radnode evaluate`: a bundle against labelled images, through the serving path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from models import registry
from models.datasets.labels import read_labels
from models.errors import DatasetError, ModelError
from models.evaluation.report import report
from models.evaluation.scoring import Scores, score_images
from models.registry import Bundle
from models.runner import load_runner

EXIT_FAILED = 1

app = typer.Typer(help="Measure a model on labelled images.")

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or the id of an installed model.")],
    labels: Annotated[Path, typer.Option(help="CSV with the columns file, source, patient, label.")],
    images: Annotated[Path, typer.Option(help="The folder that the files are relative to.")],
    *,
    label: Annotated[str | None, typer.Option(help="Which of the model's labels; the first by default.")] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of patients.")] = 1000,
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output and nothing else.")
    ] = False,
) -> None:
    """AUROC and the other figures per source, with 95 % intervals over patients. Images listed as anything other than
    "normal" or the model's label are counted and skipped; unreadable files are listed."""
    try:
        document = measure(_find(bundle), labels, images, label=label, resamples=resamples)
    except ModelError as error:
        _err.print(f"radnode: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    if json_output:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    _print(document)


def measure(
    bundle: Bundle, labels: Path, images: Path, *, label: str | None = None, resamples: int = 1000
) -> dict[str, Any]:
    """The document that `radnode evaluate --json` prints.

    Raises BundleError, RuntimeUnavailable, or DatasetError when no image of the model's labels can be read.
    """
    keys = [known.key for known in bundle.manifest.labels]
    key = keys[0] if label is None else label
    if key not in keys:
        raise DatasetError(f"model {bundle.manifest.id} has no label {key}; it knows {', '.join(keys)}")
    scores = score_images(bundle, load_runner(bundle), read_labels(labels), images, label=key)
    if not scores.scored:
        raise DatasetError(f"none of the images in {labels.name} is labelled 'normal' or '{key}' and readable")
    point = next(point for point in bundle.manifest.operating_points if point.label == key)
    return {
        "model": bundle.identity.id,
        "version": bundle.identity.version,
        "bundle_digest": bundle.identity.bundle_digest,
        "label": key,
        "images": len(scores.scored),
        **_left_out(scores),
        **report(scores.scored, point.threshold, resamples=resamples),
    }


def _left_out(scores: Scores) -> dict[str, Any]:
    unreadable = [{"file": file, "reason": reason} for file, reason in scores.unreadable]
    return {"skipped": scores.skipped, "unreadable": unreadable}


def _find(name: str) -> Bundle:
    folder = Path(name)
    return registry.load_bundle(folder) if folder.is_dir() else registry.load(name)


def _print(document: dict[str, Any]) -> None:
    _out.print(f"{document['model']} {document['version']}: {document['label']}, {document['images']} images")
    names = ("auroc", "auprc", "sensitivity", "specificity", "brier", "ece")
    table = Table("source", "images", "patients", *names)
    for source, found in document["sources"].items():
        table.add_row(source, str(found["images"]), str(found["patients"]), *(_shown(found[name]) for name in names))
    _out.print(table)
    for label, count in document["skipped"].items():
        _out.print(f"Skipped: {count} images labelled {label}, which this model has no word for.", markup=False)
    for entry in document["unreadable"]:
        _out.print(f"Unreadable: {entry['file']}: {entry['reason']}", markup=False, soft_wrap=True)


def _shown(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
