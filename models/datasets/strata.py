"""Patients and the strata they are drawn from: by source and by the labels of all their images together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.datasets.samples import POSITIVE, Sample

PatientKey = tuple[str, ...]
"""(source, patient), or (patient,) where numbers are the same across sources."""

Stratum = tuple[str, ...]
"""(source, label, label, ...); the labels are those positive in any of a patient's images."""

SMALLEST_STRATUM = 10
"""Patterns of labels with fewer patients are put together by their rarest label."""


@dataclass(frozen=True)
class Patients:
    """Who there is. ``strata``: each with its patients in the order of the draw."""

    of_sample: Sequence[PatientKey]
    strata: Mapping[Stratum, Sequence[PatientKey]]


def by_patient(samples: Sequence[Sample], salt: str, *, across_sources: bool) -> Patients:
    """Group by patient. The order of the samples does not matter to who is drawn."""
    keys = [key_of(sample, across_sources=across_sources) for sample in samples]
    sources: dict[PatientKey, set[str]] = defaultdict(set)
    labels: dict[PatientKey, set[str]] = defaultdict(set)
    # Samples share their targets: what is positive in one is worked out once.
    positive: dict[int, tuple[str, ...]] = {}
    for sample, key in zip(samples, keys, strict=True):
        sources[key].add(sample.source)
        if id(sample.targets) not in positive:
            found = tuple(label for label, value in sample.targets.items() if value == POSITIVE)
            positive[id(sample.targets)] = found
        labels[key].update(positive[id(sample.targets)])
    patterns = {key: ("+".join(sorted(sources[key])), *sorted(found)) for key, found in labels.items()}
    strata: dict[Stratum, list[PatientKey]] = defaultdict(list)
    for key, stratum in _merge_rare(patterns).items():
        strata[stratum].append(key)
    ordered = {stratum: sorted(members, key=lambda key: draw(salt, key)) for stratum, members in sorted(strata.items())}
    return Patients(keys, ordered)


def key_of(sample: Sample, *, across_sources: bool) -> PatientKey:
    """Whose image it is: number 7 of one hospital is not number 7 of another, unless told otherwise."""
    return (sample.patient,) if across_sources else (sample.source, sample.patient)


def draw(salt: str, key: PatientKey) -> str:
    """A number that only salt and patient decide."""
    return hashlib.sha256(json.dumps([salt, *key]).encode()).hexdigest()


def _merge_rare(patterns: Mapping[PatientKey, Stratum]) -> dict[PatientKey, Stratum]:
    size = Counter(patterns.values())
    carriers = Counter((stratum[0], label) for stratum in patterns.values() for label in stratum[1:])
    merged: dict[PatientKey, Stratum] = {}
    for key, stratum in patterns.items():
        source, *labels = stratum
        if size[stratum] >= SMALLEST_STRATUM or len(labels) < 2:
            merged[key] = stratum
        else:
            merged[key] = (source, min(labels, key=lambda label: (carriers[source, label], label)))
    return merged
