"""Boxes from a table: image, finding, x, y, width, height in its first six columns, as BBox_List_2017.csv has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from math import isfinite
from pathlib import Path

from models.datasets.paths import shown
from models.datasets.samples import Box, Sample
from models.datasets.tables import open_table
from models.errors import DatasetError


def with_boxes(samples: Iterable[Sample], path: Path) -> list[Sample]:
    """Samples with the boxes of their file, or of each slice of their series, by path or else by name without folder
    and suffix.

    Raises DatasetError naming the line of a row that is no box, for a name that several images have, or when no box
    belongs to any sample.
    """
    listed = list(samples)
    boxes = _of_files(_read(path), [file for sample in listed for file in sample.every_file], path.name)
    found = []
    for sample in listed:
        own = tuple(
            replace(box, file=file) if sample.files else box for file in sample.every_file for box in boxes[file]
        )
        found.append(replace(sample, boxes=own or sample.boxes))
    if not any(sample.boxes for sample in found):
        raise DatasetError(f"{path.name}: none of its boxes belongs to an image of the label file")
    return found


def _of_files(boxes: dict[str, list[Box]], files: list[str], table: str) -> dict[str, list[Box]]:
    known, called = set(files), defaultdict[str, set[str]](set)
    for file in files:
        called[Path(file).stem].add(file)
    found: dict[str, list[Box]] = defaultdict(list)
    for image, drawn in boxes.items():
        meant = {image} if image in known else called.get(image) or called.get(Path(image).stem, set())
        if len(meant) > 1:
            raise DatasetError(f"{table}: {len(meant)} images are called {shown(image)}; name their folders")
        for file in meant:
            found[file] += drawn
    return found


def _read(path: Path) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = defaultdict(list)
    with open_table(path) as table:
        for row in table.rows:
            try:
                image, label, *numbers = row[:6]
                x, y, width, height = map(float, numbers)
            except ValueError as error:
                raise DatasetError(f"{path.name}, line {table.line()}: no image, finding and four numbers") from error
            if not all(map(isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
                raise DatasetError(f"{path.name}, line {table.line()}: the box is empty")
            found[image].append(Box(label, x, y, width, height))
    return found
