"""DenseNet-121, -169, -201 (Huang et al., CVPR 2017).

Input: ImageNet mean and deviation ("torch"). Map: 1024, 1664, 1920 channels at 1/32.
"""

from __future__ import annotations

from models.backbones.catalogue import Family, Variant

FAMILY = Family(
    name="densenet",
    convention="torch",
    keras_module="densenet",
    variants={
        "densenet121": Variant("DenseNet121"),
        "densenet169": Variant("DenseNet169"),
        "densenet201": Variant("DenseNet201"),
    },
)
