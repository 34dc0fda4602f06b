"""The networks a bundle may name, and nothing else: weights are data, architecture is code of this package.

Every network is built flat (no nested model, which would cut the gradient's way to the map) and gives two outputs: the
last feature map, (N, h, w, K), and the logits, (N, outputs), both float32. Between them lie global average pooling and
one linear layer, so that every map has a closed form (:mod:`models.explain`).

    >>> info("densenet121").convention
    'torch'
    >>> model = build("densenet121", (224, 224, 3), outputs=14, weights=Path("body.npz"), sha256="9f2c...")

Importing this package loads no TensorFlow; building a network does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from models.backbones import (
    densenet,
    efficientnet,
    efficientnet_v2,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    resnet_v2,
    vgg,
)
from models.backbones.catalogue import CHANNELS, BackboneInfo, Family
from models.backbones.weights import load_weights, save_weights, start_from
from models.errors import ArchitectureError

__all__ = [
    "ARCHITECTURES",
    "BackboneInfo",
    "build",
    "family_of",
    "from_keras_weights",
    "info",
    "load_weights",
    "save_weights",
]

FAMILIES: tuple[Family, ...] = (
    resnet.FAMILY,
    resnet_v2.FAMILY,
    vgg.FAMILY,
    densenet.FAMILY,
    mobilenet_v2.FAMILY,
    mobilenet_v3.FAMILY,
    efficientnet.FAMILY,
    efficientnet_v2.FAMILY,
)
"""Those of Keras Applications; EfficientNet-Lite is not among them and built by this package itself."""

_LITES: Mapping[str, str] = {"efficientnet_lite0": "build", "efficientnet_lite0_levels": "build_levels"}
"""Network to the function of `_LITE_MODULE` that builds it."""

_LITE_MODULE = "models.backbones.efficientnet_lite"
_FAMILY_OF: Mapping[str, Family] = {name: family for family in FAMILIES for name in family.variants}

ARCHITECTURES: dict[str, BackboneInfo] = {
    **{
        name: BackboneInfo(name, "efficientnet_lite", convention="efficientnet_lite", smallest_side=32)
        for name in _LITES
    },
    **{name: family.info(name) for name, family in _FAMILY_OF.items()},
}
"""The allow-list: no other name in a manifest is ever built."""


def info(name: str) -> BackboneInfo:
    """What is known of a network. Raises ArchitectureError for a name that is not in ARCHITECTURES."""
    if name not in ARCHITECTURES:
        raise ArchitectureError(f"architecture {name!r} is none of {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def family_of(name: str) -> Family:
    """The Keras Applications family of a network. Raises ArchitectureError for a name that is in none."""
    if name not in _FAMILY_OF:
        raise ArchitectureError(f"{info(name).name} is no network of Keras Applications")
    return _FAMILY_OF[name]


def build(
    name: str,
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    dropout: float = 0.3,
    weights: Path | Literal["imagenet"] | None = None,
    sha256: str | None = None,
) -> Any:
    """A Keras model with outputs (feature map, logits).

    input_shape: rows, columns, 3. dropout: the fraction of pooled features dropped in training.
    weights: None leaves them random; "imagenet" is Keras's download; a path is an npz of `save_weights` or
        `from_keras_weights`, whose head is taken too where it has the same shape, and else left untrained.
    sha256: of that npz, checked before it is opened.

    Raises:
        ArchitectureError: the name is not in ARCHITECTURES, the shape is too small, or the weights do not fit.
        DigestError: the file is not that of ``sha256``.
        BundleError: the file cannot be read.
        RuntimeUnavailable: the ImageNet weights cannot be downloaded.
    """
    _check_shape(info(name), input_shape, outputs)
    if name in _LITES:
        return _build_lite(name, input_shape, outputs, dropout=dropout, weights=weights, sha256=sha256)
    model = import_module("models.backbones.flat").build(_FAMILY_OF[name], name, input_shape, outputs, dropout)
    if weights == "imagenet":
        import_module("models.backbones.imagenet").load_imagenet(model, _FAMILY_OF[name], name)
    elif weights is not None:
        start_from(model, _npz(weights), sha256)
    return model


def from_keras_weights(name: str, source: Path, sha256: str, target: Path) -> str:
    """Convert a ``..._notop.h5`` of Keras Applications, brought by hand, to the npz `build` takes; returns its SHA-256.

    sha256: of ``source``, checked before it is opened. Only arrays under the names of the network's own layers are
    taken, by h5py; nothing in the file is run.

    Raises:
        ArchitectureError: the name is none of Keras Applications', or the file is another network's.
        DigestError: the file is not that of ``sha256``.
        BundleError: the file cannot be read.
    """
    family = family_of(name)
    side = family.smallest_side
    model = build(name, (side, side, CHANNELS), 1)
    converted: str = import_module("models.backbones.imagenet").from_keras_weights(
        model, family, source, sha256, target
    )
    return converted


def _build_lite(
    name: str,
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    dropout: float,
    weights: Path | Literal["imagenet"] | None,
    sha256: str | None,
) -> Any:
    if weights == "imagenet":
        raise ArchitectureError(f"Keras has no ImageNet weights of {name}; give the path of its npz")
    module = import_module(_LITE_MODULE)
    model = getattr(module, _LITES[name])(input_shape, outputs, dropout)
    if weights is not None:
        module.start(model, _npz(weights), sha256)
    return model


def _npz(path: Path | str) -> Path:
    if Path(path).suffix in {".h5", ".hdf5", ".keras"}:
        raise ArchitectureError(f"{Path(path).name} is no npz; convert it with models.backbones.from_keras_weights")
    return Path(path)


def _check_shape(network: BackboneInfo, input_shape: tuple[int, int, int], outputs: int) -> None:
    rows, columns, channels = input_shape
    if channels != CHANNELS:
        raise ArchitectureError(f"{network.name} takes {CHANNELS} channels, not {channels}; repeat the grey plane")
    if min(rows, columns) < network.smallest_side:
        raise ArchitectureError(f"{network.name} takes no less than {network.smallest_side} rows and columns")
    if outputs < 1:
        raise ArchitectureError(f"{network.name} needs at least one output, not {outputs}")
