"""A series of slices read as one: which slices, what each of them weighs, and what they say together.

A 2.5D network looks at each slice as at a single image and pools them by gated attention (Ilse, Tomczak, Welling, ICML
2018). As the weights of the slices add up to 1 and the head is linear, the logits of a series are the weighted mean of
its slices' own logits. Serving therefore runs the network of single images slice by slice, in whatever runtime, and the
pooling here in NumPy; training has the same arithmetic in Keras (:mod:`models.training.series`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.contracts import Admission, FloatArray, SeriesFacts, SliceWeight
from models.errors import ArchitectureError

if TYPE_CHECKING:
    from models.manifest import SeriesRules
    from models.registry import Bundle

ATTENTION = "attention"
"""Name of the layer; its arrays are stored under ``attention/``."""

_ARRAYS = ("content", "gate", "score")


@dataclass(frozen=True)
class Attention:
    """Gated attention. content, gate: float32 (channels, width). score: float32 (width,)."""

    content: FloatArray
    gate: FloatArray
    score: FloatArray

    def weights(self, pooled: FloatArray) -> FloatArray:
        """pooled: float32 (slices, channels). Returns float32 (slices,) that add up to 1."""
        # Slice by slice, for the reason given in models.explain.closed_form_maps.
        content, gate = (np.stack([one @ matrix for one in pooled]) for matrix in (self.content, self.gate))
        # 1 / (1 + exp(-x)) overflows for large negative x; the hyperbolic tangent does not.
        scores = (np.tanh(content) * (0.5 + 0.5 * np.tanh(0.5 * gate))) @ self.score
        grown = np.exp(scores - scores.max())
        weights: FloatArray = (grown / grown.sum()).astype(np.float32)
        return weights


def attention_of(bundle: Bundle) -> Attention:
    """The attention in a bundle's weights. Raises ArchitectureError where there is none that fits together."""
    try:
        with np.load(bundle.weights, allow_pickle=False) as arrays:
            content, gate, score = (arrays[f"{ATTENTION}/{name}"].astype(np.float32) for name in _ARRAYS)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ArchitectureError(f"bundle {bundle.manifest.id} has no weights of an attention over slices") from error
    fits = content.ndim == 2 and gate.shape == content.shape and score.shape == (content.shape[1], 1)
    if not fits or not all(np.isfinite(array).all() for array in (content, gate, score)):
        raise ArchitectureError(f"bundle {bundle.manifest.id}: the arrays of its attention do not fit together")
    return Attention(content, gate, score[:, 0])


def evenly(count: int, slices: int) -> list[int]:
    """Which of ``count`` slices are read: evenly spread, ends included; some twice where there are too few."""
    return [round(place) for place in np.linspace(0, count - 1, slices)]


def heaviest(slices: Sequence[SliceWeight]) -> SliceWeight:
    """The key slice: the one that weighs most, of equals the first. Its maps are those that are shown."""
    return max(slices, key=lambda one: one.weight)


def admit_series(rules: SeriesRules, facts: SeriesFacts) -> Admission:
    """May a model read this series? The first rule that speaks against it decides, with its reason for people."""
    reason = (
        _too_few(rules, facts)
        or _no_position(rules, facts)
        or _too_many_missing(rules, facts)
        or _too_far(rules, facts)
    )
    return Admission(not reason, reason or "admitted")


def _too_few(rules: SeriesRules, facts: SeriesFacts) -> str:
    if facts.slices >= rules.min_slices:
        return ""
    return f"series of {facts.slices} slice{'' if facts.slices == 1 else 's'}, at least {rules.min_slices} are needed"


def _no_position(rules: SeriesRules, facts: SeriesFacts) -> str:
    if facts.by_position or not rules.position_required:
        return ""
    return "slices without position in space: their order and gaps are not known"


def _too_many_missing(rules: SeriesRules, facts: SeriesFacts) -> str:
    whole = facts.slices + facts.missing
    if not facts.missing or facts.missing <= rules.max_missing * whole:
        return ""
    return f"about {facts.missing} of {whole} slices are missing"


def _too_far(rules: SeriesRules, facts: SeriesFacts) -> str:
    widest = rules.max_spacing_mm
    if widest is None or facts.spacing_mm is None or facts.spacing_mm <= widest:
        return ""
    return f"slices {facts.spacing_mm:.1f} mm apart, at most {widest:g} mm are read"
