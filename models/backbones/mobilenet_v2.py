"""MobileNetV2 (Sandler et al., CVPR 2018), width 1.0.

Input: [-1, 1]. Map: 1280 channels at 1/32.
"""

from __future__ import annotations

from models.backbones.catalogue import Family, Variant

FAMILY = Family(
    name="mobilenet_v2",
    convention="minus_one_to_one",
    keras_module="mobilenet_v2",
    variants={"mobilenet_v2": Variant("MobileNetV2")},
)
