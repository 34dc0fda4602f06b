"""Patient-disjoint splits, drawn by hash: the same patient lands in the same part on every machine and every day."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.datasets.labels import LabelledImage
from models.datasets.paths import shown
from models.datasets.samples import PARTS, POSITIVE, Problem, Sample
from models.datasets.strata import PatientKey, Stratum, by_patient, key_of
from models.errors import DatasetError


@dataclass(frozen=True)
class Split:
    """Three parts without a common patient. `digest` is the SHA-256 of who is where."""

    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    digest: str


def split_by_patient(
    rows: Sequence[LabelledImage],
    *,
    validation: float,
    test: float,
    salt: str,
    always_test: Iterable[str] = (),
) -> Split:
    """Draw patients, stratified by source and label (a patient with any positive image counts as positive).

    validation, test: fractions of the patients of each stratum; no validation (0) for recipes that cross-validate.
    always_test: patients who must be in the test part.
    Raises DatasetError when a part would lack a stratum.
    """
    forced = set(always_test)
    parts: dict[str, str] = {}
    for stratum, patients in sorted(_strata(rows).items()):
        free = sorted((p for p in patients if p not in forced), key=lambda patient: _draw(salt, patient))
        in_test, in_validation = round(len(patients) * test), round(len(patients) * validation)
        in_test = max(0, in_test - (len(patients) - len(free)))
        if len(free) < in_test + in_validation + 1 or (validation > 0 and not in_validation):
            raise DatasetError(f"{'/'.join(stratum)} has too few patients ({len(patients)}) to be split")
        parts.update(dict.fromkeys(free[:in_test], "test"))
        parts.update(dict.fromkeys(free[in_test : in_test + in_validation], "validation"))
        parts.update(dict.fromkeys(free[in_test + in_validation :], "train"))
    parts.update(dict.fromkeys(forced, "test"))
    members = {name: tuple(r for r in rows if parts[r.patient] == name) for name in ("train", "validation", "test")}
    check_disjoint(members["train"], members["validation"], members["test"])
    return Split(**members, digest=_digest(parts))


def folds_by_patient(
    rows: Sequence[LabelledImage], folds: int, salt: str
) -> list[tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]]:
    """(training, held-out) pairs for cross-validation, stratified as in :func:`split_by_patient`."""
    fold_of: dict[str, int] = {}
    for _, patients in sorted(_strata(rows).items()):
        ordered = sorted(patients, key=lambda patient: _draw(salt, patient))
        fold_of.update({patient: index % folds for index, patient in enumerate(ordered)})
    pairs = []
    for fold in range(folds):
        training = tuple(row for row in rows if fold_of[row.patient] != fold)
        held_out = tuple(row for row in rows if fold_of[row.patient] == fold)
        check_disjoint(training, held_out)
        pairs.append((training, held_out))
    return pairs


def check_disjoint(*parts: Sequence[LabelledImage]) -> None:
    """Raise DatasetError when a patient is in two parts: the figures would be worth nothing."""
    owner: dict[str, int] = {}
    for index, part in enumerate(parts):
        for row in part:
            if owner.setdefault(row.patient, index) != index:
                raise DatasetError("a patient is in two parts of the split; split by patient, not by image")


def _strata(rows: Sequence[LabelledImage]) -> dict[tuple[str, str], set[str]]:
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        labels[(row.source, row.patient)].add(row.label)
    strata: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (source, patient), found in labels.items():
        strata[(source, "normal" if found == {"normal"} else "positive")].add(patient)
    return strata


def _draw(salt: str, patient: str) -> str:
    return hashlib.sha256(f"{salt}|{patient}".encode()).hexdigest()


def _digest(parts: dict[str, str]) -> str:
    lines = "\n".join(f"{patient}\t{part}" for patient, part in sorted(parts.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class SplitSets:
    """Three parts of samples without a common patient.

    digest: SHA-256 of which image of which patient is where. problems: labels that a part has no positive sample of.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    digest: str
    problems: tuple[Problem, ...] = ()


def split(
    samples: Sequence[Sample],
    fractions: Mapping[str, float],
    salt: str,
    honour_official: bool = True,
    *,
    across_sources: bool = False,
) -> SplitSets:
    """Draw patients into train, validation and test, stratified over source and the labels of all their images.

    Args:
        fractions: of the patients, by part; they sum to 1, a part not named gets none.
        salt: another one draws other patients.
        honour_official: a part that a source has officially stays as it is, and only the others are drawn, from what
            is officially training or in no part. False draws anew over everything.
        across_sources: the same patient number in two sources is the same person.

    Raises:
        DatasetError: no samples; fractions that are none; a patient in two official parts; a part that should get
            patients and gets none; a label that is positive in the set but not in training.
    """
    wanted = _fractions(fractions)
    if not samples:
        raise DatasetError("there are no samples to split")
    found = by_patient(samples, salt, across_sources=across_sources)
    fixed, kept = _official(samples, found.of_sample) if honour_official else ({}, {})
    parts = dict(fixed)
    for source, strata in _by_source(found.strata).items():
        names = source.split("+") if across_sources else [source]
        official = frozenset[str]().union(*(kept.get(name, ()) for name in names))
        _draw_parts(strata, fixed, _remaining(wanted, official), parts)
    members: dict[str, list[Sample]] = {part: [] for part in PARTS}
    lines = []
    for sample, key in zip(samples, found.of_sample, strict=True):
        members[parts[key]].append(sample)
        lines.append(json.dumps([*key, sample.file, parts[key]]))
    for part in PARTS:
        if wanted[part] and not members[part]:
            raise DatasetError(f"too few patients ({len(parts)}) for a {part} part of {wanted[part]:g}")
    check_patients_disjoint(*members.values(), across_sources=across_sources)
    return SplitSets(
        **{part: tuple(held) for part, held in members.items()},
        digest=hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
        problems=_missing_labels(samples, members),
    )


