"""What a plan's data sets say, as one set."""

from __future__ import annotations

from dataclasses import replace

from models import datasets
from models.datasets.combine import combine
from models.datasets.paths import shown
from models.datasets.samples import Problems, SampleSet
from models.errors import DatasetError
from models.manifest import SeriesRules
from models.series import admit_series
from models.training.plan import DataSet, Folders, Plan, loader_options


def read_data(plan: Plan, folders: Folders) -> SampleSet:
    """Every set of the plan, with the bundle's labels in their order; each image keeps its source.

    Raises DatasetError as `models.datasets.read` and `combine`, for series where the plan reads single images, and
    where the bundle would read none of them. Those that it would refuse are left out, with the reason.
    """
    sets = [(one.folder, _read(plan, folders, one)) for one in plan.data.every_set]
    found = sets[0][1] if len(sets) == 1 and not sets[0][0] else _together(plan, sets)
    if found.exclusive and len(found.labels) < 2:
        raise DatasetError(f"{found.name} is a set of classes, of which the bundle has one; set exclusive to false")
    series = sum(len(sample.every_file) > 1 for sample in found.samples)
    if series and not plan.input.slices:
        raise DatasetError(f"{series} samples are series; say how many slices are read (input.slices)")
    rules = plan.input.series_rules
    return found if rules is None else _admitted(found, rules)


def _admitted(found: SampleSet, rules: SeriesRules) -> SampleSet:
    """Without the series that the bundle would refuse: they would neither teach nor measure what it reads."""
    kept, problems = [], Problems()
    for sample in found.samples:
        answer = admit_series(rules, sample.as_series)
        if answer.admitted:
            kept.append(sample)
        else:
            problems.leave_out(shown(sample.file), answer.reason)
    if not kept:
        raise DatasetError(f"the bundle would read none of the {len(found.samples)} series; first: {answer.reason}")
    return replace(found, samples=tuple(kept), problems=(*found.problems, *problems.all()))


def _read(plan: Plan, folders: Folders, one: DataSet) -> SampleSet:
    found = datasets.read(one.kind, loader_options(plan, folders.data, one))
    if not one.source:
        return found
    # Two of its own sources may number their patients alike.
    samples = (replace(s, source=one.source, patient=f"{s.source}|{s.patient}") for s in found.samples)
    return replace(found, samples=tuple(samples))


def _together(plan: Plan, sets: list[tuple[str, SampleSet]]) -> SampleSet:
    found = combine(" and ".join(dict.fromkeys(one.name for _, one in sets)), sets)
    if missing := [label for label in plan.bundle.keys if label not in found.labels]:
        raise DatasetError(f"none of the sets knows {', '.join(missing)}")
    # Mappings keep the order they were made in; targets are asked for by key, and the labels' order is the bundle's.
    return replace(found, labels=plan.bundle.keys)
