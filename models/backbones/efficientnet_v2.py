"""EfficientNetV2 B0 to B3, S, M, L (Tan and Le, ICML 2021).

Input: 0..255; the network rescales inside, to ImageNet mean and deviation (B0 to B3) or to [-1, 1) (S, M, L). Map: 1280
to 1536 channels at 1/32.
"""

from __future__ import annotations

from models.backbones.catalogue import Family, Variant

_SIDES = {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "S": 384, "M": 480, "L": 480}

FAMILY = Family(
    name="efficientnet_v2",
    convention="zero_to_255",
    keras_module="efficientnet_v2",
    variants={
        f"efficientnet_v2_{size.lower()}": Variant(f"EfficientNetV2{size}", side) for size, side in _SIDES.items()
    },
)