def folds(
    samples: Sequence[Sample], count: int, salt: str, *, across_sources: bool = False
) -> list[tuple[tuple[Sample, ...], tuple[Sample, ...]]]:
    """(training, held-out) pairs for cross-validation, stratified as in :func:`split`; official parts are ignored.

    Raises DatasetError for fewer than two folds, or fewer patients than folds.
    """
    found = by_patient(samples, salt, across_sources=across_sources)
    people = [key for members in found.strata.values() for key in members]
    if not 2 <= count <= len(people):
        raise DatasetError(f"{len(people)} patients cannot be dealt into {count} folds")
    # Dealt on from stratum to stratum: starting each at the first fold would make that one the largest.
    fold_of = {key: index % count for index, key in enumerate(people)}
    pairs = []
    for fold in range(count):
        training, held_out = list[Sample](), list[Sample]()
        for sample, key in zip(samples, found.of_sample, strict=True):
            (held_out if fold_of[key] == fold else training).append(sample)
        check_patients_disjoint(training, held_out, across_sources=across_sources)
        pairs.append((tuple(training), tuple(held_out)))
    return pairs


def check_patients_disjoint(*parts: Sequence[Sample], across_sources: bool = False) -> None:
    """Raise DatasetError when a patient is in two parts: the figures would be worth nothing."""
    owner: dict[PatientKey, int] = {}
    shared = {
        key
        for index, part in enumerate(parts)
        for key in {key_of(sample, across_sources=across_sources) for sample in part}
        if owner.setdefault(key, index) != index
    }
    if shared:
        raise DatasetError(f"{len(shared)} patients are in two parts of the split; split by patient, not by image")


def official_overlaps(samples: Sequence[Sample]) -> dict[str, int]:
    """How many patients of each source are in more than one official part; sources without any are left out."""
    parts: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample in samples:
        if sample.split:
            parts[(sample.source, sample.patient)].add(sample.split)
    return dict(Counter(source for (source, _), found in parts.items() if len(found) > 1))


def _official(
    samples: Sequence[Sample], keys: Sequence[PatientKey]
) -> tuple[dict[PatientKey, str], dict[str, set[str]]]:
    """Patients whose part is settled, and the parts that each source has officially.

    Those of official training are not settled: validation may have to be drawn from them.
    """
    found: dict[PatientKey, set[str]] = defaultdict(set)
    kept: dict[str, set[str]] = defaultdict(set)
    for sample, key in zip(samples, keys, strict=True):
        if sample.split:
            found[key].add(sample.split)
            kept[sample.source].add(sample.split)
    if overlap := sum(len(parts) > 1 for parts in found.values()):
        raise DatasetError(f"{overlap} patients are in two parts of the official split")
    fixed = {key: part for key, (part,) in found.items() if part != "train"}
    return fixed, kept


def _by_source(strata: Mapping[Stratum, Sequence[PatientKey]]) -> dict[str, list[Sequence[PatientKey]]]:
    grouped: dict[str, list[Sequence[PatientKey]]] = defaultdict(list)
    for stratum, members in strata.items():
        grouped[stratum[0]].append(members)
    return grouped


def _remaining(wanted: Mapping[str, float], kept: frozenset[str]) -> dict[str, float]:
    """The fractions of those parts that have to be drawn, and of training, which takes what they leave."""
    drawn = {part: fraction for part, fraction in wanted.items() if part == "train" or part not in kept}
    total = sum(drawn.values())
    return {part: fraction / total for part, fraction in drawn.items()} if total else {"train": 1.0}


def _draw_parts(
    strata: Sequence[Sequence[PatientKey]],
    fixed: Mapping[PatientKey, str],
    fractions: Mapping[str, float],
    parts: dict[PatientKey, str],
) -> None:
    """Deal each stratum out by its fractions; what rounding takes from a part is owed to it in the next stratum."""
    owed = dict.fromkeys(fractions, 0.0)
    for members in strata:
        free = [key for key in members if key not in fixed]
        for part, fraction in fractions.items():
            owed[part] += len(free) * fraction
        for key in free:
            part = max(owed, key=lambda name: (owed[name], fractions[name]))
            owed[part] -= 1
            parts[key] = part


def _fractions(given: Mapping[str, float]) -> dict[str, float]:
    unknown = sorted(set(given) - set(PARTS))
    fractions = {part: float(given.get(part, 0.0)) for part in PARTS}
    if unknown or not all(0 <= value <= 1 for value in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DatasetError(f"fractions are of {', '.join(PARTS)} and sum to 1, not {dict(given)}")
    return fractions


def _missing_labels(samples: Sequence[Sample], members: Mapping[str, Sequence[Sample]]) -> tuple[Problem, ...]:
    everywhere = _positive(samples)
    problems = []
    for part, held in members.items():
        missing = sorted(everywhere - _positive(held)) if held else []
        if part == "train" and missing:
            raise DatasetError(f"training has no positive sample of {', '.join(map(shown, missing))}")
        problems += [Problem(part, f"no sample is positive for {shown(label)}") for label in missing]
    return tuple(problems)


def _positive(samples: Sequence[Sample]) -> set[str]:
    patterns = {id(sample.targets): sample.targets for sample in samples}
    return {label for targets in patterns.values() for label, value in targets.items() if value == POSITIVE}
