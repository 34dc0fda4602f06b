"""Batches: balanced draws and augmentation. No horizontal flip: the heart has a side."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.training.config import TrainingConfig


def draw_probabilities(sources: NDArray[Any], labels: NDArray[Any], power: float) -> NDArray[np.float64]:
    """Probability (n,) of drawing each image: sources by size ** power, labels evenly within a source."""
    chance = np.zeros(len(sources), dtype=np.float64)
    for source in np.unique(sources):
        here = sources == source
        for label in np.unique(labels[here]):
            cell = here & (labels == label)
            chance[cell] = float(here.sum()) ** power / len(np.unique(labels[here])) / cell.sum()
    chance /= chance.sum()
    return chance


class Augmenter:
    """Random rotation, zoom, aspect, shift, gamma, contrast, brightness and a grey patch, on grey planes in [0, 1].

    Aspect: some public sets squashed their films to squares, while serving keeps the film's own shape. Gamma, contrast
    and brightness stand for the windows that different hands choose.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.random = tf.random.Generator.from_seed(config.seed)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, images: Any) -> Any:
        """float32 (N, rows, columns, 1) to the same shape and range."""
        images = self._move(images)
        count = tf.shape(images)[0]
        images = tf.pow(images, tf.exp(self._uniform([count, 1, 1, 1], self.config.gamma)))
        gain = 1.0 + self._uniform([count, 1, 1, 1], self.config.contrast)
        shift = self._uniform([count, 1, 1, 1], self.config.brightness)
        images = (images - 0.5) * gain + 0.5 + shift
        return tf.clip_by_value(self._erase(images), 0.0, 1.0)

    def _uniform(self, shape: Any, limit: float) -> Any:
        return self.random.uniform(shape, -limit, limit)

    def _move(self, images: Any) -> Any:
        count, size = tf.shape(images)[0], tf.cast(tf.shape(images)[1], tf.float32)
        angle = self._uniform([count], self.config.rotation_degrees * np.pi / 180)
        scale = 1.0 + self._uniform([count], self.config.zoom)
        stretch = tf.exp(self._uniform([count], self.config.aspect))
        dx, dy = self._uniform([count], self.config.shift) * size, self._uniform([count], self.config.shift) * size
        across, down = scale * stretch, scale / stretch
        a, b, c, d = tf.cos(angle) * across, -tf.sin(angle) * down, tf.sin(angle) * across, tf.cos(angle) * down
        centre = (size - 1) / 2
        offset_x, offset_y = centre - (a + b) * centre + dx, centre - (c + d) * centre + dy
        zero = tf.zeros_like(a)
        transforms = tf.stack([a, b, offset_x, c, d, offset_y, zero, zero], axis=1)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=transforms,
            output_shape=tf.shape(images)[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )

    def _erase(self, images: Any) -> Any:
        count, size = tf.shape(images)[0], tf.shape(images)[1]
        grid = tf.cast(tf.range(size), tf.float32) / tf.cast(size, tf.float32)
        centre = self.random.uniform([2, count, 1], 0.1, 0.9)
        half = self.random.uniform([2, count, 1], 0.05, 0.15)
        inside = tf.abs(grid[None, None, :] - centre) < half
        patch = tf.cast(inside[0][:, :, None] & inside[1][:, None, :], tf.float32)[..., None]
        chosen = tf.cast(self.random.uniform([count, 1, 1, 1]) < self.config.erase_probability, tf.float32)
        return images * (1 - patch * chosen) + 0.5 * patch * chosen
