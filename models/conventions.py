"""The numbers that each family of backbones was trained on, as Keras Applications' ``preprocess_input`` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.contracts import FloatArray


def _affine(multiply: Sequence[float], add: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    return np.asarray(multiply, dtype=np.float32), np.asarray(add, dtype=np.float32)


CONVENTIONS: Mapping[str, tuple[FloatArray, FloatArray]] = {
    "unit": _affine([1], [0]),
    "zero_to_255": _affine([255], [0]),
    "minus_one_to_one": _affine([2], [-1]),
    "efficientnet_lite": _affine([255 / 128], [-127 / 128]),
    "torch": _affine(
        [1 / 0.229, 1 / 0.224, 1 / 0.225],
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
    ),
    # Grey repeated three times is its own BGR, and windows have no colours; only the means have an order.
    "caffe": _affine([255, 255, 255], [-103.939, -116.779, -123.68]),
}
"""From [0, 1]: multiply and add, float32 of one value or one for each channel."""
