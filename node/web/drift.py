"""Whether what a model sees and says here is like what it was made with. Pure.

A bundle may hold a reference: under ``evaluation.reference`` of its manifest, ``scores`` by label and ``inputs`` by
header fact, each a histogram ``{"edges": [e0 … en], "counts": [c1 … cn]}`` (ascending; the outer bins take what lies
beyond) or, for facts that are words, counts ``{"AP": 120, "PA": 380}``.

PSI (population stability index) is the sum over bins of (p - q) ln(p / q). KS is the largest difference of the two
cumulative distributions, taken at the edges of the reference's bins, which bounds the exact statistic from below; it
is held against its 5 % critical value 1.358 sqrt((n + m) / (n m)) (Smirnov 1948).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Rules of thumb of credit scoring (Siddiqi 2006): below the first nothing has moved, above the second it has.
PSI_SOME, PSI_MUCH = 0.1, 0.25
# With fewer than this a histogram says nothing.
LEAST = 50
# For bins that are empty on one side.
_LEAST_SHARE = 1e-4
_KS_FACTOR = 1.358


@dataclass(frozen=True)
class Drift:
    """One distribution held against its reference. ks, critical: None for words, which have no order."""

    name: str
    count: int
    reference_count: int
    psi: float
    ks: float | None
    critical: float | None

    @property
    def verdict(self) -> str:
        """few, stable, some or much."""
        if self.count < LEAST or self.reference_count < LEAST:
            return "few"
        beyond = self.ks is not None and self.critical is not None and self.ks > self.critical
        if self.psi > PSI_MUCH:
            return "much"
        return "some" if self.psi > PSI_SOME or beyond else "stable"


def score_drifts(reference: Mapping[str, Any], summaries: Iterable[Mapping[str, Any]]) -> list[Drift]:
    """By label, of the probabilities in jobs' summaries."""
    seen: dict[str, list[Any]] = {}
    for summary in summaries:
        images = summary.get("images")
        for image in images if isinstance(images, list) else []:
            for finding in image.get("findings") or [] if isinstance(image, dict) else []:
                seen.setdefault(str(finding.get("label", "")), []).append(finding.get("probability"))
    return _drifts(reference.get("scores"), seen)


def input_drifts(reference: Mapping[str, Any], facts: Iterable[Mapping[str, Any]]) -> list[Drift]:
    """By header fact."""
    wanted = reference.get("inputs")
    names = list(wanted) if isinstance(wanted, dict) else []
    seen: dict[str, list[Any]] = {name: [] for name in names}
    for one in facts:
        for name in names:
            seen[name].append(one.get(name))
    return _drifts(wanted, seen)


def _drifts(references: Any, seen: Mapping[str, Sequence[Any]]) -> list[Drift]:
    found = []
    for name, reference in references.items() if isinstance(references, dict) else ():
        drift = _held(str(name), reference, seen.get(name, ()))
        if drift is not None:
            found.append(drift)
    return found


def _held(name: str, reference: Any, values: Sequence[Any]) -> Drift | None:
    """None where the reference is none: a bundle of somebody else may hold anything."""
    if not isinstance(reference, dict) or not reference:
        return None
    if set(reference) == {"edges", "counts"}:
        edges, counts = _numbers(reference["edges"]), _numbers(reference["counts"])
        if not counts or len(edges) != len(counts) + 1 or edges != sorted(edges) or min(counts) < 0:
            return None
        numbers = _numbers(values)
        here = [0.0] * len(counts)
        for value in numbers:
            here[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
        return _drift(name, counts, here, ordered=True)
    counts = _numbers(list(reference.values()))
    if len(counts) != len(reference) or min(counts) < 0:
        return None
    words = Counter(str(value or "") for value in values)
    known = [float(words[str(word)]) for word in reference]
    other = sum(words.values()) - sum(known)
    return _drift(name, [*counts, 0.0], [*known, other], ordered=False)


def _drift(name: str, reference: Sequence[float], here: Sequence[float], *, ordered: bool) -> Drift:
    count, reference_count = sum(here), sum(reference)
    shares = [(_share(a, count), _share(b, reference_count)) for a, b in zip(here, reference, strict=True)]
    psi = sum((p - q) * math.log(p / q) for p, q in ((max(p, _LEAST_SHARE), max(q, _LEAST_SHARE)) for p, q in shares))
    ks = critical = None
    if ordered and count and reference_count:
        above = 0.0
        ks = 0.0
        for p, q in shares:
            above += p - q
            ks = max(ks, abs(above))
        critical = _KS_FACTOR * math.sqrt((count + reference_count) / (count * reference_count))
    return Drift(name, int(count), int(reference_count), psi, ks, critical)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list | tuple):
        return []
    return [float(one) for one in values if isinstance(one, int | float) and math.isfinite(one)]
