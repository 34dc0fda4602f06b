"""One image, or one series of slices, through one model: preprocess, run once, calibrate, decide, explain."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from models import explain
from models.calibration import presence, probabilities
from models.comparison import comparison_of
from models.contracts import (
    CodedConcept,
    Finding,
    FloatArray,
    GreyImage,
    Placement,
    Presence,
    Reading,
    SliceWeight,
)
from models.errors import NoReadingError, PreprocessError
from models.gate import require_in_distribution
from models.manifest import Code, Label
from models.preprocess import Prepared, prepare
from models.registry import Bundle
from models.runner import Forward, ReadsSlices, Runner
from models.series import evenly, heaviest

SliceReader = Callable[[int], GreyImage]
"""The slice at a place of a series in its order, counted from 0; each is asked for once, and in that order begun."""


def read_image(bundle: Bundle, runner: Runner, image: GreyImage, prior: GreyImage | None = None) -> Reading:
    """All findings of one image; maps only for labels above their operating point.

    prior: an earlier image of the same patient, for bundles that compare (`models.comparison`); others leave it out.
    Raises PreprocessError where the image cannot become the model's input, NoReadingError where the network gives no
    finite number, NotInDistribution where the image is unlike those the model was made for.
    """
    prepared = prepare(bundle.manifest.preprocessing, image)
    forward = runner.run(prepared.input.array[np.newaxis])
    notes = prepared.notes
    comparison = comparison_of(bundle)
    earlier = None
    if comparison is not None:
        earlier, more = _earlier(bundle, runner, prior)
        forward, notes = comparison.of(forward, earlier), (*notes, *more)
    findings = _judged(bundle, forward, "image")
    present = _present(findings)
    maps = maps_of(forward, runner.head, present) if present else ()
    explanations = tuple(
        explain.explanation(findings[label].key, grid, prepared.input.placement)
        for label, grid in zip(present, maps, strict=True)
    )
    return Reading(findings, explanations, notes, compared=earlier is not None)


def _earlier(bundle: Bundle, runner: Runner, prior: GreyImage | None) -> tuple[Forward | None, tuple[str, ...]]:
    """The pass over a prior, and notes on it; None where there is none, or it cannot become the model's input."""
    if prior is None:
        return None, ()
    try:
        prepared = prepare(bundle.manifest.preprocessing, prior)
    except PreprocessError as error:
        return None, (f"the prior was not read: {error}",)
    forward = runner.run(prepared.input.array[np.newaxis])
    if not np.isfinite(forward.features).all():
        return None, ("the prior was not read: the network gave no finite number for it",)
    return forward, tuple(f"prior: {note}" for note in prepared.notes)


def read_series(bundle: Bundle, runner: Runner, count: int, slice_at: SliceReader, ahead: int = 0) -> Reading:
    """All findings of a series of ``count`` slices, of which the model reads as many as its bundle says.

    Maps lie on the slice that weighs most. Each slice goes through the network as it comes, and is not kept. ahead: how
    many are read and preprocessed by threads meanwhile; never more than these, and the one in hand, are in memory.
    Raises like `read_image`, and what ``slice_at`` raises.
    """
    series = _Coming(bundle, count, slice_at, ahead)
    if not isinstance(runner, ReadsSlices):
        raise NoReadingError(f"the runner of model {bundle.manifest.id} reads single images, not series")
    forward = runner.run_slices(series, series.places)
    findings = _judged(bundle, forward, "series")
    slices = series.read()
    weights = slices.weights(forward)
    key = heaviest(weights)
    present = _present(findings)
    maps = key_slice_maps(forward, runner.head, slices, key, present) if present else ()
    explanations = tuple(
        explain.explanation(findings[label].key, grid, slices.placements[key.index], key.index)
        for label, grid in zip(present, maps, strict=True)
    )
    return Reading(findings, explanations, slices.notes, weights)


@dataclass(frozen=True)
class Slices:
    """Which slices of a series the model takes.

    chosen: of each of them, its place in the series, ascending; twice the same where the series is short. placements:
    by place.
    """

    chosen: tuple[int, ...]
    placements: Mapping[int, Placement]
    notes: tuple[str, ...]

    def weights(self, forward: Forward) -> tuple[SliceWeight, ...]:
        """What each place of the series weighs in a pass over it, in the series' order. Raises NoReadingError."""
        if forward.attention is None:
            raise NoReadingError("the runtime gave no attention over the slices")
        shares: dict[int, float] = {}
        for place, weight in zip(self.chosen, forward.attention[0], strict=True):
            shares[place] = shares.get(place, 0.0) + float(weight)
        return tuple(SliceWeight(place, weight) for place, weight in shares.items())


@dataclass(frozen=True)
class Stack(Slices):
    """A series as the model takes it, whole. array: float32 (slices, rows, columns, channels)."""

    array: FloatArray


