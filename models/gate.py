"""Is this image like those the model was made for? A distance in the network's own feature space.

The score is the Mahalanobis distance (Lee 2018) of an image's pooled features to those of the training images. Some
hundred images are too few for a covariance of a thousand channels, hence that of probabilistic PCA (Tipping
& Bishop 1999): the spread along the strongest directions, and one spread for all the others. The features are those of
the reading's own forward pass, so the gate costs no second one.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.errors import ArchitectureError, BundleFileError, DatasetError, NotInDistribution
from models.registry import Bundle

METHOD = "mahalanobis"
FEWEST_IMAGES = 40
"""Below this number neither spread nor threshold can be estimated."""

_FOLDS = 5
_COMPONENTS = 64
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Gate:
    """mean: float32 (C,). basis: float32 (C, k), orthonormal columns. spread: float32 (k,), standard deviations along
    them. rest: standard deviation along every other direction."""

    mean: FloatArray
    basis: FloatArray
    spread: FloatArray
    rest: float

    def scores(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """features: (N, C), pooled. Returns float64 (N,), distances in standard deviations."""
        centred = features.astype(np.float64) - self.mean
        along = centred @ self.basis.astype(np.float64)
        outside = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = ((along / self.spread) ** 2).sum(axis=1) + outside / self.rest**2
        return np.asarray(np.sqrt(squared))


@dataclass(frozen=True)
class FittedGate:
    """A gate with the distance that ``quantile`` of held-out images do not exceed."""

    gate: Gate
    threshold: float
    quantile: float

    def section(self) -> dict[str, Any]:
        """The manifest's ``ood``."""
        return {"method": METHOD, "threshold": round(self.threshold, 4), "quantile": self.quantile}


def pooled(features: FloatArray) -> FloatArray:
    """features: float32 (N, h, w, C), a forward pass' feature map, or (N, slices, h, w, C) of series. Returns float32
    (N, C), its mean over the cells, and over the slices whatever they weigh."""
    means: FloatArray = features.mean(axis=tuple(range(1, features.ndim - 1)), dtype=np.float32)
    return means


def fit_gate(
    features: FloatArray,
    held_out: FloatArray | None = None,
    *,
    quantile: float = 0.995,
    components: int = _COMPONENTS,
    seed: int = 0,
) -> FittedGate:
    """The gate of these training images' pooled features, float32 (N, C).

    held_out: pooled features (M, C) of other patients, for the threshold; without them it comes from five folds of
    ``features``, which is too low where a patient has several images. The images a gate was fitted on lie closer than
    any new one would, so they never set the threshold themselves.
    Raises DatasetError for too few images, or features that are no numbers.
    """
    judged = features if held_out is None else held_out
    require_enough(min(len(features), len(judged)))
    if not (np.isfinite(features).all() and np.isfinite(judged).all()):
        raise DatasetError("a gate cannot be fitted: the features hold values that are no numbers")
    gate = _fit(features, components)
    distances = _out_of_fold(features, components, seed) if held_out is None else gate.scores(held_out)
    return FittedGate(gate, float(np.quantile(distances, quantile, method="higher")), quantile)


def require_enough(images: int) -> None:
    """images: of the training or of the held-out ones, whichever are fewer. Raises DatasetError for too few."""
    if images < FEWEST_IMAGES:
        raise DatasetError(
            f"a gate needs {FEWEST_IMAGES} images in training and as many held out, not {images}; without a gate set "
            "bundle.gate_quantile to 0"
        )


def _fit(features: FloatArray, components: int) -> Gate:
    count, channels = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(features.astype(np.float64) - mean, full_matrices=False)
    variances = singular**2 / (count - 1)
    # A spread needs several images behind it, and some direction must be left to estimate the rest from.
    kept = max(1, min(components, count // 5, channels - 1))
    rest = variances[kept:].sum() / (channels - kept)
    return Gate(
        mean.astype(np.float32),
        directions[:kept].T.astype(np.float32),
        np.maximum(np.sqrt(variances[:kept]), _LEAST_SPREAD).astype(np.float32),
        max(float(np.sqrt(rest)), _LEAST_SPREAD),
    )


def _out_of_fold(features: FloatArray, components: int, seed: int) -> NDArray[np.float64]:
    order = np.random.default_rng(seed).permutation(len(features))
    scores = [
        _fit(np.delete(features, fold, axis=0), components).scores(features[fold])
        for fold in np.array_split(order, _FOLDS)
    ]
    return np.concatenate(scores)


def write_gate(path: Path, gate: Gate) -> None:
    """The file with role ood."""
    np.savez(path, mean=gate.mean, basis=gate.basis, spread=gate.spread, rest=np.float32(gate.rest))


def gate_of(bundle: Bundle) -> Gate | None:
    """A bundle's gate, read once per process; None where it has none. Raises BundleFileError for a malformed one."""
    if bundle.manifest.ood is None:
        return None
    listed = next(entry for entry in bundle.manifest.files if entry.role == "ood")
    return _read(bundle.folder / listed.path, listed.sha256)


@lru_cache(maxsize=16)
def _read(path: Path, _digest: str) -> Gate:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, basis, spread = (arrays[name].astype(np.float32) for name in ("mean", "basis", "spread"))
            rest = float(arrays["rest"])
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise BundleFileError(f"{path.name} is no readable gate; install the bundle again") from error
    fits = mean.ndim == 1 and basis.shape == (len(mean), *spread.shape) and spread.ndim == 1
    sound = np.isfinite(mean).all() and np.isfinite(basis).all() and (spread > 0).all() and rest > 0
    if not (fits and sound):
        raise BundleFileError(f"{path.name} is no gate: its arrays contradict each other; install the bundle again")
    return Gate(mean, basis, spread, rest)


def require_fit(bundle: Bundle, features: FloatArray) -> None:
    """features: float32 (N, …, C), of the bundle's network. Raises ArchitectureError where its gate has other C."""
    gate = gate_of(bundle)
    if gate is not None and len(gate.mean) != features.shape[-1]:
        raise ArchitectureError(
            f"bundle {bundle.manifest.id}: its gate is for {len(gate.mean)} channels, the network gives "
            f"{features.shape[-1]}"
        )


def require_in_distribution(bundle: Bundle, features: FloatArray) -> None:
    """features: as `pooled` takes them, of one image or series. Raises NotInDistribution beyond the threshold."""
    gate, rules = gate_of(bundle), bundle.manifest.ood
    if gate is None or rules is None:
        return
    distance = float(gate.scores(pooled(features))[0])
    if not distance <= rules.threshold:
        raise NotInDistribution(
            f"unlike the images the model was made for (distance {distance:.1f}, at most {rules.threshold:.1f})"
        )
