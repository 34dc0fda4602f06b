"""ResNet-50, -101, -152 with activation before the convolution (He et al., ECCV 2016).

Input: [-1, 1]. Map: 2048 channels at 1/32, after the last normalisation and ReLU.
"""

from __future__ import annotations

from models.backbones.catalogue import Family, Variant

FAMILY = Family(
    name="resnet_v2",
    convention="minus_one_to_one",
    keras_module="resnet_v2",
    variants={
        "resnet50v2": Variant("ResNet50V2"),
        "resnet101v2": Variant("ResNet101V2"),
        "resnet152v2": Variant("ResNet152V2"),
    },
)