class _Coming:
    """The chosen slices of a series, each preprocessed when it is asked for, once.

    places: for every slice the model takes, which of them it is. Raises NoReadingError for a bundle of single images.
    """

    def __init__(self, bundle: Bundle, count: int, slice_at: SliceReader, ahead: int = 0) -> None:
        architecture = bundle.manifest.architecture
        if architecture.slices is None:
            raise NoReadingError(f"model {bundle.manifest.id} reads single images, not series")
        self.chosen = tuple(evenly(count, architecture.slices))
        self._distinct = list(dict.fromkeys(self.chosen))
        order = {place: number for number, place in enumerate(self._distinct)}
        self.places = [order[place] for place in self.chosen]
        self._bundle, self._count, self._slice_at, self._ahead = bundle, count, slice_at, ahead
        self._placements: dict[int, Placement] = {}
        self._notes: dict[str, None] = {}

    def __iter__(self) -> Iterator[FloatArray]:
        """Raises PreprocessError (the message says which slice), and what the reader raises."""
        for place, prepared in zip(self._distinct, self._prepared(), strict=True):
            self._placements[place] = prepared.input.placement
            self._notes |= dict.fromkeys(prepared.notes)
            yield prepared.input.array

    def _prepared(self) -> Iterator[Prepared]:
        """In order, the next few being made while one is worked at."""

        def make(place: int) -> Prepared:
            return _prepare_slice(self._bundle, self._slice_at, place, self._count)

        if not self._ahead:
            yield from map(make, self._distinct)
            return
        threads = ThreadPoolExecutor(self._ahead, thread_name_prefix="slices")
        wanted, coming = iter(self._distinct), deque[Future[Prepared]]()
        try:
            coming.extend(threads.submit(make, place) for place in islice(wanted, self._ahead))
            while coming:
                prepared = coming.popleft().result()
                coming.extend(threads.submit(make, place) for place in islice(wanted, 1))
                yield prepared
        finally:
            # Whoever leaves in between does not wait for slices that nobody wants any more.
            threads.shutdown(wait=False, cancel_futures=True)

    def read(self) -> Slices:
        """What is known once all have come."""
        return Slices(self.chosen, self._placements, tuple(self._notes))


def prepare_series(bundle: Bundle, count: int, slice_at: SliceReader) -> Stack:
    """The slices that the bundle chooses of ``count``, preprocessed one after the other.

    Raises PreprocessError (the message says which slice), NoReadingError for a bundle of single images.
    """
    series = _Coming(bundle, count, slice_at)
    distinct = np.stack(list(series))
    known = series.read()
    array = distinct if len(distinct) == len(series.places) else distinct[series.places]
    return Stack(known.chosen, known.placements, known.notes, array)


def _prepare_slice(bundle: Bundle, slice_at: SliceReader, place: int, count: int) -> Prepared:
    image = slice_at(place)
    try:
        return prepare(bundle.manifest.preprocessing, image)
    except PreprocessError as error:
        raise PreprocessError(f"slice {place + 1} of {count}: {error}") from error


def key_slice_maps(
    forward: Forward, head: FloatArray | None, slices: Slices, key: SliceWeight, labels: Sequence[int] | None = None
) -> FloatArray:
    """float32 (labels, h, w), the maps of the slice that weighs most, with its weight. Raises NoReadingError.

    labels: which; None for all.
    """
    if head is None:
        raise NoReadingError("the runtime gave no linear head; maps of a series cannot be drawn")
    features = forward.features[0, slices.chosen.index(key.index)]
    return explain.slice_map(features, key.weight, head if labels is None else head[:, labels])


def maps_of(forward: Forward, head: FloatArray | None, labels: Sequence[int] | None = None) -> FloatArray:
    """float32 (labels, h, w) of a pass' first image. Raises NoReadingError where the runtime gives no gradient.

    labels: which; None for all.
    """
    if forward.gradients is not None:
        gradients = forward.gradients[0] if labels is None else forward.gradients[0][labels]
        return explain.gradient_maps(forward.features[0], gradients)
    if head is None:
        raise NoReadingError("the runtime gave neither a linear head nor gradients; its maps cannot be drawn")
    return explain.closed_form_maps(forward.features[0], head if labels is None else head[:, labels])


def _present(findings: Sequence[Finding]) -> list[int]:
    return [label for label, finding in enumerate(findings) if finding.presence is Presence.PRESENT]


def _judged(bundle: Bundle, forward: Forward, what: str) -> tuple[Finding, ...]:
    """The findings of a pass, unless its numbers or the bundle's gate speak against it."""
    manifest = bundle.manifest
    if not (np.isfinite(forward.logits).all() and np.isfinite(forward.features).all()):
        raise NoReadingError(f"model {manifest.id} gave no finite number for this {what}")
    require_in_distribution(bundle, forward.features)
    logits = [float(logit) for logit in forward.logits[0]]
    values = probabilities(
        manifest.calibration, [label.key for label in manifest.labels], logits, exclusive=manifest.exclusive
    )
    return tuple(
        _finding(bundle, label, logit, value)
        for label, logit, value in zip(manifest.labels, logits, values, strict=True)
    )


def _finding(bundle: Bundle, label: Label, logit: float, value: float) -> Finding:
    point = next(p for p in bundle.manifest.operating_points if p.label == label.key)
    return Finding(
        key=label.key,
        display=label.display,
        code=_concept(label.code),
        site=None if label.site is None else _concept(label.site),
        logit=logit,
        probability=value,
        threshold=point.threshold,
        operating_point=point.name,
        presence=presence(point, value),
        priority=point.priority,
        calibrated=bundle.manifest.calibration is not None,
    )


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)
