"""Are the maps worth looking at? Three tests, each beside what chance would score.

Localisation: does the map lie where a radiologist drew the finding (pointing game, Zhang 2018; intersection over
union)? Deletion and insertion (Petsiuk 2018): does the answer hang on what the map marks? Weight randomisation (Adebayo
2018) is in :mod:`models.evaluation.randomisation`, as it needs Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.calibration import probabilities
from models.contracts import FloatArray
from models.datasets.pixels import Images
from models.datasets.samples import Sample
from models.errors import DatasetError, ModelError
from models.evaluation.figures import Rules, as_json, rounded
from models.evaluation.judging import Attention, Judged, attend, image_of
from models.evaluation.metrics import Interval
from models.evaluation.resampling import bootstrap_draws
from models.evaluation.truth import slug
from models.registry import Bundle
from models.runner import Runner

DRAWN_SIDE = 256
"""Maps and boxes are compared on a drawing of the image with this longest side."""

STEPS = 10
RANDOM_MAPS = 10
_BLUR_CELLS = 12


@dataclass(frozen=True)
class Located:
    """One image and label with boxes. Per method (the map, controls): 1 where the maximum lies in a box, else 0; the
    intersection over union; and the share of the map's mass in the boxes."""

    label: str
    patient: str
    hit: dict[str, float]
    overlap: dict[str, float]
    inside: dict[str, float]


def localisation(
    bundle: Bundle,
    runner: Runner,
    samples: Sequence[Sample],
    images: Images,
    rules: Rules,
    *,
    boxes_side: float | None = None,
) -> dict[str, Any]:
    """Per label and over all: what :class:`Located` holds, means with intervals over patients. Empty without boxes.

    boxes_side: longest side of the images that the boxes were drawn on, where these here are scaled copies.
    """
    names = {slug(one): label.key for label in bundle.manifest.labels for one in (label.display, label.key)}
    random = np.random.default_rng(rules.seed)
    cases: list[Located] = []
    unreadable = 0
    for sample in samples:
        by_label: dict[str, list[tuple[float, float, float, float]]] = {}
        for box in sample.boxes:
            if key := names.get(slug(box.label)):
                by_label.setdefault(key, []).append((box.x, box.y, box.width, box.height))
        if not by_label:
            continue
        try:
            image = image_of(sample, images)
            found = attend(bundle, runner, image)
        except ModelError:
            unreadable += 1
            continue
        keys = [label.key for label in bundle.manifest.labels]
        for key, boxes in by_label.items():
            mask = mask_of(boxes, image.pixels.shape, boxes_side)
            if mask.any():
                person = f"{sample.source}|{sample.patient}"
                cases.append(_located(found, (keys.index(key), key), person, mask, random))
    if not cases:
        return {}
    labels = sorted({case.label for case in cases})
    return {
        "pairs": len(cases),
        "unreadable": unreadable,
        "threshold_of_overlap": "half of the map's maximum",
        "all": _means(cases, rules),
        "labels": {label: _means([case for case in cases if case.label == label], rules) for label in labels},
    }


def mask_of(
    boxes: Sequence[tuple[float, float, float, float]], shape: tuple[int, ...], boxes_side: float | None = None
) -> NDArray[np.bool_]:
    """The union of boxes (x, y, width, height) on the drawing of an image of ``shape`` (rows, columns)."""
    rows, columns = drawn_shape(shape)
    scale = max(rows, columns) / (boxes_side or max(shape[:2]))
    mask = np.zeros((rows, columns), dtype=bool)
    for x, y, width, height in boxes:
        top, left = max(0, round(y * scale)), max(0, round(x * scale))
        mask[top : max(top + 1, round((y + height) * scale)), left : max(left + 1, round((x + width) * scale))] = True
    return mask


def drawn_shape(shape: tuple[int, ...], side: int = DRAWN_SIDE) -> tuple[int, int]:
    """(rows, columns) of an image drawn with its longest side at ``side``."""
    longest = max(shape[0], shape[1])
    return max(1, round(shape[0] * side / longest)), max(1, round(shape[1] * side / longest))


