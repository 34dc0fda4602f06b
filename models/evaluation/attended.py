"""Where a network looked in all that it was given of a sample: one image, or every slice that it read of a series."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.calibration import probabilities
from models.contracts import FloatArray, ModelInput
from models.datasets.pixels import Images
from models.datasets.samples import Sample
from models.errors import NoReadingError
from models.evaluation.judging import Attention, attend, image_of
from models.explain import slice_map
from models.reading import prepare_series
from models.registry import Bundle
from models.runner import Runner


@dataclass(frozen=True)
class Attended:
    """parts: of a series the slices that were read, in their order, each with its own maps, comparable with those of
    the others; else the one image. files: of each of them. taken: for every slice of the network's input, which part
    it is; empty for a single image.
    """

    parts: tuple[Attention, ...]
    files: tuple[str, ...]
    taken: tuple[int, ...] = ()

    @property
    def arrays(self) -> FloatArray:
        """What the network was given of each part, float32 (parts, rows, columns, channels)."""
        return np.stack([part.input.array for part in self.parts])

    def with_maps(self, draw: Callable[[tuple[int, ...]], FloatArray]) -> Attended:
        """The same with other maps; draw: their shape to float32."""
        return replace(self, parts=tuple(replace(part, maps=draw(part.maps.shape)) for part in self.parts))

    def chances(self, bundle: Bundle, runner: Runner, changed: Iterable[FloatArray], label: int) -> NDArray[np.float64]:
        """A label's probability for each of several changed ``arrays``, one pass each."""
        manifest, found = bundle.manifest, []
        keys = [one.key for one in manifest.labels]
        for arrays in changed:
            given = arrays[list(self.taken)][np.newaxis] if self.taken else arrays
            logits = [float(logit) for logit in runner.run(given).logits[0]]
            found.append(probabilities(manifest.calibration, keys, logits, exclusive=manifest.exclusive)[label])
        return np.array(found)


def attended(bundle: Bundle, runner: Runner, sample: Sample, images: Images) -> Attended:
    """All maps of a sample, as the bundle reads it. Raises as `models.reading` does."""
    files = sample.every_file
    if bundle.manifest.series is None:
        return Attended((attend(bundle, runner, image_of(sample, images)),), (files[len(files) // 2],))
    stack = prepare_series(bundle, len(files), lambda place: images.read(files[place]))
    forward, head = runner.run(stack.array[np.newaxis]), runner.head
    if head is None:
        raise NoReadingError("the runtime gave no linear head; maps of a series cannot be drawn")
    parts, places = [], list(stack.placements)
    for one in stack.weights(forward):
        at = stack.chosen.index(one.index)
        maps = slice_map(forward.features[0, at], one.weight, head)
        parts.append(Attention(ModelInput(stack.array[at], stack.placements[one.index]), forward.logits[0], maps))
    taken = tuple(places.index(place) for place in stack.chosen)
    return Attended(tuple(parts), tuple(files[place] for place in places), taken)
