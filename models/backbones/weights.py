"""Arrays of a network, in and out of npz files; nothing here can run code of a file's.

A file's SHA-256, where one is given, is that of the very bytes that are then read.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.errors import ArchitectureError, BundleError, DigestError

HEAD = "logits/"
_UNREADABLE = (OSError, ValueError, TypeError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def save_weights(
    model: Any, path: Path, dtype: Literal["float16", "float32"] = "float16", *, head: bool = True
) -> None:
    """Write every variable, or every one but the head's, under `<layer>/<variable>`; no pickle.

    float16 is for shipping, float32 for going on with training. An array whose values leave the range of float16
    (variances of wide inputs do) is written as float32 in either case.
    """
    arrays = {
        key: _stored(np.asarray(variable.value), dtype)
        for key, variable in weights_of(model).items()
        if head or not key.startswith(HEAD)
    }
    np.savez(path, **arrays)


def load_weights(model: Any, path: Path, sha256: str | None = None, *, apart: str | None = None) -> None:
    """Fill a model built by `build`.

    apart: arrays whose names begin so are not this network's and are passed over.

    Raises:
        DigestError: the file's bytes are not those of ``sha256``; it was not opened.
        BundleError: the file cannot be read, or its names or shapes differ (ArchitectureError).
    """
    arrays, variables = read_arrays(path, sha256), weights_of(model)
    if apart is not None:
        arrays = {key: array for key, array in arrays.items() if not key.startswith(apart)}
    if set(arrays) != set(variables):
        odd = ", ".join(sorted(set(arrays) ^ set(variables))[:3])
        raise ArchitectureError(f"{path.name} does not fit the architecture: the names of its arrays differ ({odd})")
    assign(variables, arrays, path.name)


def start_from(model: Any, path: Path, sha256: str | None = None) -> None:
    """Fill the body for further training; the head too, where the file has one of the same shape. Raises as above."""
    arrays, variables = read_arrays(path, sha256), weights_of(model)
    body = {key: variable for key, variable in variables.items() if not key.startswith(HEAD)}
    missing = sorted(set(body) - set(arrays))
    unknown = sorted(set(arrays) - set(variables))
    if missing or unknown:
        odd = ", ".join((missing + unknown)[:3])
        raise ArchitectureError(f"{path.name} does not fit the architecture: the names of its arrays differ ({odd})")
    head = {key: variable for key, variable in variables.items() if key.startswith(HEAD)}
    same = all(key in arrays and arrays[key].shape == tuple(variable.shape) for key, variable in head.items())
    assign(variables if same else body, arrays, path.name)


def assign(variables: Mapping[str, Any], arrays: Mapping[str, Any], source: str) -> None:
    """Give every variable its array, all or none. Raises ArchitectureError for a shape or a value that cannot be."""
    for key, variable in variables.items():
        array = arrays[key]
        if array.shape != tuple(variable.shape) or array.dtype.kind != "f":
            raise ArchitectureError(f"{source} does not fit the architecture: {key} is {array.dtype} {array.shape}")
        if not np.isfinite(array).all():
            raise ArchitectureError(f"{source} cannot be used: {key} holds values that are no finite numbers")
    for key, variable in variables.items():
        variable.assign(arrays[key].astype(np.float32))


def read_arrays(path: Path, sha256: str | None) -> dict[str, Any]:
    """Every array of an npz. Raises DigestError, BundleError."""
    data = read_bytes(path, sha256)
    try:
        with np.load(data, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except _UNREADABLE as error:
        raise BundleError(f"{path.name} is no readable weights file; install it again") from error


def read_bytes(path: Path, sha256: str | None) -> io.BytesIO:
    """The file's bytes, proven to be those of ``sha256`` if that is given. Raises DigestError, BundleError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name} is no readable weights file; it is not there, or not yours to read") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
        raise DigestError(f"{path.name} is not the file its SHA-256 stands for; it was not opened")
    return io.BytesIO(data)


def weights_of(model: Any) -> dict[str, Any]:
    """The model's variables under the names they are stored by."""
    # Random generators of dropout layers keep a counter that is none of a model's weights.
    return {str(v.path): v for v in model.variables if "seed" not in v.path}


def _stored(values: Any, dtype: str) -> Any:
    full = values.astype(np.float32)
    if dtype == "float32" or np.abs(full).max(initial=0) > np.finfo(np.float16).max:
        return full
    return full.astype(np.float16)
