"""Networks whose weights are random but lively enough that a wrong one shows in the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.preprocess import Scale, apply, grey_from_uint8, parse_steps

_RANGES = {"beta": (-0.4, 0.4), "gamma": (0.8, 1.2)}


def enliven(model: Any, batch: Any, seed: int) -> None:
    """Draw gains and offsets, and set every normalisation's statistics to those of the batch.

    As they are built, deep networks let next to nothing of an image through: their answers are all but constant.
    """
    random = np.random.default_rng(seed)
    for variable in model.variables:
        limits = _RANGES.get(variable.path.rsplit("/", 1)[-1])
        if limits is not None:
            variable.assign(random.uniform(*limits, tuple(variable.shape)).astype(np.float32))
    normalisations = [layer for layer in model.layers if hasattr(layer, "moving_variance")]
    momenta = [layer.momentum for layer in normalisations]
    for layer in normalisations:
        layer.momentum = 0.0
    model(batch, training=True)
    for layer, momentum in zip(normalisations, momenta, strict=True):
        layer.momentum = momentum
        variance = np.asarray(layer.moving_variance)
        # Channels that were silent in this batch would shout in the next.
        layer.moving_variance.assign(np.maximum(variance, 0.2 * variance.mean() + 1e-4))


def images(side: int, convention: str, count: int = 1) -> Any:
    """float32 (count, side, side, 3): coarse noise, through the preprocessing that ends in the convention."""
    steps = parse_steps(
        [
            {"step": "window"},
            {"step": "invert"},
            {"step": "resize_pad", "rows": side, "columns": side},
            {"step": "channels"},
            Scale.model_validate({"convention": convention}).model_dump(),
        ]
    )
    planes = np.random.default_rng(5).integers(0, 256, (count, 16, 16), dtype=np.uint8)
    return np.stack([apply(steps, grey_from_uint8(plane)).array for plane in planes])
