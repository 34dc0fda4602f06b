"""Samples through the serving path: the same steps, runtime, gate, calibration and thresholds a hospital gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import explain
from models.contracts import Explanation, FloatArray, GreyImage, ModelInput, Reading
from models.datasets.pixels import Images
from models.datasets.samples import Sample
from models.errors import DatasetError, NoReadingError, NotInDistribution, PreprocessError
from models.evaluation.truth import Truth
from models.gate import pooled
from models.preprocess import prepare
from models.reading import key_slice_maps, maps_of, prepare_series, read_image, read_series
from models.registry import Bundle
from models.runner import Forward, ReadsSlices, Runner
from models.series import admit_series, heaviest

BORDER_SIDE, BORDER = 32, 3
"""The frame of an image drawn on 32 x 32: three cells, a tenth of each side, which holds no lung."""


@dataclass(frozen=True)
class Judged:
    """n images and what the model said of them; k labels in the model's order.

    truth: (n, k) of 1, 0, NaN. logits, probabilities: (n, k). thresholds: (k,). patients, sources: (n,) strings;
    patients carry their source, as the same number elsewhere is somebody else. groups: attribute to (n,) strings, ""
    where unknown. features: float32 (n, channels), pooled. borders: float32 (n, cells), the outermost pixels.
    """

    labels: tuple[str, ...]
    exclusive: bool
    thresholds: NDArray[np.float64]
    samples: tuple[Sample, ...]
    truth: NDArray[np.float64]
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    patients: NDArray[np.str_]
    sources: NDArray[np.str_]
    groups: Mapping[str, NDArray[np.str_]]
    features: FloatArray
    borders: FloatArray

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Judged:
        """The same for a mask or index."""
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return Judged(
            self.labels,
            self.exclusive,
            self.thresholds,
            tuple(self.samples[i] for i in index),
            self.truth[index],
            self.logits[index],
            self.probabilities[index],
            self.patients[index],
            self.sources[index],
            {name: values[index] for name, values in self.groups.items()},
            self.features[index],
            self.borders[index],
        )


@dataclass(frozen=True)
class LeftOut:
    """An image that could not be judged. kind: "unreadable" or "unlike the training images" (the bundle's gate)."""

    file: str
    kind: str
    reason: str


class Remembering:
    """A runner that keeps its last pass, so that features are those of the reading itself and cost no second pass."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.last: Forward | None = None

    @property
    def head(self) -> FloatArray | None:
        """Of the runner behind."""
        return self._runner.head

    def run(self, batch: FloatArray) -> Forward:
        """As the runner behind."""
        self.last = self._runner.run(batch)
        return self.last


class RememberingSeries(Remembering):
    """The same of one that takes a series' slices as they come."""

    def __init__(self, runner: ReadsSlices) -> None:
        super().__init__(runner)
        self._series = runner

    def run_slices(self, slices: Iterable[FloatArray], places: Sequence[int]) -> Forward:
        """As the runner behind."""
        self.last = self._series.run_slices(slices, places)
        return self.last


def judge(
    bundle: Bundle, runner: Runner, truth: Truth, images: Images, *, each: Callable[[], object] = lambda: None
) -> tuple[Judged, tuple[LeftOut, ...]]:
    """Read every sample. What cannot be read is listed, and the rest goes on. each: called after every image.

    Raises DatasetError when nothing could be read.
    """
    watched = RememberingSeries(runner) if isinstance(runner, ReadsSlices) else Remembering(runner)
    rows, left_out = _Rows(), []
    for index, sample in enumerate(truth.samples):
        try:
            image = image_of(sample, images)
            reading = _read(bundle, watched, sample, image, images)
        except NotInDistribution as error:
            left_out.append(LeftOut(sample.file, "unlike the training images", str(error)))
        except (DatasetError, PreprocessError, NoReadingError) as error:
            left_out.append(LeftOut(sample.file, "unreadable", str(error)))
        else:
            assert watched.last is not None  # noqa: S101 - read_image has just run it
            rows.index.append(index)
            rows.logits.append([finding.logit for finding in reading.findings])
            rows.probabilities.append([finding.probability for finding in reading.findings])
            rows.features.append(pooled(watched.last.features)[0])
            rows.borders.append(border_of(image))
        each()
    if not rows.index:
        raise DatasetError(f"none of the {len(truth.samples)} images can be judged; first: {left_out[0].reason}")
    return _judged(bundle, truth, rows), tuple(left_out)


def _read(bundle: Bundle, runner: Runner, sample: Sample, image: GreyImage, images: Images) -> Reading:
    """image: the sample's own, or the middle slice of its series, for models of single images."""
    rules = bundle.manifest.series
    if rules is None:
        return read_image(bundle, runner, image)
    answer = admit_series(rules, sample.as_series)
    if not answer.admitted:
        raise DatasetError(answer.reason)
    files = sample.every_file
    return read_series(bundle, runner, len(files), lambda place: images.read(files[place]))


class _Rows:
    def __init__(self) -> None:
        self.index: list[int] = []
        self.logits: list[list[float]] = []
        self.probabilities: list[list[float]] = []
        self.features: list[FloatArray] = []
        self.borders: list[FloatArray] = []


def _judged(bundle: Bundle, truth: Truth, rows: _Rows) -> Judged:
    samples = tuple(truth.samples[index] for index in rows.index)
    manifest = bundle.manifest
    thresholds = {point.label: point.threshold for point in manifest.operating_points}
    return Judged(
        labels=tuple(label.key for label in manifest.labels),
        exclusive=manifest.exclusive,
        thresholds=np.array([thresholds[label.key] for label in manifest.labels]),
        samples=samples,
        truth=truth.values[rows.index],
        logits=np.array(rows.logits),
        probabilities=np.array(rows.probabilities),
        patients=np.array([f"{s.source}|{s.patient}" for s in samples]),
        sources=np.array([s.source for s in samples]),
        groups=groups_of(samples),
        features=np.stack(rows.features),
        borders=np.stack(rows.borders),
    )


def groups_of(samples: Iterable[Sample]) -> dict[str, NDArray[np.str_]]:
    """Attribute to a value per sample, "" where unknown."""
    listed = list(samples)
    return {
        "sex": np.array([s.sex for s in listed]),
        "age": np.array([age_band(s.age_years) for s in listed]),
        "view": np.array([s.view for s in listed]),
        "device": np.array([s.device for s in listed]),
    }


def age_band(years: float | None) -> str:
    """A band; "" where the age is unknown."""
    if years is None:
        return ""
    return "under 18" if years < 18 else "18 to 39" if years < 40 else "40 to 59" if years < 60 else "60 and over"


def image_of(sample: Sample, images: Images) -> GreyImage:
    """A sample's picture; of a series the middle slice."""
    files = sample.every_file
    return images.read(files[len(files) // 2])


def border_of(image: GreyImage) -> FloatArray:
    """float32 (cells,): the image's frame in [0, 1] of its own range, drawn on BORDER_SIDE squared."""
    pixels = np.nan_to_num(image.pixels.astype(np.float32), posinf=0, neginf=0)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)
    drawn = Image.fromarray(1 - scaled if image.inverted else scaled)
    small = np.asarray(drawn.resize((BORDER_SIDE, BORDER_SIDE), Image.Resampling.BOX), dtype=np.float32)
    frame = np.ones((BORDER_SIDE, BORDER_SIDE), dtype=bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    return np.asarray(small[frame], dtype=np.float32)


@dataclass(frozen=True)
class Attention:
    """What the network made of one image. maps: float32 (labels, h, w), >= 0, of every label, above its operating point
    or not. logits: float32 (labels,)."""

    input: ModelInput
    logits: FloatArray
    maps: FloatArray

    def drawn(self, label: int, rows: int, columns: int) -> FloatArray:
        """One label's map over the source image drawn at (rows, columns), in [0, 1]."""
        found: Explanation = explain.explanation("", self.maps[label], self.input.placement)
        return explain.map_to_source(found, rows, columns)

    def peak(self, label: int) -> float:
        """What 1 stands for in ``drawn``."""
        return float(self.maps[label].max(initial=0.0))


def attend(bundle: Bundle, runner: Runner, image: GreyImage) -> Attention:
    """The maps a reading would show, also of labels it would suppress them for. Raises as `read_image` does."""
    prepared = prepare(bundle.manifest.preprocessing, image).input
    forward = runner.run(prepared.array[np.newaxis])
    return Attention(prepared, forward.logits[0], maps_of(forward, runner.head))


def shown(bundle: Bundle, runner: Runner, sample: Sample, images: Images) -> tuple[GreyImage, Attention]:
    """A sample's image with its maps; of a series, for a model of slices, the slice that weighs most.

    Raises as `models.reading` does.
    """
    if bundle.manifest.series is None:
        image = image_of(sample, images)
        return image, attend(bundle, runner, image)
    files = sample.every_file
    stack = prepare_series(bundle, len(files), lambda place: images.read(files[place]))
    forward = runner.run(stack.array[np.newaxis])
    key = heaviest(stack.weights(forward))
    array = stack.array[stack.chosen.index(key.index)]
    maps = key_slice_maps(forward, runner.head, stack, key)
    given = ModelInput(array, stack.placements[key.index])
    return images.read(files[key.index]), Attention(given, forward.logits[0], maps)
