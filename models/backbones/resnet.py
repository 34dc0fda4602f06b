"""ResNet-50, -101, -152 (He et al., CVPR 2016).

Input: grey 0..255 repeated, minus the ImageNet mean of each channel, not scaled ("caffe"). Map: 2048 channels at 1/32.
"""

from __future__ import annotations

from models.backbones.catalogue import Family, Variant

FAMILY = Family(
    name="resnet",
    convention="caffe",
    keras_module="resnet",
    variants={
        "resnet50": Variant("ResNet50"),
        "resnet101": Variant("ResNet101"),
        "resnet152": Variant("ResNet152"),
    },
)
