"""The networks a bundle may name, and nothing else: weights are data, architecture is code of this package.

Every architecture is built flat (no nested model, which would cut the gradient's way to the map) and gives two outputs:
the last feature map, float32 (N, h, w, K), and the logits, float32 (N, outputs).
"""

from __future__ import annotations

import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import BundleError

ARCHITECTURES: dict[str, str] = {"efficientnet_lite0": "models.backbones.efficientnet_lite"}
"""Name in a manifest to the module that builds it. Importing this package loads no TensorFlow."""


def build(name: str, input_shape: tuple[int, int, int], outputs: int) -> Any:
    """A Keras model with outputs (feature map, logits), its weights not yet meaningful.

    Raises BundleError for a name that is not in ARCHITECTURES.
    """
    if name not in ARCHITECTURES:
        raise BundleError(f"architecture {name!r} is none of {', '.join(sorted(ARCHITECTURES))}")
    return import_module(ARCHITECTURES[name]).build(input_shape, outputs)


def save_weights(model: Any, path: Path) -> None:
    """Write every variable as a float16 array under `<layer>/<variable>`; no pickle."""
    arrays = {_key(v): np.asarray(v.value, dtype=np.float16) for v in model.variables if _is_weight(v)}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_weights(model: Any, path: Path) -> None:
    """Fill a model built by `build`. Raises BundleError where names or shapes differ."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path.name} is no readable weights file; install the bundle again") from error
    variables = {_key(v): v for v in model.variables if _is_weight(v)}
    if set(arrays) != set(variables):
        raise BundleError(f"{path.name} does not fit the architecture: the names of its arrays differ")
    for key, variable in variables.items():
        if arrays[key].shape != tuple(variable.shape):
            raise BundleError(f"{path.name} does not fit the architecture: {key} has shape {arrays[key].shape}")
        variable.assign(arrays[key].astype(np.float32))


def _key(variable: Any) -> str:
    return str(variable.path)


def _is_weight(variable: Any) -> bool:
    # Random generators of dropout layers keep a counter that is none of a model's weights.
    return "seed" not in variable.path
