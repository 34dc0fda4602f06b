"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variant drops squeeze-and-excitation and uses ReLU6).

Input: float32 (N, rows, columns, 3) in [-1, 1], (255 x - 127) / 128 of a [0, 1] image. The feature map has 1280
channels at 1/32 of the input's size.

Its variant "levels" ends with block 13 and gives three depths side by side, 80 + 112 + 192 channels on one grid. Late
blocks of an ImageNet network keep what tells objects apart and drop texture; where texture is the finding and images
are few, a head on these depths, the body untouched, beat fine-tuning to the end (docs/training.md, ct-covid).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from models.backbones.flat import with_head
from models.backbones.weights import read_arrays, start_from
from models.errors import ArchitectureError

# (expansion, channels, repeats, first stride, kernel) of each stage.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_EPSILON = 1e-3
FEATURES = "top_activation"
LEVELS = "levels"
_FINE, _COARSE = ("block7_add", "block10_add"), "block13_add"


def build(input_shape: tuple[int, int, int], outputs: int, dropout: float = 0.3) -> keras.Model:
    """The network with global average pooling and one linear layer; outputs (feature map, logits)."""
    image = layers.Input(input_shape, name="image")
    x = _body(image)
    x = layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name="top_bn")(x)
    features = layers.ReLU(6.0, name=FEATURES)(x)
    return with_head(image, features, outputs, dropout, "efficientnet_lite0")


def build_levels(input_shape: tuple[int, int, int], outputs: int, dropout: float = 0.3) -> keras.Model:
    """Blocks 0 to 13 with the same head on three of their maps; outputs (feature map, logits).

    The finer two are averaged to the grid of the third, which leaves their global averages as they are.
    """
    image = layers.Input(input_shape, name="image")
    whole = keras.Model(image, _body(image))
    fine = [
        layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(whole.get_layer(name).output) for name in _FINE
    ]
    features = layers.Concatenate(name=LEVELS)([*fine, whole.get_layer(_COARSE).output])
    return with_head(image, features, outputs, dropout, "efficientnet_lite0_levels")


def _body(image: Any) -> Any:
    """Stem and all blocks."""
    x = _convolution(image, 32, 3, 2, "stem")
    block = 0
    for expansion, channels, repeats, stride, kernel in _STAGES:
        for repeat in range(repeats):
            x = _inverted_residual(
                x,
                f"block{block}",
                expansion=expansion,
                channels=channels,
                kernel=kernel,
                stride=1 if repeat else stride,
            )
            block += 1
    return x


def load_imagenet(model: keras.Model, path: Path, sha256: str | None = None) -> None:
    """Fill the body from the ImageNet arrays (see the weights' own README for names); the head stays as it is.

    Raises DigestError where the file is another than ``sha256`` says, BundleError when it cannot be read, an array is
    missing, or has another shape.
    """
    _load(model, read_arrays(path, sha256))


def start(model: keras.Model, path: Path, sha256: str | None = None) -> None:
    """Fill the body from the ImageNet arrays or from weights that this package saved, whichever the file holds.

    Raises as :func:`load_imagenet`.
    """
    arrays = read_arrays(path, sha256)
    if "_conv_stem.weight" in arrays:
        _load(model, arrays)
    else:
        start_from(model, path, sha256)


def _load(model: keras.Model, arrays: Any) -> None:
    present = {layer.name for layer in model.layers}
    try:
        _assign(model, "stem_conv", [arrays["_conv_stem.weight"]])
        _assign(model, "stem_bn", _batch_norm(arrays, "_bn0"))
        block = 0
        for expansion, _channels, repeats, _stride, _kernel in _STAGES:
            for _ in range(repeats):
                if f"block{block}_dw_conv" in present:
                    _load_block(model, arrays, block, expanded=expansion != 1)
                block += 1
        if "top_conv" in present:
            _assign(model, "top_conv", [arrays["_conv_head.weight"]])
            _assign(model, "top_bn", _batch_norm(arrays, "_bn1"))
    except KeyError as error:
        raise ArchitectureError(f"the ImageNet weights lack {error.args[0]}") from error


def _convolution(x: Any, filters: int, kernel: int, stride: int, name: str) -> Any:
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)


def _inverted_residual(x: Any, name: str, *, expansion: int, channels: int, kernel: int, stride: int) -> Any:
    entry = x
    entering = int(x.shape[-1])
    if expansion != 1:
        x = _convolution(x, entering * expansion, 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_dw_conv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_dw_bn")(x)
    x = layers.ReLU(6.0, name=f"{name}_dw_relu")(x)
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_project_bn")(x)
    if stride == 1 and entering == channels:
        x = layers.Add(name=f"{name}_add")([entry, x])
    return x


def _load_block(model: keras.Model, arrays: Any, block: int, *, expanded: bool) -> None:
    source, name = f"_blocks.{block}", f"block{block}"
    if expanded:
        _assign(model, f"{name}_expand_conv", [arrays[f"{source}._expand_conv.weight"]])
        _assign(model, f"{name}_expand_bn", _batch_norm(arrays, f"{source}._bn0"))
    _assign(model, f"{name}_dw_conv", [arrays[f"{source}._depthwise_conv.weight"]])
    _assign(model, f"{name}_dw_bn", _batch_norm(arrays, f"{source}._bn1"))
    _assign(model, f"{name}_project_conv", [arrays[f"{source}._project_conv.weight"]])
    _assign(model, f"{name}_project_bn", _batch_norm(arrays, f"{source}._bn2"))


def _batch_norm(arrays: Any, name: str) -> list[Any]:
    return [arrays[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]


def _assign(model: keras.Model, layer: str, values: list[Any]) -> None:
    wanted = [tuple(v.shape) for v in model.get_layer(layer).weights]
    if wanted != [v.shape for v in values]:
        found = [v.shape for v in values]
        raise ArchitectureError(f"the ImageNet weights do not fit layer {layer}: {found}, not {wanted}")
    model.get_layer(layer).set_weights([v.astype(np.float32) for v in values])
