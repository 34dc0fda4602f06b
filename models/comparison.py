"""A model that compares an image with an earlier one of the same patient.

Both go through the same network, and what the earlier one's pooled features say is added to the logits (late fusion):

    logits = head(current) + features(prior) @ kernel        where there is a prior,
    logits = head(current) + absent                          where there is none.

So an image without a prior costs one pass, and maps of the current image stay those of its own linear head: the second
term does not depend on it.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.contracts import FloatArray
from models.errors import ArchitectureError, GoldenError
from models.gate import pooled
from models.registry import Bundle

if TYPE_CHECKING:
    from models.runner import Forward, Runner


@dataclass(frozen=True)
class Comparison:
    """kernel: float32 (channels, labels), of a prior's pooled features. absent: float32 (labels,), in its place."""

    kernel: FloatArray
    absent: FloatArray

    def of(self, current: Forward, prior: Forward | None) -> Forward:
        """The pass over the current image, its logits as the prior, or that there is none, makes them."""
        more = self.absent[np.newaxis] if prior is None else pooled(prior.features) @ self.kernel
        return replace(current, logits=(current.logits + more).astype(np.float32))


def comparison_of(bundle: Bundle) -> Comparison | None:
    """How a bundle weighs priors; None where it reads none. Raises ArchitectureError for arrays that do not fit."""
    if bundle.manifest.priors is None:
        return None
    path = bundle.folder / bundle.manifest.file("prior")
    return _read(path, bundle.identity.bundle_digest, bundle.manifest.architecture.outputs)


@lru_cache(maxsize=8)
def _read(path: Path, _bundle_digest: str, outputs: int) -> Comparison:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = Comparison(arrays["kernel"].astype(np.float32), arrays["absent"].astype(np.float32))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ArchitectureError(f"{path.name} of the bundle holds no kernel and no absent") from error
    finite = bool(np.isfinite(found.kernel).all() and np.isfinite(found.absent).all())
    if not finite or found.kernel.ndim != 2 or found.kernel.shape[1] != outputs or found.absent.shape != (outputs,):
        raise ArchitectureError(f"{path.name} of the bundle does not fit its {outputs} labels")
    return found


def compared_logits(bundle: Bundle, runner: Runner) -> tuple[FloatArray, FloatArray]:
    """What a bundle answers to its pairs of test vectors (``inputs`` beside ``prior_inputs``), and what it should
    (``prior_logits``).

    Raises GoldenError where it has none, ArchitectureError where the arrays do not fit the network.
    """
    comparison = comparison_of(bundle)
    shape = bundle.manifest.architecture.input_shape
    try:
        with np.load(bundle.golden, allow_pickle=False) as golden:
            inputs, priors = golden["inputs"].astype(np.float32), golden["prior_inputs"].astype(np.float32)
            expected = golden["prior_logits"].astype(np.float32)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise GoldenError(f"bundle {bundle.manifest.id} has no test vectors with a prior; install it again") from error
    if comparison is None or not len(priors) or priors.shape[1:] != shape or len(inputs) < len(priors):
        raise GoldenError(f"bundle {bundle.manifest.id} has no test vectors with a prior of its input's shape")
    try:
        passes = [
            comparison.of(runner.run(one[np.newaxis]), runner.run(prior[np.newaxis]))
            for one, prior in zip(inputs, priors, strict=False)
        ]
    except ValueError as error:
        raise ArchitectureError(f"bundle {bundle.manifest.id}: its priors' kernel does not fit its network") from error
    return np.concatenate([one.logits for one in passes]), expected
