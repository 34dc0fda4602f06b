"""No patient is on two sides, whoever draws and however often."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.datasets.labels import LabelledImage
from models.datasets.splits import Split, check_disjoint, folds_by_patient, split_by_patient
from models.errors import DatasetError


def rows(patients: int, *, images: int = 2, sources: tuple[str, ...] = ("a", "b")) -> list[LabelledImage]:
    return [
        LabelledImage(file=f"{source}/{label}{p}_{i}.jpg", source=source, patient=f"{source}:{label}{p}", label=label)
        for source in sources
        for label in ("normal", "pneumonia")
        for p in range(patients)
        for i in range(images)
    ]


def split(of: list[LabelledImage], salt: str = "s", always_test: tuple[str, ...] = ()) -> Split:
    return split_by_patient(of, validation=0.15, test=0.15, salt=salt, always_test=always_test)


@given(st.integers(8, 40), st.integers(1, 3), st.text(max_size=5))
@settings(max_examples=25, deadline=None)
def test_parts_share_no_patient_and_lose_no_image(patients: int, images: int, salt: str) -> None:
    everything = rows(patients, images=images)
    drawn = split(everything, salt)
    check_disjoint(drawn.train, drawn.validation, drawn.test)
    assert sorted(r.file for r in drawn.train + drawn.validation + drawn.test) == sorted(r.file for r in everything)


def test_every_source_and_label_has_its_share() -> None:
    drawn = split(rows(40))
    for part, patients in ((drawn.train, 28), (drawn.validation, 6), (drawn.test, 6)):
        found = Counter((r.source, r.label) for r in part)
        assert set(found.values()) == {patients * 2}
        assert len(found) == 4


def test_the_order_of_rows_changes_nothing_and_the_salt_everything() -> None:
    everything = rows(20)
    assert split(everything).digest == split(everything[::-1]).digest
    assert split(everything).digest != split(everything, salt="other").digest


def test_chosen_patients_are_tested_and_count_towards_the_share() -> None:
    chosen = ("a:normal3", "a:normal5", "b:pneumonia1")
    drawn = split(rows(20), always_test=chosen)
    assert {r.patient for r in drawn.test} >= set(chosen)
    assert len({r.patient for r in drawn.test}) == 12


def test_one_positive_image_makes_the_patient_positive() -> None:
    mixed = [
        LabelledImage("m0.jpg", "a", "a:normal0", "pneumonia"),
        *rows(8, sources=("a",)),
    ]
    drawn = split(mixed)
    owners = [part for part in (drawn.train, drawn.validation, drawn.test) if any(r.file == "m0.jpg" for r in part)]
    assert len(owners) == 1
    assert sum(r.patient == "a:normal0" for r in owners[0]) == 3


def test_a_recipe_that_cross_validates_has_no_validation_part() -> None:
    whole = split_by_patient(rows(20), validation=0, test=0.2, salt="s")
    assert not whole.validation
    assert len({row.patient for row in whole.test}) == 16
    assert whole.test == split_by_patient(rows(20), validation=0.15, test=0.2, salt="s").test


def test_too_few_patients_are_refused_by_name_of_the_stratum() -> None:
    with pytest.raises(DatasetError, match=r"a/normal has too few patients \(2\)"):
        split(rows(2))


def test_a_patient_on_two_sides_is_refused() -> None:
    row = rows(1)[0]
    with pytest.raises(DatasetError, match="split by patient"):
        check_disjoint([row], [row])


def test_folds_hold_out_every_image_once() -> None:
    everything = rows(9)
    pairs = folds_by_patient(everything, 3, "cv")
    held_out = [r.file for _, part in pairs for r in part]
    assert sorted(held_out) == sorted(r.file for r in everything)
    for training, part in pairs:
        check_disjoint(training, part)
        assert len(part) == len(everything) // 3
