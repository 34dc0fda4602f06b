"""`radnode evaluate`: a bundle against labelled images, through the serving path."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models import registry
from models.datasets import SampleSet, read
from models.datasets.located import Located
from models.datasets.pixels import Images
from models.datasets.samples import Problems
from models.errors import DatasetError, ModelError
from models.evaluation.binary import PREVALENCES
from models.evaluation.boxes import with_boxes
from models.evaluation.document import Evaluation, Request, evaluate
from models.evaluation.figures import Rules
from models.evaluation.html import render
from models.evaluation.parts import choose_part, read_parts
from models.evaluation.pictures import worst_errors
from models.evaluation.truth import NEGATIVE_NAMES
from models.registry import Bundle
from models.runner import load_runner

EXIT_FAILED = 1
FIGURES = ("auroc", "auprc", "sensitivity", "specificity", "brier", "ece")
FIGURES_OF_NARROW = ("auroc", "sensitivity", "specificity")
WIDE = 190
"""Columns that all of FIGURES take with their intervals; what is written into a file has them."""
MOST_NAMED = 20
"""Files that could not be judged, and notes, named one by one."""

app = typer.Typer(help="Measure a model on labelled images.")

# What these print are names of others' files, labels and hospitals: no markup and no :name: is read from them.
_out = Console(highlight=False, markup=False, emoji=False)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False)


@app.command("evaluate")
def command(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or the id of an installed model.")],
    labels: Annotated[Path, typer.Option(help="CSV with the columns file, source, patient, label.")],
    images: Annotated[Path, typer.Option(help="The folder that the files are relative to.")],
    *,
    kind: Annotated[
        str | None, typer.Option(help="How the label file is to be read: labels-csv, for an .npz medmnist, and others.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for that kind; may be repeated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only this label of the model; may be repeated. All by default.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="What the file calls images without a finding; may be repeated.")
    ] = None,
    rename: Annotated[list[str] | None, typer.Option(help="FILE_LABEL=MODEL_LABEL; may be repeated.")] = None,
    split_file: Annotated[
        Path | None, typer.Option(help="CSV with the columns file and split, or one file a line.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="Part of the split to judge; test where there is a split.")] = None,
    against: Annotated[str | None, typer.Option(help="Another bundle, compared on the same images.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="CSV of boxes: image, finding, x, y, width, height.")] = None,
    boxes_side: Annotated[
        float | None, typer.Option(min=1, help="Longest side of the images the boxes were drawn on, if not these.")
    ] = None,
    explain: Annotated[int, typer.Option(min=0, help="Images to test the maps on (deletion, randomisation).")] = 0,
    prevalence: Annotated[
        list[float] | None, typer.Option(help="Share of ill people for PPV and NPV; may be repeated. 0.05 and 0.2.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of patients.")] = 1000,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a report for people to this file.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Worst errors per label shown in the report.")] = 3,
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output and nothing else.")
    ] = False,
) -> None:
    """All figures per source and label, with 95 % intervals over patients. Images whose labels the model has no word
    for are counted and skipped; unreadable files are listed."""
    try:
        if not labels.exists():
            raise DatasetError(f"there is no label file {labels}")
        there = Located(images)
        samples = _samples(labels, kind or _kind_of(labels), _pairs(option), boxes, there)
        chosen = choose_part(samples, None if split_file is None else _parts(split_file, there), part)
        request = Request(
            Rules(resamples=resamples, prevalences=_shares(prevalence)),
            negative=tuple(negative or NEGATIVE_NAMES),
            rename=_pairs(rename),
            labels=tuple(label or ()),
            explain=explain,
            boxes_side=boxes_side,
        )
        found = run(_find(bundle), chosen, Images(images), request, None if against is None else _find(against))
        if html is not None:
            _write_html(html, found, _find(bundle), Images(images), pictures)
    except ModelError as error:
        _err.print(f"radnode: {error}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    if json_output:
        typer.echo(json.dumps(found.document, indent=2, allow_nan=False))
        return
    _print(found.document)


def run(
    bundle: Bundle, found: SampleSet, images: Images, request: Request, against: Bundle | None = None
) -> Evaluation:
    """Load the networks and evaluate, with a bar on standard error where that is a terminal. Raises ModelError."""
    other = None if against is None else (against, load_runner(against))
    passes = len(found.samples) * (1 if against is None else 2)
    with Progress(console=_err, transient=True, disable=not _err.is_terminal) as bar:
        task = bar.add_task("images", total=passes)
        return evaluate(
            bundle, load_runner(bundle), found, images, request, against=other, each=lambda: bar.advance(task)
        )


def _kind_of(labels: Path) -> str:
    return "medmnist" if labels.suffix == ".npz" else "labels-csv"


def _samples(labels: Path, kind: str, options: dict[str, str], boxes: Path | None, there: Located) -> SampleSet:
    # However many rows cannot be used: they are counted, and the others are judged.
    found = read(kind, {"file": labels, "max_bad_fraction": 1, **options})
    problems = Problems()
    moved = [there.moved(sample, problems)[0] for sample in found.samples]
    taken = Counter(sample.file for sample in moved)
    # An image that two rows lead to is that of the row which names it; the other row's is missing.
    samples = tuple(
        new if taken[new.file] == 1 or new.file == old.file else old
        for old, new in zip(found.samples, moved, strict=True)
    )
    found = replace(found, samples=samples, problems=(*found.problems, *problems.all()))
    return found if boxes is None else replace(found, samples=tuple(with_boxes(found.samples, boxes)))


def _parts(split_file: Path, there: Located) -> dict[str, str]:
    """By the paths that are there, as the samples are: a split may name images as the table does, or as a run did."""
    return {there.find(file) or file: part for file, part in read_parts(split_file).items()}


def _pairs(given: list[str] | None) -> dict[str, str]:
    found = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise DatasetError(f"{one!r} is not NAME=VALUE")
        found[name] = value
    return found


def _shares(given: list[float] | None) -> tuple[float, ...]:
    if any(not 0 < share < 1 for share in given or ()):
        raise DatasetError("a prevalence is a share between 0 and 1")
    return tuple(given) if given else PREVALENCES


def _write_html(path: Path, found: Evaluation, bundle: Bundle, images: Images, pictures: int) -> None:
    shown = worst_errors(bundle, load_runner(bundle), found.judged, images, each=pictures) if pictures else []
    try:
        path.write_text(render(found.document, shown), encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"the report cannot be written to {path}") from error


def _find(name: str) -> Bundle:
    folder = Path(name)
    return registry.load_bundle(folder) if folder.is_dir() else registry.load(name)


def _print(document: dict[str, Any]) -> None:
    _say(f"{document['model']} {document['version']}: {document['images']} images of {document['patients']} patients")
    tables = _tables()
    names = FIGURES if tables.width >= WIDE else FIGURES_OF_NARROW
    for label in document["labels"]:
        table = Table("source", "images", "positive", *names, title=_plain(label))
        rows = {**document["sources"], "all images together": document["all_images"]}
        for source, whole in rows.items():
            one = whole["labels"][label]
            counts = (str(one["images"]), str(one["positive_images"]))
            table.add_row(_plain(source), *counts, *(_shown(one[name]) for name in names))
        mean = document["mean_of_sources"]["labels"][label]
        table.add_row("mean of sources", "", "", *(_shown(mean[name]) for name in names))
        tables.print(table)
    if document["exclusive"]:
        _print_classes(document)
    for one in document["not_computed"]:
        _say(f"Not computed: {one['source']}, {one['label']}: {one['why']}.")
    if document["source_test"]:
        _say(document["source_test"]["verdict"])
    elif len(document["sources"]) > 1:
        _say(
            "Figures of all images together count telling the sources apart as skill. Only those within a source stand."
        )
    for name, one in document.get("comparison", {}).get("mean_of_sources", {}).items():
        if name != "labels":
            _say(f"Difference to {document['comparison']['against']['model']}, {name}: {_shown(one)}")
    _print_left_out(document)


def _print_classes(document: dict[str, Any]) -> None:
    names = ("top1_accuracy", "mean_recall", "mean_f1", "kappa", "ece_of_top1")
    table = Table("source", *names, title="decision among classes")
    rows = {**document["sources"], "all images together": document["all_images"]}
    for source, whole in {**rows, "mean of sources": document["mean_of_sources"]}.items():
        table.add_row(_plain(source), *(_shown(whole["classes"][name]) for name in names))
    _tables().print(table)


def _print_left_out(document: dict[str, Any]) -> None:
    for label, count in document["skipped"].items():
        _say(f"Skipped: {count} images labelled {label}, which this model has no word for.")
    entries = [*document["unreadable"], *document["refused_by_gate"]]
    for entry in entries[:MOST_NAMED]:
        _say(f"Not judged: {entry['file']}: {entry['reason']}")
    if len(entries) > MOST_NAMED:
        _say(f"Not judged: {len(entries) - MOST_NAMED} more; --json lists all.")
    for problem in document["problems"][:MOST_NAMED]:
        count = f" ({problem['count']} times)" if problem["count"] > 1 else ""
        _say(f"Note: {problem['where']}: {problem['what']}{count}")
    if len(document["problems"]) > MOST_NAMED:
        _say(f"Note: {len(document['problems']) - MOST_NAMED} more; --json lists all.")


def _tables() -> Console:
    """Into a file or another program all columns are written, however wide a terminal is."""
    return _out if _out.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDE)


def _say(line: str) -> None:
    _out.print(_plain(line), soft_wrap=True)


def _plain(text: str) -> str:
    """Names come out of files; a terminal obeys what does not print."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _shown(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
