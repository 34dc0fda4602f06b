"""`radnode evaluate`: a bundle held against labelled images."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models.datasets.labels import read_labels
from models.errors import ModelError
from models.evaluation.score import evaluate as run_evaluation
from models.registry import find_folders, load_bundle
from models.runner import load_runner

app = typer.Typer()
err = Console(stderr=True, highlight=False)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or the id of an installed one.")],
    labels: Annotated[Path, typer.Option(help="labels.csv: file, source, patient, label.")],
    images: Annotated[Path, typer.Option(help="The folder that the label file's paths start from.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    resamples: Annotated[int, typer.Option(min=10, help="Bootstrap resamples.")] = 1000,
) -> None:
    """Measure a model on labelled images, with patient-level 95 % intervals, per source."""
    try:
        found = load_bundle(Path(bundle) if Path(bundle).is_dir() else find_folders().get(bundle, Path(bundle)))
        rows = read_labels(labels)
        runner = load_runner(found)
        with Progress(console=err, transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("reading", total=len(rows))
            result = run_evaluation(
                found, runner, rows, images, resamples=resamples, on_image=lambda: progress.advance(task)
            )
    except ModelError as error:
        err.print(f"radnode: {error}")
        raise typer.Exit(1) from error
    typer.echo(json_module.dumps(result, indent=2)) if json else _show(result)


def _show(result: dict[str, Any]) -> None:
    table = Table("source", "images", "patients", "AUROC (95 %)", "sensitivity", "specificity", "AUPRC")
    for name, group in {**result["sources"], "all": result["overall"]}.items():
        area = group["auroc"]
        table.add_row(
            name,
            str(group["images"]),
            str(group["patients"]),
            f"{area['value']} ({area['low']} to {area['high']})",
            str(group["sensitivity"]["value"]),
            str(group["specificity"]["value"]),
            str(group["auprc"]["value"]),
        )
    Console(highlight=False).print(table)
    skipped = result["skipped"]
    err.print(f"skipped: {len(skipped['unreadable'])} unreadable, other labels {skipped['other_labels'] or 'none'}")
