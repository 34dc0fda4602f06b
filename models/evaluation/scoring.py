"""Labelled images through the serving path: the same steps, runtime, calibration and threshold a hospital gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from models.contracts import GreyImage, Presence
from models.datasets.images import read_grey
from models.datasets.labels import LabelledImage
from models.errors import DatasetError, NoReadingError, PreprocessError
from models.preprocess import grey_from_uint8
from models.reading import read_image
from models.registry import Bundle
from models.runner import Runner

NORMAL = "normal"
Change = Callable[[GreyImage], GreyImage]


@dataclass(frozen=True)
class Scored:
    """One image and what the model said of it."""

    row: LabelledImage
    positive: bool
    logit: float
    probability: float
    presence: Presence


@dataclass(frozen=True)
class Scores:
    """skipped: images per label that the model has no word for. unreadable: (file, reason)."""

    scored: tuple[Scored, ...]
    skipped: dict[str, int]
    unreadable: tuple[tuple[str, str], ...]


def score_images(
    bundle: Bundle,
    runner: Runner,
    rows: Iterable[LabelledImage],
    folder: Path,
    *,
    label: str,
    change: Change | None = None,
) -> Scores:
    """Read every image labelled ``label`` or "normal"; a file that cannot be read is listed, and the rest goes on.

    change: applied to each image first, for robustness studies.
    """
    scored, skipped, unreadable = [], Counter[str](), []
    for row in rows:
        if row.label not in (NORMAL, label):
            skipped[row.label] += 1
            continue
        try:
            image = grey_from_uint8(read_grey(folder / row.file))
            reading = read_image(bundle, runner, image if change is None else change(image))
        except (DatasetError, PreprocessError, NoReadingError) as error:
            unreadable.append((row.file, str(error)))
            continue
        finding = next(finding for finding in reading.findings if finding.key == label)
        scored.append(Scored(row, row.label == label, finding.logit, finding.probability, finding.presence))
    return Scores(tuple(scored), dict(skipped), tuple(unreadable))
