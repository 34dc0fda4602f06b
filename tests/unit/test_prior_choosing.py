"""Which of a peer's answers and images are a study's priors: every way in which one is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from db.identities import Correction, Identity
from db.priors import Wish
from db.types import utcnow
from node.header import Header
from node.retrieve.choosing import (
    Candidates,
    Current,
    FoundSeries,
    FoundStudy,
    candidates,
    current_of,
    identity_of,
    period,
    refusal_of,
    series_for,
)
from node.worklist.matching import askable_patient_id, differences

JANE = Identity("ID-1", "HOSPITAL", "Doe^Jane", "19700102", "F")
CURRENT = Current("1.2.3", JANE, "20260301")
WISH = Wish(2, ("CR", "DX"), ("CHEST",), 365)
STUDY = FoundStudy("1.2.4", JANE, "20251001", "1200", ("CR",))
HEADER = Header(
    study_instance_uid="1.2.4",
    series_instance_uid="1.2.4.1",
    modality="CR",
    body_part="CHEST",
    study_date="20251001",
    patient_id="ID-1",
    issuer_of_patient_id="HOSPITAL",
    patient_name="DOE^JANE^^MRS",
    patient_birth_date="1970.01.02",
    patient_sex="F",
)
OTHERS = {
    "Patient ID": {"patient_id": "ID-2"},
    "Issuer of Patient ID": {"issuer": "CLINIC"},
    "Patient's Birth Date": {"birth_date": "19700103"},
    "Patient's Sex": {"sex": "M"},
    "Patient's Name": {"name": "Roe^Mary"},
}
FIELDS = {"issuer": "issuer_of_patient_id", "name": "patient_name", "birth_date": "patient_birth_date",
          "sex": "patient_sex", "patient_id": "patient_id"}  # fmt: skip


def chosen(*found: FoundStudy, wish: Wish = WISH) -> Candidates:
    return candidates(wish, CURRENT, found)


def uids(found: Candidates) -> list[str]:
    return [one.study_instance_uid for one in found.studies]


@pytest.mark.parametrize("attribute", OTHERS)
def test_every_attribute_of_another_patient_refuses_an_answer_and_an_image(attribute: str) -> None:
    other = replace(JANE, **OTHERS[attribute])
    assert differences(JANE, other) == [attribute]
    assert chosen(replace(STUDY, identity=other)) == Candidates((), (attribute,))
    changed = {FIELDS[key]: value for key, value in OTHERS[attribute].items()}
    refusal = refusal_of(replace(HEADER, **changed), CURRENT, WISH, "1.2.4", ("1.2.4.1",))
    assert refusal is not None
    assert refusal.mismatch
    assert attribute in refusal.reason
    assert not any(value in refusal.reason for value in OTHERS[attribute].values())


def test_what_is_not_said_speaks_against_nothing_but_an_id_must_be() -> None:
    assert differences(JANE, Identity("ID-1")) == []
    assert differences(JANE, Identity(" ID-1 ", sex="O")) == []
    assert differences(Identity(""), Identity("")) == ["Patient ID"]
    assert differences(Identity("id-1"), Identity("ID-1")) == ["Patient ID"]


def test_the_latest_come_first_and_each_once() -> None:
    older, newer = replace(STUDY, study_instance_uid="1.2.5", study_date="20250601"), replace(STUDY, study_time="1300")
    assert uids(chosen(older, STUDY, newer, older)) == ["1.2.4", "1.2.5"]


@pytest.mark.parametrize(
    "changes",
    [
        {"study_instance_uid": "1.2.3"},
        {"study_instance_uid": ""},
        {"study_instance_uid": "1.2.*"},
        {"study_instance_uid": "1.2.4\\1.2.5"},
        {"study_date": "20260301"},
        {"study_date": "20270101"},
        {"study_date": "20250228"},
        {"study_date": ""},
        {"modalities": ("MR", "SR")},
    ],
)
def test_an_answer_that_was_not_asked_for_is_none(changes: dict[str, Any]) -> None:
    assert chosen(replace(STUDY, **changes)) == Candidates((), ())


def test_days_are_counted_back_from_the_studys_own() -> None:
    assert period(CURRENT, 365) == ("20250301", "20260228")
    assert chosen(replace(STUDY, study_date="20250301")).studies
    for odd in ("", "20260230", "00000101", "2026"):
        assert period(replace(CURRENT, study_date=odd), 365) is None
    assert candidates(WISH, replace(CURRENT, study_date=""), [STUDY]) == Candidates((), ())


def test_series_are_taken_as_far_as_there_is_room() -> None:
    fits = [FoundSeries(f"1.2.4.{n}", "CR", "CHEST", 2) for n in range(1, 4)]
    assert series_for(WISH, fits, 5) == ("1.2.4.1", "1.2.4.2")
    assert series_for(WISH, [*fits[:1], *fits[:1]], 5) == ("1.2.4.1",)
    others = [FoundSeries("1.2.4.5", "MR"), FoundSeries("1.2.4.6", "CR", "KNEE"), FoundSeries("no uid", "CR")]
    assert series_for(WISH, others, 5) == ()
    assert series_for(WISH, [FoundSeries("1.2.4.7", "", "", None)], 5) == ("1.2.4.7",)
    assert series_for(WISH, [FoundSeries("1.2.4.8", "CR", "CHEST", 10**9)], 5) == ()


@pytest.mark.parametrize(
    ("changes", "mismatch"),
    [
        ({"study_instance_uid": "1.2.9"}, True),
        ({"series_instance_uid": "1.2.9"}, True),
        ({"study_date": "20260301"}, True),
        ({"study_date": ""}, True),
        ({"modality": "SR"}, False),
        ({"body_part": "KNEE"}, False),
    ],
)
def test_an_image_that_was_not_asked_for_is_refused(changes: dict[str, str], mismatch: bool) -> None:
    refusal = refusal_of(replace(HEADER, **changes), CURRENT, WISH, "1.2.4", ("1.2.4.1",))
    assert refusal is not None
    assert refusal.mismatch is mismatch
    assert refusal_of(HEADER, CURRENT, WISH, "1.2.4", ("1.2.4.1",)) is None


def test_a_patient_is_who_he_is_today() -> None:
    told = Correction(Identity("ID-9", name="Roe^Jane"), utcnow(), "ADT", 1)
    today = current_of(replace(HEADER, study_instance_uid="1.2.3"), told)
    assert today.identity == Identity("ID-9", "HOSPITAL", "Roe^Jane", "1970.01.02", "F")
    assert (today.study_instance_uid, today.study_date) == ("1.2.3", "20251001")
    assert identity_of(HEADER) == current_of(HEADER, None).identity


@pytest.mark.parametrize("odd", ["", "*", "ID?", "A\\B", "x" * 65, "ID\n1"])
def test_no_patient_is_asked_for_by_what_matches_others(odd: str) -> None:
    assert not askable_patient_id(odd)
    assert askable_patient_id("ID-1")
