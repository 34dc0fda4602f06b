"""The worst errors as pictures, each with the map of the label in question."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from models.contracts import FloatArray, GreyImage
from models.datasets.pixels import Images
from models.errors import ModelError
from models.evaluation.explanations import drawn_shape
from models.evaluation.judging import Judged, shown
from models.registry import Bundle
from models.runner import Runner

SIDE = 256
MOST = 24
_MAP_COLOUR = np.array([255, 140, 0], dtype=np.float32)
_STRONGEST = 0.55


@dataclass(frozen=True)
class Picture:
    """kind: "missed" or "false alarm". png: a data URI. threshold: the label's operating point."""

    file: str
    source: str
    label: str
    kind: str
    probability: float
    threshold: float
    png: str


def worst_errors(bundle: Bundle, runner: Runner, data: Judged, images: Images, *, each: int = 3) -> list[Picture]:
    """The most confident errors of either kind, ``each`` per label and kind, MOST at most. Maps are drawn also where a
    reading would suppress them: that the network looked elsewhere is what one wants to see of a missed finding."""
    found: list[Picture] = []
    for index, label, kind in worst(data, each)[:MOST]:
        sample = data.samples[index]
        try:
            image, found_maps = shown(bundle, runner, sample, images)
            drawn = found_maps.drawn(label, *drawn_shape(image.pixels.shape, SIDE))
        except ModelError:
            continue  # judged a moment ago: the file is being replaced, and the report can do without its picture
        found.append(
            Picture(
                sample.file,
                sample.source,
                data.labels[label],
                kind,
                float(data.probabilities[index, label]),
                float(data.thresholds[label]),
                data_uri(image, drawn),
            )
        )
    return found


def worst(data: Judged, each: int) -> list[tuple[int, int, str]]:
    """(image, label, kind), the furthest from the threshold first within label and kind."""
    found = []
    for label in range(len(data.labels)):
        chances, truth = data.probabilities[:, label], data.truth[:, label]
        said = chances >= data.thresholds[label]
        for kind, here, order in (
            ("missed", ~said & (truth == 1), chances),
            ("false alarm", said & (truth == 0), -chances),
        ):
            places = np.flatnonzero(here)
            found += [(int(i), label, kind) for i in places[np.argsort(order[places], kind="stable")][:each]]
    return found


def data_uri(image: GreyImage, drawn: FloatArray) -> str:
    """A PNG of the image, its grey values stretched, with the map (rows, columns in [0, 1]) in orange upon it."""
    pixels = np.nan_to_num(image.pixels, posinf=0, neginf=0)
    low, high = np.percentile(pixels, [1, 99])
    grey = np.clip((pixels - low) / max(float(high - low), 1e-6), 0, 1)
    small = Image.fromarray(np.float32(255) * (1 - grey if image.inverted else grey).astype(np.float32))
    rows, columns = drawn.shape
    plane = np.asarray(small.resize((columns, rows), Image.Resampling.BOX), dtype=np.float32)[..., np.newaxis]
    weight = (_STRONGEST * drawn)[..., np.newaxis]
    blended = np.clip(plane * (1 - weight) + _MAP_COLOUR * weight, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blended).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
