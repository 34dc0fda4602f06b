"""Boxes from a table: image, finding, x, y, width, height in its first six columns, as BBox_List_2017.csv has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from math import isfinite
from pathlib import Path

from models.datasets.samples import Box, Sample
from models.datasets.tables import open_table
from models.errors import DatasetError


def with_boxes(samples: Iterable[Sample], path: Path) -> list[Sample]:
    """Samples with the boxes of their file, by path or else by name without folder and suffix.

    Raises DatasetError naming the line of a row that is no box, or when no box belongs to any sample.
    """
    boxes = _read(path)
    found = [
        replace(sample, boxes=tuple(boxes.get(sample.file) or boxes.get(Path(sample.file).stem) or sample.boxes))
        for sample in samples
    ]
    if not any(sample.boxes for sample in found):
        raise DatasetError(f"{path.name}: none of its boxes belongs to an image of the label file")
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
            box = Box(label, x, y, width, height)
            found[image].append(box)
            if (stem := Path(image).stem) != image:
                found[stem].append(box)
    return found
