"""VGG-16 and -19 (Simonyan and Zisserman, ICLR 2015), with a pooled head in place of the three dense layers.

Input: as for ResNet ("caffe"). Map: 512 channels at 1/16. The last pooling is left out: the map is that of the last
convolution, which the head pools whole, so that its cells are twice as fine and the closed form holds.
"""

from __future__ import annotations

from models.backbones.catalogue import Family, Variant

FAMILY = Family(
    name="vgg",
    convention="caffe",
    keras_module="vgg16",
    variants={"vgg16": Variant("VGG16"), "vgg19": Variant("VGG19")},
)
