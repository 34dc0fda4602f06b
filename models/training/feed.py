"""Which image is in which batch, as a function of seed, phase and epoch alone, and the pipeline that reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.errors import DatasetError
from models.training.batches import draw_probabilities
from models.training.network import Batch
from models.training.recipe import Training


@dataclass(frozen=True)
class Examples:
    """A part of the data. values, mask: float32 (n, labels). patients, sources: str (n,)."""

    read: Batch
    values: FloatArray
    mask: FloatArray
    patients: NDArray[np.str_]
    sources: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.values)


def patterns(values: FloatArray, mask: FloatArray) -> NDArray[np.str_]:
    """One string for each image: which labels it has, and which are unknown."""
    known = np.where(mask > 0, np.round(values * 2).astype(int), 3)
    return np.array(["".join(map(str, row)) for row in known])


def steps_of(examples: Examples, training: Training) -> int:
    """Steps of one epoch. Raises DatasetError for fewer images than one step takes."""
    whole = training.batch * training.accumulate
    if training.sampling == "shuffle" and len(examples) < whole:
        raise DatasetError(f"a step takes {whole} images, but training has {len(examples)}; lower batch")
    return max(1, math.floor(len(examples) / whole))


def order(examples: Examples, training: Training, phase: int, epoch: int) -> NDArray[np.int64]:
    """Indices int64 (steps, images of a step) of one epoch; the same for the same seed, phase and epoch."""
    random = np.random.default_rng((training.seed, phase, epoch))
    steps, whole = steps_of(examples, training), training.batch * training.accumulate
    if training.sampling == "shuffle":
        drawn = random.permutation(len(examples))[: steps * whole]
    else:
        cells = patterns(examples.values, examples.mask)
        chance = draw_probabilities(examples.sources, cells, training.source_power)
        drawn = random.choice(len(chance), steps * whole, p=chance)
    return drawn.reshape(steps, whole).astype(np.int64)


def feed(examples: Examples, indices: NDArray[np.int64]) -> Any:
    """tf.data.Dataset of (planes, values, mask), one element a step, read ahead in the order given."""
    first = examples.read(indices[0, :1])

    def read(chosen: Any) -> Any:
        planes = tf.numpy_function(examples.read, [chosen], tf.float32, stateful=False)
        return tf.ensure_shape(planes, (indices.shape[1], *first.shape[1:]))

    values, mask = tf.constant(examples.values), tf.constant(examples.mask)
    steps = tf.data.Dataset.from_tensor_slices(indices)
    return steps.map(
        lambda chosen: (read(chosen), tf.gather(values, chosen), tf.gather(mask, chosen)),
        num_parallel_calls=2,
        deterministic=True,
    ).prefetch(2)
