"""Several data sets as one: what a set does not say of a label stays unknown there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from models.datasets.paths import relative, shown
from models.datasets.samples import UNKNOWN, Sample, SampleSet, SharedTargets
from models.errors import DatasetError


def combine(name: str, sets: Mapping[str, SampleSet]) -> SampleSet:
    """One set; ``sets`` by the folder below the common images' folder that each one's images lie in ("" for itself).

    Raises DatasetError for no set, a source's name in two of them (its patients would be mixed up), two sets that
    would share files, or exclusive sets beside others or of other classes.
    """
    if not sets:
        raise DatasetError("there are no data sets to combine")
    exclusive = {found.exclusive for found in sets.values()}
    labels = tuple(dict.fromkeys(label for found in sets.values() for label in found.labels))
    if len(exclusive) > 1 or (True in exclusive and any(set(found.labels) != set(labels) for found in sets.values())):
        raise DatasetError(
            "exclusive sets combine with sets of the same classes only; rename, or set exclusive to false"
        )
    sources = Counter(source for found in sets.values() for source in {sample.source for sample in found.samples})
    if twice := [source for source, count in sources.items() if count > 1]:
        raise DatasetError(f"{', '.join(map(shown, twice))} is a source of two data sets; give one another 'source'")
    shared = SharedTargets(labels)
    samples = [moved for folder, found in sets.items() for moved in _moved(found.samples, folder, labels, shared)]
    if len({sample.file for sample in samples}) < len(samples):
        raise DatasetError("two data sets name the same file")
    problems = tuple(problem for found in sets.values() for problem in found.problems)
    return SampleSet(name, labels, exclusive.pop(), tuple(samples), problems)


def _moved(samples: Sequence[Sample], folder: str, labels: Sequence[str], shared: SharedTargets) -> list[Sample]:
    prefix = f"{relative(folder, 'combine')}/" if folder else ""
    return [
        replace(
            sample,
            file=prefix + sample.file,
            files=tuple(prefix + name for name in sample.files),
            targets=shared.of_values(sample.targets.get(label, UNKNOWN) for label in labels),
        )
        for sample in samples
    ]
