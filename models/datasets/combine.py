"""Several data sets as one: what a set does not say of a label stays unknown there.

Of classes that exclude each other nothing stays unknown: an image of one class is of none that another set has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from models.datasets.paths import relative, shown
from models.datasets.samples import NEGATIVE, UNKNOWN, Sample, SampleSet, SharedTargets
from models.errors import DatasetError


def combine(name: str, sets: Iterable[tuple[str, SampleSet]]) -> SampleSet:
    """One set; ``sets`` with the folder below the common images' folder that each one's images lie in ("" for itself).

    Raises DatasetError for no set, a source's name in two of them (its patients would be mixed up), two sets that
    would share files, or exclusive sets beside others.
    """
    given = list(sets)
    if not given:
        raise DatasetError("there are no data sets to combine")
    exclusive = {found.exclusive for _, found in given}
    labels = tuple(dict.fromkeys(label for _, found in given for label in found.labels))
    if len(exclusive) > 1:
        raise DatasetError("exclusive sets combine with exclusive ones only; set exclusive to false, or true, in all")
    unsaid = NEGATIVE if exclusive == {True} else UNKNOWN
    sources = Counter(source for _, found in given for source in {sample.source for sample in found.samples})
    if twice := [source for source, count in sources.items() if count > 1]:
        raise DatasetError(f"{', '.join(map(shown, twice))} is a source of two data sets; give one another 'source'")
    shared = SharedTargets(labels)
    samples = [moved for folder, found in given for moved in _moved(found.samples, folder, unsaid, shared)]
    if len({sample.file for sample in samples}) < len(samples):
        raise DatasetError("two data sets name the same file")
    problems = tuple(problem for _, found in given for problem in found.problems)
    return SampleSet(name, labels, exclusive.pop(), tuple(samples), problems)


def _moved(samples: Sequence[Sample], folder: str, unsaid: float, shared: SharedTargets) -> list[Sample]:
    prefix = f"{relative(folder, 'combine')}/" if folder else ""
    return [
        replace(
            sample,
            file=prefix + sample.file,
            files=tuple(prefix + name for name in sample.files),
            targets=shared.of_values(sample.targets.get(label, unsaid) for label in shared.labels),
        )
        for sample in samples
    ]
