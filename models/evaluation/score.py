"""A bundle on labelled images, through the very path that serves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.contracts import GreyImage
from models.datasets.labels import LabelledImage
from models.errors import DatasetError, PreprocessError
from models.evaluation.report import Scored, names, report
from models.preprocess import grey_from_uint8
from models.reading import read_image
from models.registry import Bundle
from models.runner import Runner

NEGATIVE = "normal"


@dataclass
class Skipped:
    """What was not scored: unreadable files by name, labels the model does not know by count."""

    files: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)


def open_grey(path: Path) -> GreyImage:
    """A JPEG or PNG as the models take it. Raises DatasetError where it cannot be read."""
    try:
        with Image.open(path) as image:
            return grey_from_uint8(np.asarray(image.convert("L"), dtype=np.uint8))
    except (OSError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path.name} is no readable image") from error


def evaluate(
    bundle: Bundle,
    runner: Runner,
    rows: Sequence[LabelledImage],
    images: Path,
    *,
    resamples: int = 1000,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The report of a single-label bundle; images with a label other than its own or "normal" are counted and skipped.

    Raises DatasetError when nothing is left to score.
    """
    label = bundle.manifest.labels[0].key
    kept: list[LabelledImage] = []
    probabilities: list[float] = []
    skipped = Skipped()
    for row in rows:
        on_image()
        if row.label not in (NEGATIVE, label):
            skipped.labels[row.label] += 1
            continue
        try:
            reading = read_image(bundle, runner, open_grey(images / row.file))
        except (DatasetError, PreprocessError):
            skipped.files.append(row.file)
            continue
        kept.append(row)
        probabilities.append(reading.findings[0].probability)
    if not kept:
        raise DatasetError("no image could be scored; check the folder and the labels")
    scored = Scored(
        labels=np.array([row.label == label for row in kept], dtype=np.float64),
        probabilities=np.array(probabilities),
        patients=names([row.patient for row in kept]),
        sources=names([row.source for row in kept]),
        views=names([row.view for row in kept]),
        sexes=names([row.sex for row in kept]),
    )
    return {
        "bundle": {
            "id": bundle.manifest.id,
            "version": bundle.manifest.version,
            "digest": bundle.identity.bundle_digest,
        },
        "label": label,
        **report(scored, bundle.manifest.operating_points[0].threshold, resamples=resamples),
        "skipped": {"unreadable": skipped.files, "other_labels": dict(skipped.labels)},
    }
