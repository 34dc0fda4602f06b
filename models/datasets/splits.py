"""Patient-disjoint splits, drawn by hash: the same patient lands in the same part on every machine and every day."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.datasets.labels import LabelledImage
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