def _located(
    found: Attention, label: tuple[int, str], patient: str, mask: NDArray[np.bool_], random: np.random.Generator
) -> Located:
    (index, key), (rows, columns) = label, mask.shape
    area = float(mask.mean())
    hit, overlap, inside = agreement(found.drawn(index, rows, columns), mask)
    noise = []
    for _ in range(RANDOM_MAPS):
        other = replace(found, maps=random.random(found.maps.shape, dtype=np.float32))
        noise.append(agreement(other.drawn(index, rows, columns), mask))
    chance = np.mean(noise, axis=0)
    centre = float(mask[rows // 2, columns // 2])
    return Located(
        key,
        patient,
        {"map": hit, "random_map": float(chance[0]), "box_area": area, "image_centre": centre},
        {"map": overlap, "random_map": float(chance[1]), "box_area": area},
        {"map": inside, "random_map": float(chance[2]), "box_area": area},
    )


def agreement(drawn: FloatArray, mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Hit of the maximum, intersection over union at half the maximum, and the mass inside; zeros for an empty map."""
    top = float(drawn.max())
    if top <= 0:
        return 0.0, 0.0, 0.0
    region = drawn >= top / 2
    overlap = float((region & mask).sum() / (region | mask).sum())
    return float(mask.flat[int(drawn.argmax())]), overlap, float(drawn[mask].sum() / drawn.sum())


def _means(cases: Sequence[Located], rules: Rules) -> dict[str, Any]:
    patients = np.array([case.patient for case in cases])
    found: dict[str, Any] = {"pairs": len(cases), "patients": len(np.unique(patients))}
    for name, part in (("pointing_game", "hit"), ("overlap", "overlap"), ("mass_inside", "inside")):
        methods = getattr(cases[0], part)
        found[name] = {
            method: as_json(mean_with_interval(np.array([getattr(c, part)[method] for c in cases]), patients, rules))
            for method in methods
        }
    return found


def mean_with_interval(values: NDArray[np.float64], patients: NDArray[Any], rules: Rules) -> Interval:
    """The mean with its 95 % interval over resampled patients."""
    draws = bootstrap_draws(
        lambda counts: {"mean": (counts @ values / counts.sum(axis=1))[:, np.newaxis]},
        patients,
        resamples=rules.resamples,
        seed=rules.seed,
    )
    return draws.interval("mean")


def shown_maps(data: Judged, most: int, seed: int = 0) -> list[tuple[int, int]]:
    """(image, label) pairs above their operating point, whose maps a reading shows; at most so many, at random."""
    pairs = np.argwhere(data.probabilities >= data.thresholds)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:most]
    return [(int(i), int(k)) for i, k in pairs[np.sort(chosen)]]


def deletion_and_insertion(
    bundle: Bundle, runner: Runner, data: Judged, images: Images, rules: Rules, *, most: int
) -> dict[str, Any]:
    """Areas under the curves of the probability while the map's highest pixels are blurred away (deletion: low is good)
    or brought back into a blurred image (insertion: high is good), beside those of random maps on the same grid."""
    pairs = shown_maps(data, most, rules.seed)
    random = np.random.default_rng(rules.seed)
    rows, patients = [], []
    for index, label in pairs:
        try:
            found = attend(bundle, runner, image_of(data.samples[index], images))
        except ModelError as error:
            raise DatasetError(f"an image that could be read before cannot be now: {error}") from error
        noise = replace(found, maps=random.random(found.maps.shape, dtype=np.float32))
        rows.append([*_areas(bundle, runner, found, label), *_areas(bundle, runner, noise, label)])
        patients.append(str(data.patients[index]))
    if not rows:
        return {}
    values, people = np.array(rows), np.array(patients)
    names = (("deletion", "map"), ("insertion", "map"), ("deletion", "random_map"), ("insertion", "random_map"))
    document: dict[str, Any] = {"images": len(rows), "steps": STEPS, "deletion": {}, "insertion": {}}
    for column, (curve, method) in enumerate(names):
        document[curve][method] = as_json(mean_with_interval(values[:, column], people, rules))
    gain = (values[:, 1] - values[:, 0]) - (values[:, 3] - values[:, 2])
    document["insertion_minus_deletion_over_random"] = as_json(mean_with_interval(gain, people, rules))
    return document


def _areas(bundle: Bundle, runner: Runner, found: Attention, label: int) -> tuple[float, float]:
    array = found.input.array
    order = np.argsort(-on_input(found.maps[label], array.shape[:2]).ravel(), kind="stable")
    blurred, whole = blur(array).reshape(-1, array.shape[2]), array.reshape(-1, array.shape[2])
    batches = []
    for start, end in ((whole, blurred), (blurred, whole)):
        for step in range(STEPS + 1):
            changed = start.copy()
            first = order[: round(len(order) * step / STEPS)]
            changed[first] = end[first]
            batches.append(changed.reshape(array.shape))
    logits = runner.run(np.stack(batches)).logits
    manifest = bundle.manifest
    keys = [one.key for one in manifest.labels]
    chances = [
        probabilities(manifest.calibration, keys, [float(x) for x in row], exclusive=manifest.exclusive)[label]
        for row in logits
    ]
    deleted, inserted = np.array(chances[: STEPS + 1]), np.array(chances[STEPS + 1 :])
    return float(np.trapezoid(deleted, dx=1 / STEPS)), float(np.trapezoid(inserted, dx=1 / STEPS))


def on_input(grid: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """A map (h, w) over the network's whole input, float32 (rows, columns)."""
    drawn = Image.fromarray(np.ascontiguousarray(grid, dtype=np.float32))
    return np.asarray(drawn.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), dtype=np.float32)


def blur(array: FloatArray) -> FloatArray:
    """float32 (rows, columns, channels) with all detail gone: what is left is brightness."""
    rows, columns, channels = array.shape
    planes = []
    for channel in range(channels):
        plane = Image.fromarray(np.ascontiguousarray(array[..., channel]))
        small = plane.resize((_BLUR_CELLS, _BLUR_CELLS), Image.Resampling.BOX)
        planes.append(np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.float32))
    return np.stack(planes, axis=-1)


def mean_of(values: Sequence[float]) -> float | None:
    """For JSON."""
    return rounded(np.float64(np.mean(values))) if values else None
