"""Are the maps worth looking at? Three tests, each beside what chance would score.

Localisation: does the map lie where a radiologist drew the finding (pointing game, Zhang 2018; intersection over
union)? Deletion and insertion (Petsiuk 2018): does the answer hang on what the map marks? Weight randomisation (Adebayo
2018) is in :mod:`models.evaluation.randomisation`, as it needs Keras.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.contracts import FloatArray
from models.datasets.pixels import Images
from models.datasets.samples import Box, Sample
from models.errors import DatasetError, ModelError
from models.evaluation.attended import Attended, attended
from models.evaluation.figures import Rules, as_json, rounded
from models.evaluation.judging import Judged
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

    Of a series all slices that the network read are looked at together: the maximum is that of the whole, and has to
    lie in a box of its own slice. on_slices_not_read: pairs whose boxes lie on none of them, which tell nothing.

    boxes_side: longest side of the images that the boxes were drawn on, where these here are scaled copies.
    """
    names = {slug(one): label.key for label in bundle.manifest.labels for one in (label.display, label.key)}
    keys = [label.key for label in bundle.manifest.labels]
    random = np.random.default_rng(rules.seed)
    cases: list[Located] = []
    unreadable = elsewhere = 0
    for sample in samples:
        by_label: dict[str, list[Box]] = {}
        for box in sample.boxes:
            if key := names.get(slug(box.label)):
                by_label.setdefault(key, []).append(box)
        if not by_label:
            continue
        try:
            found = attended(bundle, runner, sample, images)
        except ModelError:
            unreadable += 1
            continue
        for key, boxes in by_label.items():
            masks = [
                mask_of([box for box in boxes if box.file in ("", file)], part.input.placement.source_shape, boxes_side)
                for part, file in zip(found.parts, found.files, strict=True)
            ]
            if any(mask.any() for mask in masks):
                person = f"{sample.source}|{sample.patient}"
                cases.append(_located(found, (keys.index(key), key), person, masks, random))
            else:
                elsewhere += 1
    if not cases:
        return {}
    labels = sorted({case.label for case in cases})
    return {
        "pairs": len(cases),
        "unreadable": unreadable,
        "on_slices_not_read": elsewhere,
        "threshold_of_overlap": "half of the map's maximum",
        "all": _means(cases, rules),
        "labels": {label: _means([case for case in cases if case.label == label], rules) for label in labels},
    }


def mask_of(boxes: Sequence[Box], shape: tuple[int, ...], boxes_side: float | None = None) -> NDArray[np.bool_]:
    """The union of boxes on the drawing of an image of ``shape`` (rows, columns)."""
    rows, columns = drawn_shape(shape)
    scale = max(rows, columns) / (boxes_side or max(shape[:2]))
    mask = np.zeros((rows, columns), dtype=bool)
    for box in boxes:
        top, left = max(0, round(box.y * scale)), max(0, round(box.x * scale))
        bottom, right = round((box.y + box.height) * scale), round((box.x + box.width) * scale)
        mask[top : max(top + 1, bottom), left : max(left + 1, right)] = True
    return mask


def drawn_shape(shape: tuple[int, ...], side: int = DRAWN_SIDE) -> tuple[int, int]:
    """(rows, columns) of an image drawn with its longest side at ``side``."""
    longest = max(shape[0], shape[1])
    return max(1, round(shape[0] * side / longest)), max(1, round(shape[1] * side / longest))


def _located(
    found: Attended,
    label: tuple[int, str],
    patient: str,
    masks: Sequence[NDArray[np.bool_]],
    random: np.random.Generator,
) -> Located:
    index, key = label
    whole = np.concatenate([mask.ravel() for mask in masks])
    area = float(whole.mean())

    def agrees(maps: Attended) -> tuple[float, float, float]:
        drawn = [
            part.peak(index) * part.drawn(index, *mask.shape) for part, mask in zip(maps.parts, masks, strict=True)
        ]
        return agreement(np.concatenate([one.ravel() for one in drawn]), whole)

    hit, overlap, inside = agrees(found)
    noise = [agrees(found.with_maps(lambda shape: random.random(shape, np.float32))) for _ in range(RANDOM_MAPS)]
    chance = np.mean(noise, axis=0)
    middle = masks[len(masks) // 2]
    centre = float(middle[middle.shape[0] // 2, middle.shape[1] // 2])
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
    or brought back into a blurred image (insertion: high is good), beside those of random maps on the same grid.

    Of a series in all slices that the network read, the highest pixels of all of them first."""
    pairs = shown_maps(data, most, rules.seed)
    random = np.random.default_rng(rules.seed)
    rows, patients = [], []
    for index, label in pairs:
        try:
            found = attended(bundle, runner, data.samples[index], images)
        except ModelError as error:
            raise DatasetError(f"an image that could be read before cannot be now: {error}") from error
        noise = found.with_maps(lambda shape: random.random(shape, np.float32))
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


def _areas(bundle: Bundle, runner: Runner, found: Attended, label: int) -> tuple[float, float]:
    arrays = found.arrays
    weight = np.concatenate([on_input(part.maps[label], arrays.shape[1:3]).ravel() for part in found.parts])
    order = np.argsort(-weight, kind="stable")
    whole = arrays.reshape(-1, arrays.shape[3])
    blurred = np.stack([blur(array) for array in arrays]).reshape(whole.shape)

    def changed(start: FloatArray, end: FloatArray) -> Iterator[FloatArray]:
        for step in range(STEPS + 1):
            made = start.copy()
            first = order[: round(len(order) * step / STEPS)]
            made[first] = end[first]
            yield made.reshape(arrays.shape)

    deleted = found.chances(bundle, runner, changed(whole, blurred), label)
    inserted = found.chances(bundle, runner, changed(blurred, whole), label)
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
