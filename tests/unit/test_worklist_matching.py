from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.domain import NewOrder, OrderView, WantedOrder
from db.states import OrderState
from node.rules import Route
from node.worklist.gate import gate
from node.worklist.matching import Key, day, key_of, match, priority_of, words

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WANTED = WantedOrder(1, "1.2", "A-1", "ID-1", "Doe^Jane", "19700101", "20260301", ("CR",), NOON, 1)
ORDER = NewOrder("ris", "A-1", "RP-1", "ID-1", "DOE^JANE^^MRS", "1970.01.01", modality="CR", scheduled_date="20260301")
KEY = Key(accession_number="A-1")
BY_DATE = Key(patient_id="ID-1", date="20260301")


def test_an_order_of_the_same_patient_matches_with_its_priority() -> None:
    found = match(WANTED, KEY, [replace(ORDER, priority="stat")])
    assert found.state is OrderState.MATCHED
    assert found.order is not None
    assert found.order.priority == "stat"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"patient_id": "ID-2"}, "Patient ID"),
        ({"patient_birth_date": "19700102"}, "Patient's Birth Date"),
        ({"patient_name": "Roe^Richard"}, "Patient's Name"),
        ({"patient_name": "Roe^Anna^^Jane"}, "Patient's Name"),
        ({"patient_id": "", "patient_name": "Roe^Richard"}, "Patient ID, Patient's Name"),
    ],
)
def test_an_order_of_another_patient_is_a_mismatch_that_quotes_nobody(changes: dict[str, str], named: str) -> None:
    found = match(WANTED, KEY, [replace(ORDER, **changes)])  # type: ignore[arg-type]
    assert found.state is OrderState.MISMATCHED
    assert found.reason == f"its order has another {named} than the image"


def test_what_one_side_does_not_say_is_no_difference() -> None:
    assert match(WANTED, KEY, [replace(ORDER, patient_birth_date="", patient_name="")]).state is OrderState.MATCHED


def test_names_are_compared_in_all_their_spellings() -> None:
    assert words("Müller^Jörg") == words("MULLER^JORG")
    assert words("Yamada^Tarou=山田^太郎") & words("山田^太郎")
    assert words("^^ =") == frozenset()


def test_two_patients_under_one_accession_number_are_a_mismatch() -> None:
    assert match(WANTED, KEY, [ORDER, replace(ORDER, patient_id="ID-2")]).state is OrderState.MISMATCHED


def test_the_steps_of_one_order_count_as_its_most_urgent() -> None:
    found = match(WANTED, KEY, [ORDER, replace(ORDER, priority="urgent", modality="DX")])
    assert found.order is not None
    assert found.order.priority == "urgent"


def test_one_step_that_names_another_patient_is_enough_to_doubt_an_order() -> None:
    other = replace(ORDER, patient_birth_date="19800101", modality="DX")
    assert match(WANTED, KEY, [ORDER, other]).state is OrderState.MISMATCHED


def test_sides_that_name_nobody_do_not_match() -> None:
    nobody = replace(ORDER, patient_id="")
    assert match(replace(WANTED, patient_id=""), KEY, [nobody]).state is OrderState.MISMATCHED


def test_an_answer_that_was_not_asked_for_is_none() -> None:
    found = match(WANTED, KEY, [replace(ORDER, accession_number="A-2", patient_id="ID-2")])
    assert found.state is OrderState.ABSENT


def test_without_an_accession_number_one_order_of_the_patient_on_the_day_is_taken_and_of_several_none() -> None:
    nameless = replace(WANTED, accession_number="")
    assert key_of(nameless) == BY_DATE
    assert match(nameless, BY_DATE, [ORDER]).state is OrderState.MATCHED
    assert match(nameless, BY_DATE, [replace(ORDER, modality="MR")]).state is OrderState.ABSENT
    assert match(nameless, BY_DATE, [replace(ORDER, scheduled_date="20260302")]).state is OrderState.ABSENT
    assert match(nameless, BY_DATE, [replace(ORDER, modality="MR"), ORDER]).state is OrderState.MATCHED
    several = match(nameless, BY_DATE, [ORDER, replace(ORDER, accession_number="A-2", requested_procedure_id="RP-2")])
    assert (several.state, "several" in several.reason) == (OrderState.ABSENT, True)


@pytest.mark.parametrize("accession", ["*", "A?1", "A\\B", "A" * 17, "A\u202e1"])
def test_nothing_is_asked_by_what_would_match_more_than_itself(accession: str) -> None:
    assert key_of(replace(WANTED, accession_number=accession)) is None
    assert key_of(replace(WANTED, accession_number="", patient_id=accession * 4)) is None or "?" not in accession


def test_without_a_date_nothing_is_asked() -> None:
    assert key_of(replace(WANTED, accession_number="", study_date="")) is None


@given(st.text(), st.text(), st.text())
def test_no_string_of_a_peer_breaks_the_matching(name: str, birth_date: str, priority: str) -> None:
    found = match(WANTED, KEY, [replace(ORDER, patient_name=name, patient_birth_date=birth_date)])
    assert found.state in {OrderState.MATCHED, OrderState.MISMATCHED}
    assert "ID-1" not in found.reason
    assert priority_of(priority) in {"stat", "urgent", "routine"}
    assert len(day(birth_date)) in {0, 8}


def test_a_route_that_does_not_ask_minds_no_order() -> None:
    route = Route(name="r", models=("m",), priority="urgent")
    assert gate(route, OrderView(OrderState.MISMATCHED, NOON, "stat"), 15, NOON).priority == "urgent"
    assert not gate(route, OrderView(OrderState.MISMATCHED, NOON, "stat"), 15, NOON).stop


def test_the_gate_waits_so_long_and_then_goes_on() -> None:
    route = Route(name="r", models=("m",), ask_worklist=True)
    wanted = OrderView(OrderState.WANTED, NOON)
    assert gate(route, None, 15, NOON).hold_until == NOON + timedelta(seconds=15)
    assert gate(route, wanted, 15, NOON + timedelta(seconds=14)).hold_until == NOON + timedelta(seconds=15)
    late = gate(route, wanted, 15, NOON + timedelta(seconds=15))
    assert (late.hold_until, late.priority, late.stop) == (None, "routine", False)
    assert "did not answer" in late.note


def test_the_more_urgent_of_route_and_order_counts() -> None:
    urgent = Route(name="r", models=("m",), ask_worklist=True, priority="urgent")
    assert gate(urgent, OrderView(OrderState.MATCHED, NOON, "stat"), 15, NOON).priority == "stat"
    assert gate(urgent, OrderView(OrderState.MATCHED, NOON, "routine"), 15, NOON).priority == "urgent"
