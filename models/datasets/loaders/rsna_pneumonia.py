"""RSNA Pneumonia Detection Challenge 2018: `stage_2_train_labels.csv`, and `stage_2_detailed_class_info.csv`.

A row is a box; an image has as many rows as boxes, and one without any.
"""

from __future__ import annotations

from collections import defaultdict
from math import isfinite
from pathlib import Path

from models.datasets import options
from models.datasets.paths import relative, shown
from models.datasets.samples import Box, Draft, Problems, Sample, SharedTargets
from models.datasets.tables import open_table
from models.errors import DatasetError

LABEL = "pneumonia"
CLASSES = {"Normal": "normal", "No Lung Opacity / Not Normal": "not_normal", "Lung Opacity": "lung_opacity"}
_OPACITY = "lung_opacity"
_SOURCE = "rsna-pneumonia"


class Options(options.Options):
    """file: the boxes. details: the table of classes; with it the set is exclusive, of three classes.

    ending: what follows the image's id in its file's name.
    """

    file: Path
    details: Path | None = None
    ending: str = ".dcm"


def load(options: Options) -> Draft:
    """Raises DatasetError for a target that is no 0 or 1, a class that is none of three, or an image with both."""
    problems = Problems()
    positive, boxes = _targets(options.file, _OPACITY if options.details else LABEL, problems)
    classes = _classes(options.details, problems) if options.details else None
    labels = tuple(CLASSES.values()) if classes is not None else (LABEL,)
    shared, samples = SharedTargets(labels), []
    for image, is_positive in positive.items():
        file = relative(f"{image}{options.ending}", options.file.name)
        if classes is None:
            found = frozenset((LABEL,)) if is_positive else frozenset[str]()
        elif image not in classes:
            problems.leave_out(f"{options.file.name}, {shown(image)}", "the image is not in the table of classes")
            continue
        elif (classes[image] == _OPACITY) != is_positive:
            problems.leave_out(f"{options.file.name}, {shown(image)}", "target and class contradict each other")
            continue
        else:
            found = frozenset((classes[image],))
        targets = shared.of_positive(found)
        # The challenge gives no patients: its patientId is an image's.
        samples.append(Sample(file, image, options.source or _SOURCE, targets, boxes=tuple(boxes[image])))
    what = "the set names images, not patients; one person's images may land in two parts of a split"
    problems.note(options.file.name, what)
    return Draft(_SOURCE, labels, classes is not None, samples, problems, len(positive) + len(problems.left_out))


def _targets(path: Path, label: str, problems: Problems) -> tuple[dict[str, bool], dict[str, list[Box]]]:
    positive: dict[str, bool] = {}
    boxes: dict[str, list[Box]] = defaultdict(list)
    with open_table(path) as table:
        for row in table.select(problems, ("patientId", "x", "y", "width", "height", "Target")):
            image, *numbers, target = row.values
            where = f"{path.name}, line {row.line}"
            if target not in ("0", "1"):
                raise DatasetError(f"{where}: Target is {shown(target)}, neither 0 nor 1")
            if positive.setdefault(image, target == "1") != (target == "1"):
                raise DatasetError(f"{where}: {shown(image)} occurs with Target 0 and 1")
            if target == "0":
                continue
            box = _box(label, numbers)
            if box is None:
                problems.note(where, "a box is not four numbers of a box; not used")
            elif box in boxes[image]:
                problems.note(where, "a box occurs twice; one was kept")
            else:
                boxes[image].append(box)
    return positive, boxes


def _box(label: str, numbers: list[str]) -> Box | None:
    try:
        x, y, width, height = map(float, numbers)
    except ValueError:
        return None
    fits = all(map(isfinite, (x, y, width, height))) and width > 0 and height > 0
    return Box(label, x, y, width, height) if fits else None


def _classes(path: Path, problems: Problems) -> dict[str, str]:
    found: dict[str, str] = {}
    with open_table(path) as table:
        for row in table.select(problems, ("patientId", "class")):
            image, name = row.values
            if name not in CLASSES:
                raise DatasetError(f"{path.name}, line {row.line}: {shown(name)} is none of {', '.join(CLASSES)}")
            if found.setdefault(image, CLASSES[name]) != CLASSES[name]:
                raise DatasetError(f"{path.name}, line {row.line}: {shown(image)} has two classes")
    return found
