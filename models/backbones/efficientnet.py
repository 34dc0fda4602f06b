"""EfficientNet-B0 to -B7 (Tan and Le, ICML 2019).

Input: 0..255; the network rescales inside. Map: 1280 (B0) to 2560 (B7) channels at 1/32.

Keras gives this family another graph with ImageNet weights than without: its normalisation then stores the deviations
where variances belong, and a second rescaling makes up for that. A network saved from the one and loaded into the other
would be wrong without a word. Here the input always becomes (x / 255 - mean) / deviation, by constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.backbones.catalogue import Family, Variant
from models.errors import ArchitectureError

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def _substitute(layer: Any, name: str) -> Any | None:
    from keras import layers  # noqa: PLC0415 - the catalogue is read without Keras

    if isinstance(layer, layers.Rescaling):
        scale = [1 / (255 * deviation) for deviation in DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)]
        return layers.Rescaling(scale, offset, name=name)
    return layers.Identity(name=name) if isinstance(layer, layers.Normalization) else None


def _check_source(arrays: Mapping[str, Any]) -> None:
    stored = np.ravel(arrays["mean"]), np.ravel(arrays["variance"])
    if not (np.allclose(stored[0], MEAN, atol=1e-3) and np.allclose(stored[1], DEVIATION, atol=1e-3)):
        raise ArchitectureError("the weights were trained with another normalisation than that of ImageNet")


FAMILY = Family(
    name="efficientnet",
    convention="zero_to_255",
    keras_module="efficientnet",
    variants={
        f"efficientnet_b{number}": Variant(f"EfficientNetB{number}", side)
        for number, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    substitute=_substitute,
    check_source=_check_source,
)
