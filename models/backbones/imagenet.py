"""ImageNet weights: by download through Keras, or from a file of Keras Applications that was brought by hand."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from keras import layers

from models.backbones import flat
from models.backbones.catalogue import Family
from models.backbones.weights import HEAD, assign, read_bytes, save_weights, weights_of
from models.errors import ArchitectureError, BundleError, RuntimeUnavailable

_DOWNLOAD_TIMEOUT_S = 20.0
_NATIVE = (224, 224, 3)
"""Weights do not depend on the side; at this one Keras warns of nothing."""

_LARGEST_ARRAY_BYTES = 1 << 28
"""The largest of any network here has a tenth of it."""

Arrays = dict[str, dict[str, Any]]
"""Layer to variable to array."""


def load_imagenet(model: Any, family: Family, name: str) -> None:
    """Fill the body with the weights Keras downloads, or has in its cache.

    Raises RuntimeUnavailable where there is neither; the message says how to do without.
    """
    source = _downloaded(family, name)
    arrays: Arrays = {
        layer.name: {weight.path.rsplit("/", 1)[-1]: np.asarray(weight.value) for weight in layer.weights}
        for layer in source.layers
        if layer.weights
    }
    _fill(model, family, arrays, "the download")


def from_keras_weights(model: Any, family: Family, source: Path, sha256: str, target: Path) -> str:
    """Convert a `..._notop.h5` of Keras Applications to an npz without head, float32; returns the npz's SHA-256.

    model: the network the file is for; its body is filled on the way.
    Raises DigestError before the file is opened, else BundleError where it is not what it should be.
    """
    data = read_bytes(source, sha256)
    try:
        with h5py.File(data, "r") as stored:
            arrays = _layers(stored)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise BundleError(f"{source.name} is no weights file of Keras Applications") from error
    _fill(model, family, arrays, source.name)
    save_weights(model, target, dtype="float32", head=False)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def _downloaded(family: Family, name: str) -> Any:
    try:
        with _socket_timeout(_DOWNLOAD_TIMEOUT_S):
            return flat.application(family, name, _NATIVE, weights="imagenet")
    except Exception as error:
        # Keras wraps a failed download in a bare Exception, a damaged one in a ValueError.
        if type(error) is not Exception and not isinstance(error, (OSError, ValueError)):
            raise
        raise RuntimeUnavailable(
            f"the ImageNet weights of {name} cannot be downloaded here. Without internet: on another machine build "
            f'{name} with weights="imagenet" and save_weights(..., dtype="float32"), or convert its notop .h5 with '
            "models.backbones.from_keras_weights; then give that npz as weights=PATH with its sha256"
        ) from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _fill(model: Any, family: Family, arrays: Arrays, source: str) -> None:
    """Pair by name; every layer of the network must be there, and none that is not of the network."""
    variables = {key: variable for key, variable in weights_of(model).items() if not key.startswith(HEAD)}
    kept: dict[str, Any] = {}
    names = {_canonical(key): key for key in variables}
    for layer, values in arrays.items():
        if family.check_source is not None and _is_normalisation(layer):
            family.check_source(values)
            continue
        for variable, array in values.items():
            key = names.get(_canonical(f"{layer}/{variable}"))
            if key is None:
                raise ArchitectureError(f"{source} holds {layer}/{variable}, which {model.name} has not")
            kept[key] = array
    missing = sorted(set(variables) - set(kept))
    if missing:
        raise ArchitectureError(f"{source} lacks {len(missing)} arrays of {model.name}, among them {missing[0]}")
    assign(variables, kept, source)


def _is_normalisation(layer: str) -> bool:
    return layer.startswith(layers.Normalization.__name__.lower())


def _canonical(key: str) -> str:
    """Some families' layers were renamed between the making of their files and today: `Conv/BatchNorm` is `conv_bn`."""
    layer, variable = key.rsplit("/", 1)
    variable = "kernel" if variable == "depthwise_kernel" else variable
    return f"{layer}/{variable}".lower().replace("/", "_").replace("batchnorm", "bn")


def _layers(stored: Any) -> Arrays:
    root = stored if "layer_names" in stored.attrs or "layer_names0" in stored.attrs else stored["model_weights"]
    found: Arrays = {}
    for layer in _names(root.attrs, "layer_names"):
        group = _linked(root, layer)
        values = {_leaf(weight): _array(group, weight) for weight in _names(group.attrs, "weight_names")}
        if values:
            found[layer] = values
    return found


def _leaf(weight: str) -> str:
    return weight.rsplit("/", 1)[-1].split(":", 1)[0]


def _names(attributes: Mapping[str, Any], key: str) -> list[str]:
    """A list of names; one too long for an attribute lies in parts `key0`, `key1`, ..."""
    if key in attributes:
        parts = [attributes[key]]
    else:
        parts = []
        while f"{key}{len(parts)}" in attributes:
            parts.append(attributes[f"{key}{len(parts)}"])
    raw = [one for part in parts for one in part]
    return [one.decode() if isinstance(one, bytes) else str(one) for one in raw]


def _linked(group: Any, path: str) -> Any:
    """Follow a path by hard links only: a file must not lead to others."""
    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise KeyError(f"no plain entry {part!r}")
        group = group[part]
    return group


def _array(group: Any, path: str) -> Any:
    held = _linked(group, path)
    if not isinstance(held, h5py.Dataset) or held.is_virtual or held.external is not None:
        raise ValueError(f"{path!r} is no plain array")
    if held.dtype.kind not in "fi" or held.nbytes > _LARGEST_ARRAY_BYTES:
        raise ValueError(f"{path!r} is no array of a network's")
    return np.asarray(held[()])
