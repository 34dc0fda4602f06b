"""Splits over any data set: by patient, by stratum, by what is official; and targets as arrays."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.datasets import Sample
from models.datasets.splits import check_patients_disjoint, folds, split
from models.datasets.strata import by_patient
from models.datasets.targets import (
    Uncertain,
    class_counts,
    class_indices,
    class_weights,
    matrix,
    positive_weights,
)
from models.errors import DatasetError

NAN = float("nan")
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def sample(patient: int, label: str = "", source: str = "s", part: str = "", image: int = 0) -> Sample:
    targets = {name: float(name in label) for name in "abc"}
    return Sample(f"{source}/{patient}_{image}.png", str(patient), source, targets, split=part)


def people(samples: Iterable[Sample]) -> set[tuple[str, str]]:
    return {(s.source, s.patient) for s in samples}


@given(st.integers(12, 40), st.integers(1, 3), st.text(max_size=4))
@settings(max_examples=20, deadline=None)
def test_parts_share_no_patient_and_lose_no_image(patients: int, images: int, salt: str) -> None:
    samples = [
        sample(patient, "ab"[: image % 3], source, image=image)
        for patient in range(patients)
        for source in "st"
        for image in range(images)
    ]
    drawn = split(samples, {"train": 0.5, "validation": 0.25, "test": 0.25}, salt)
    assert not people(drawn.train) & people(drawn.validation)
    assert not people(drawn.train) & people(drawn.test)
    assert not people(drawn.validation) & people(drawn.test)
    together = [s.file for part in (drawn.train, drawn.validation, drawn.test) for s in part]
    assert sorted(together) == sorted(s.file for s in samples)


def test_fractions_hold_in_every_stratum() -> None:
    samples = [sample(i, label, source) for source in "st" for i, label in enumerate(["a", ""] * 100)]
    drawn = split(samples, FRACTIONS, "salt")
    for part, patients in ((drawn.train, 70), (drawn.validation, 10), (drawn.test, 20)):
        for source in "st":
            for positive in (0.0, 1.0):
                found = [s for s in part if s.source == source and s.targets["a"] == positive]
                assert abs(len(found) - patients) <= 1


def test_the_draw_depends_on_salt_and_not_on_order() -> None:
    samples = [sample(i, "a" if i % 3 else "") for i in range(100)]
    shuffled = random.Random(1).sample(samples, len(samples))
    first, again, other = (
        split(order, FRACTIONS, salt) for order, salt in ((samples, "x"), (shuffled, "x"), (samples, "y"))
    )
    assert first.digest == again.digest != other.digest
    assert people(first.test) == people(again.test) != people(other.test)


def test_rare_patterns_are_drawn_with_their_rarest_label() -> None:
    samples = [sample(i, "a") for i in range(30)] + [sample(30 + i, "b") for i in range(12)]
    samples += [sample(50, "ab"), sample(51, "abc")]
    strata = by_patient(samples, "x", across_sources=False).strata
    assert {stratum: len(members) for stratum, members in strata.items()} == {
        ("s", "a"): 30,
        ("s", "b"): 13,
        ("s", "c"): 1,
    }


def test_a_patient_has_the_labels_of_all_images() -> None:
    samples = [sample(1, "a"), sample(1, "b", image=1), sample(2)]
    strata = by_patient([*samples, *(sample(10 + i, "ab") for i in range(10))], "x", across_sources=False).strata
    assert len(strata["s", "a", "b"]) == 11


def test_numbers_of_two_sources_are_two_people_unless_told_otherwise() -> None:
    samples = [sample(i, source=source) for i in range(40) for source in "st"]
    apart = split(samples, FRACTIONS, "x")
    assert {s.patient for s in apart.train} & {s.patient for s in apart.test}
    together = split(samples, FRACTIONS, "x", across_sources=True)
    assert not {s.patient for s in together.train} & {s.patient for s in together.test}


def test_official_test_stays_and_validation_comes_out_of_training() -> None:
    samples = [sample(i, part="train" if i < 80 else "test") for i in range(100)]
    drawn = split(samples, FRACTIONS, "x")
    assert people(drawn.test) == people(samples[80:])
    assert len(drawn.validation) == 10
    free = split(samples, FRACTIONS, "x", honour_official=False)
    assert people(free.test) != people(samples[80:])
    assert len(free.test) == 20


def test_three_official_parts_stay_as_they_are() -> None:
    parts = ["train"] * 5 + ["validation"] * 3 + ["test"] * 2
    samples = [sample(i, part=part) for i, part in enumerate(parts)]
    drawn = split(samples, FRACTIONS, "x")
    for name, part in (("train", drawn.train), ("validation", drawn.validation), ("test", drawn.test)):
        assert {s.split for s in part} == {name}


def test_images_on_no_list_follow_their_patient_or_are_trained_on() -> None:
    samples = [sample(i, part="test" if i < 10 else "") for i in range(60)] + [sample(0, image=1)]
    drawn = split(samples, {"train": 0.8, "validation": 0.2}, "x")
    assert people(drawn.test) == people(samples[:10])
    assert len(drawn.test) == 11


def test_a_patient_in_two_official_parts_is_refused_and_not_named() -> None:
    samples = [sample(777, part="train"), sample(777, part="test", image=1), sample(2, part="train")]
    with pytest.raises(DatasetError, match="1 patients are in two parts of the official split") as refused:
        split(samples, FRACTIONS, "x")
    assert "777" not in str(refused.value)


def test_splits_that_cannot_be_are_refused() -> None:
    many = [sample(i) for i in range(50)]
    for fractions in ({"train": 0.5}, {"train": 1.5, "test": -0.5}, {"train": 0.5, "holdout": 0.5}, {"train": NAN}):
        with pytest.raises(DatasetError, match="sum to 1"):
            split(many, fractions, "x")
    with pytest.raises(DatasetError, match="no samples"):
        split([], FRACTIONS, "x")
    with pytest.raises(DatasetError, match="too few patients"):
        split([sample(1)], FRACTIONS, "x")
    with pytest.raises(DatasetError, match="training has no positive sample of 'c'"):
        split([sample(i, part="train") for i in range(9)] + [sample(99, "c", part="test")], FRACTIONS, "x")
    with pytest.raises(DatasetError, match="1 patients are in two parts"):
        check_patients_disjoint([sample(1)], [sample(1, image=2)])


def test_a_part_without_a_label_says_so() -> None:
    official = [sample(i, part="validation" if i % 2 else "test") for i in range(10)]
    drawn = split([*official, sample(50, "c", part="train")], FRACTIONS, "x")
    assert [(problem.where, problem.what) for problem in drawn.problems] == [
        ("validation", "no sample is positive for 'c'"),
        ("test", "no sample is positive for 'c'"),
    ]


def test_folds_hold_out_each_patient_once_and_evenly() -> None:
    samples = [sample(i, label, image=k) for i, label in enumerate(["a", "b", "c", ""] * 6) for k in range(2)]
    pairs = folds(samples, 5, "x")
    held_out = [s.file for _, part in pairs for s in part]
    assert sorted(held_out) == sorted(s.file for s in samples)
    assert {len(people(part)) for _, part in pairs} <= {4, 5}
    for training, part in pairs:
        assert not people(training) & people(part)
    with pytest.raises(DatasetError, match="cannot be dealt into 1 folds"):
        folds(samples, 1, "x")


DOUBT = [Sample("x", "1", "s", {"a": 1.0, "b": -1.0}), Sample("y", "2", "s", {"a": 0.0, "b": NAN})]


@pytest.mark.parametrize(
    ("policy", "value", "mask"), [("ones", 1.0, 1.0), ("zeros", 0.0, 1.0), ("ignore", 0.0, 0.0), ("smooth", 0.6, 1.0)]
)
def test_policies_for_uncertain_labels(policy: Uncertain, value: float, mask: float) -> None:
    made = matrix(DOUBT, ["b", "a"], policy, smooth=0.6)
    np.testing.assert_array_equal(made.values, np.array([[value, 1], [0, 0]], np.float32))
    np.testing.assert_array_equal(made.mask, np.array([[mask, 1], [0, 1]], np.float32))
    assert made.values.dtype == np.float32
    assert made.mask.dtype == np.float32


def test_targets_refuse_unknown_labels_values_and_policies() -> None:
    with pytest.raises(DatasetError, match="no label 'z'; they have 'a', 'b'"):
        matrix(DOUBT, ["a", "z"])
    with pytest.raises(DatasetError, match="none of 1, 0, -1 and nan"):
        matrix([replace(DOUBT[0], targets={"a": 0.5})], ["a"])
    with pytest.raises(DatasetError, match="one of ones, zeros, ignore, smooth"):
        matrix(DOUBT, ["a"], "guess")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="between 0 and 1"):
        matrix(DOUBT, ["a"], "smooth", smooth=1.5)


def test_counts_and_weights() -> None:
    samples = [sample(i, "a") for i in range(4)] + [sample(9, "b")] * 36
    counts = class_counts([*samples, *DOUBT], ["a"])
    assert (counts.positive[0], counts.negative[0], counts.uncertain[0], counts.unknown[0]) == (5, 37, 0, 0)
    doubtful = class_counts(DOUBT, ["b"])
    assert (doubtful.uncertain[0], doubtful.unknown[0]) == (1, 1)
    assert positive_weights(matrix(samples, ["a"])) == pytest.approx([3.0])
    classes = class_indices(samples, ["a", "b"])
    assert class_weights(classes, ["a", "b"], power=1.0) == pytest.approx([5.0, 40 / 72])


def test_empty_classes_and_sets_that_are_not_exclusive_are_refused() -> None:
    with pytest.raises(DatasetError, match="no sample is positive for 'c'"):
        positive_weights(matrix([sample(1, "a"), sample(2, "b")], ["a", "c"]))
    with pytest.raises(DatasetError, match="no sample is negative for 'a'"):
        positive_weights(matrix([sample(1, "a")], ["a"]))
    with pytest.raises(DatasetError, match="no sample is positive for 'b'"):
        class_weights(np.array([0, 0]), ["a", "b"])
    for wrong in (sample(1, "ab"), sample(1), Sample("x", "1", "s", {"a": 1.0, "b": NAN})):
        with pytest.raises(DatasetError, match="exactly one of the classes"):
            class_indices([wrong], ["a", "b"])
