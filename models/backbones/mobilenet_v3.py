"""MobileNetV3 small and large (Howard et al., ICCV 2019), width 1.0, without the dense layer before the head.

Input: 0..255; the network rescales inside. Map: 576 (small) or 960 (large) channels at 1/32.
"""

from __future__ import annotations

from models.backbones.catalogue import Family, Variant

FAMILY = Family(
    name="mobilenet_v3",
    convention="zero_to_255",
    keras_module="mobilenet_v3",
    variants={
        "mobilenet_v3_small": Variant("MobileNetV3Small"),
        "mobilenet_v3_large": Variant("MobileNetV3Large"),
    },
)
