"""The checks and choices that all data sets share, after their own loader has read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from models.datasets.located import Located
from models.datasets.options import Options
from models.datasets.paths import shown
from models.datasets.samples import (
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    UNKNOWN,
    Draft,
    Problems,
    Sample,
    SampleSet,
    SharedTargets,
)
from models.datasets.splits import official_overlaps
from models.errors import DatasetError

FIRST_NAMED = 5


def finish(draft: Draft, options: Options) -> SampleSet:
    """From what a loader read to the set as asked for. Raises DatasetError as :func:`models.datasets.read` says."""
    draft.samples = _without_repeats(draft)
    if options.images is not None:
        draft.samples = _present(draft, options.images, part_of_set=options.part_of_set)
        # Two names of the table may have led to one image.
        draft.samples = _without_repeats(draft)
    limit(draft.problems, draft.seen, options.max_bad_fraction, draft.name)
    _rename(draft, options.rename)
    _drop(draft, options.drop)
    exclusive = draft.exclusive if options.exclusive is None else options.exclusive
    _keep(draft, options.labels, exclusive=exclusive)
    draft.exclusive = exclusive
    _leave_unlabelled_aside(draft)
    if not draft.samples:
        first = "".join(f"; first: {problem.where}: {problem.what}" for problem in draft.problems.all()[:1])
        raise DatasetError(f"{draft.name}: no sample is left{first}")
    if exclusive:
        _check_exclusive(draft)
    _check_classes(draft, wanted=options.labels)
    for source, count in official_overlaps(draft.samples).items():
        what = "patients are in two parts of the official split; a split that honours it will be refused"
        draft.problems.note(shown(source), what, count)
    return SampleSet(
        name=options.name or draft.name,
        labels=draft.labels,
        exclusive=exclusive,
        samples=tuple(draft.samples),
        problems=draft.problems.all(),
    )


def limit(problems: Problems, seen: int, max_bad_fraction: float, name: str) -> None:
    """Raise DatasetError, naming the first, when more was left out than may be."""
    bad = problems.left_out
    if len(bad) > max_bad_fraction * seen:
        first = "; ".join(f"{problem.where}: {problem.what}" for problem in bad[:FIRST_NAMED])
        raise DatasetError(
            f"{name}: {len(bad)} of {seen} cannot be used, more than max_bad_fraction ({max_bad_fraction:g}) allows. "
            f"First: {first}"
        )


def _without_repeats(draft: Draft) -> list[Sample]:
    kept: dict[str, Sample] = {}
    for sample in draft.samples:
        first = kept.setdefault(sample.file, sample)
        if first is sample:
            continue
        if not _agree(first, sample):
            raise DatasetError(f"{draft.name}: {shown(sample.file)} occurs twice with different labels or patients")
        draft.problems.leave_out(f"{draft.name}, {shown(sample.file)}", "the row occurs twice; one was kept")
    return list(kept.values())


def _agree(first: Sample, second: Sample) -> bool:
    def same(one: float, other: float) -> bool:
        return one == other or (one != one and other != other)  # noqa: PLR0124

    return (first.patient, first.source, first.split) == (second.patient, second.source, second.split) and all(
        same(value, second.targets.get(label, UNKNOWN)) for label, value in first.targets.items()
    )


def _present(draft: Draft, folder: Path, *, part_of_set: bool) -> list[Sample]:
    """The samples whose images are there, at the path given or where :class:`Located` finds them."""
    there, kept = Located(folder), []
    for sample in draft.samples:
        moved, missing = there.moved(sample, draft.problems)
        if missing and part_of_set:
            draft.problems.note(shown(missing[0]), "images of the table are not in this part of the set")
        elif missing:
            draft.problems.leave_out(shown(missing[0]), "is missing from the images' folder")
        else:
            kept.append(moved)
    return kept


def _rename(draft: Draft, rename: Mapping[str, str]) -> None:
    if not rename:
        return
    _refuse_unknown(draft, rename, "rename")
    labels = tuple(dict.fromkeys(rename.get(label, label) for label in draft.labels))
    _remap(draft, labels, {new: [old for old in draft.labels if rename.get(old, old) == new] for new in labels})
    for index, sample in enumerate(draft.samples):
        if sample.boxes:
            boxes = tuple(replace(box, label=rename.get(box.label, box.label)) for box in sample.boxes)
            draft.samples[index] = replace(sample, boxes=boxes)


def _drop(draft: Draft, drop: Sequence[str]) -> None:
    if not drop:
        return
    _refuse_unknown(draft, drop, "drop")
    kept = [sample for sample in draft.samples if not any(sample.targets[label] == POSITIVE for label in drop)]
    draft.problems.note(draft.name, "samples of dropped labels were left aside", len(draft.samples) - len(kept))
    draft.samples = kept
    labels = tuple(label for label in draft.labels if label not in drop)
    _remap(draft, labels, {label: [label] for label in labels})


def _keep(draft: Draft, wanted: Sequence[str], *, exclusive: bool) -> None:
    if not wanted:
        return
    _refuse_unknown(draft, wanted, "labels")
    if len(set(wanted)) != len(wanted):
        raise DatasetError("options: a label is named twice in 'labels'")
    others = [label for label in draft.labels if label not in wanted]
    lost = {label: sum(sample.targets[label] == POSITIVE for sample in draft.samples) for label in others}
    if exclusive and draft.exclusive and any(lost.values()):
        found = ", ".join(f"{shown(label)} ({count})" for label, count in lost.items() if count)
        raise DatasetError(
            f"{draft.name} has samples of labels that are not in 'labels': {found}. Name them there, in 'drop', merge "
            "them by 'rename', or set exclusive to false"
        )
    for label, count in lost.items() if draft.exclusive else ():
        if count:
            # A class without the finding, or a finding whose name was mistyped: only a person can tell.
            draft.problems.note(draft.name, f"samples of {shown(label)} count as negative for every label", count)
    _remap(draft, tuple(wanted), {label: [label] for label in wanted})


def _remap(draft: Draft, labels: tuple[str, ...], sources: Mapping[str, Sequence[str]]) -> None:
    shared = SharedTargets(labels)
    # By identity, since samples share their mappings; the old one is kept beside the new, so that its id stays its own.
    made: dict[int, tuple[Mapping[str, float], Mapping[str, float]]] = {}
    for index, sample in enumerate(draft.samples):
        old = sample.targets
        if id(old) not in made:
            new = shared.of_values(_merged([old[source] for source in sources[label]]) for label in labels)
            made[id(old)] = (old, new)
        draft.samples[index] = replace(sample, targets=made[id(old)][1])
    draft.labels = labels


def _merged(values: Sequence[float]) -> float:
    """Any positive is positive; else any doubt stays a doubt."""
    for value in (POSITIVE, UNCERTAIN):
        if value in values:
            return value
    return NEGATIVE if all(value == NEGATIVE for value in values) else UNKNOWN


def _refuse_unknown(draft: Draft, names: Sequence[str] | Mapping[str, str], option: str) -> None:
    unknown = [name for name in names if name not in draft.labels]
    if unknown:
        raise DatasetError(
            f"option {option!r} names {', '.join(map(shown, unknown))}, which {draft.name} does not have; "
            f"its labels are {', '.join(map(shown, draft.labels))}"
        )


def _leave_unlabelled_aside(draft: Draft) -> None:
    if not draft.labels:
        return
    kept = [s for s in draft.samples if any(value == value for value in s.targets.values())]  # noqa: PLR0124
    if len(kept) < len(draft.samples):
        what = "samples without any known label were left aside"
        draft.problems.note(draft.name, what, len(draft.samples) - len(kept))
    draft.samples = kept


def _check_exclusive(draft: Draft) -> None:
    wrong = sum(sorted(sample.targets.values()) != _one_positive(len(draft.labels)) for sample in draft.samples)
    if wrong:
        raise DatasetError(
            f"{draft.name}: {wrong} samples do not have exactly one positive label; it is no set of classes"
        )


def _one_positive(labels: int) -> list[float]:
    return [NEGATIVE] * (labels - 1) + [POSITIVE]


def _check_classes(draft: Draft, *, wanted: Sequence[str]) -> None:
    positive = Counter(
        label for sample in draft.samples for label, value in sample.targets.items() if value == POSITIVE
    )
    for label in draft.labels:
        if positive[label]:
            continue
        if label in wanted:
            raise DatasetError(f"{draft.name}: no sample is positive for {shown(label)}; nothing can be learnt of it")
        draft.problems.note(draft.name, f"no sample is positive for {shown(label)}")
    if draft.exclusive and len(draft.labels) == 1:
        # Nothing to learn from, which training refuses; but whoever measures may have only the ill.
        draft.problems.note(draft.name, f"every sample is {shown(draft.labels[0])}")
