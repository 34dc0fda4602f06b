"""A bundle that was just made, measured as `radnode evaluate` would; and how much of it the bundle itself may say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.datasets.pixels import Images
from models.datasets.samples import SampleSet
from models.errors import DatasetError
from models.evaluation.document import evaluate
from models.evaluation.html import FIRST
from models.evaluation.pictures import Picture, worst_errors
from models.manifest import OperatingPoint
from models.registry import load_bundle
from models.runner import load_runner

PICTURES = 3
"""Worst errors shown per label and kind on the page beside the bundle, as in `radnode evaluate`."""

_SIZES = ("images", "patients", "positive_images")


@dataclass(frozen=True)
class Measured:
    """document: of `models.evaluation.document.evaluate`; None where no image could be judged, and why says why not.

    pictures: of patients, for the page that stays in the house.
    """

    document: dict[str, Any] | None
    pictures: tuple[Picture, ...] = ()
    why: str = ""

    def of_bundle(self, points: Sequence[Mapping[str, Any]], digest: str = "") -> dict[str, Any] | None:
        """The document as of the finished bundle, which could not be made without it: its digest and points."""
        if self.document is None:
            return None
        known = [OperatingPoint.model_validate_json(json.dumps(point)).model_dump(mode="json") for point in points]
        return {**self.document, "bundle_digest": digest, "operating_points": known}


def measure(
    folder: Path, samples: SampleSet, images: Images, each: Callable[[int, int], object], *, chosen_here: bool
) -> Measured:
    """Judge a bundle's folder. each: called after every image, with (done, all). chosen_here: thresholds and
    calibration were chosen on these samples, which the page and the card must say.

    Raises ModelError where the bundle cannot be loaded or answers its own test vectors differently.
    """
    bundle = load_bundle(folder)
    runner = load_runner(bundle)
    done, every = 0, len(samples.samples)

    def one_more() -> None:
        nonlocal done
        done += 1
        each(done, every)

    try:
        found = evaluate(bundle, runner, samples, images, each=one_more)
    except DatasetError as error:
        return Measured(None, why=str(error))
    document = {**found.document, "thresholds_chosen_here": chosen_here}
    return Measured(document, tuple(worst_errors(bundle, runner, found.judged, images, each=PICTURES)))


def without_files(document: Mapping[str, Any]) -> dict[str, Any]:
    """For the bundle, which leaves the house: counts instead of names of files, which may be those of patients."""
    problems = [{**problem, "where": ""} for problem in document["problems"]]
    return {**document, "unreadable": [], "refused_by_gate": [], "problems": problems}


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest tells: the first figures by source and label; all of them are in the bundle's report."""
    kept = (
        "thresholds_chosen_here",
        "data",
        "images",
        "patients",
        "resamples",
        "interval",
        "skipped",
        "left_out",
        "not_computed",
        "source_test",
    )
    return {
        **{key: document[key] for key in kept},
        "sources": {source: _first(part) for source, part in document["sources"].items()},
        "mean_of_sources": _first(document["mean_of_sources"]),
        "all_images": _first(document["all_images"]),
    }


def _first(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: part[key] for key in (*_SIZES, *FIRST, "classes") if key in part},
        "labels": {
            label: {key: one[key] for key in (*_SIZES, *FIRST) if key in one} for label, one in part["labels"].items()
        },
    }
