from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from node.routing import choose, rules_digest, try_route, why_not
from node.rules import Match, Route

CHEST: dict[str, Any] = {
    "modality": "DX",
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
    "body_part": "CHEST",
    "view_position": "PA",
    "calling_ae": "XRAY-1",
    "study_description": "Thorax of Jane Doe",
    "series_description": "pa",
    "protocol_name": "",
    "age_years": 47.5,
}


def route(name: str = "chest", **match: Any) -> Route:
    return Route(name=name, models=("cxr",), match=Match(**match))


@pytest.mark.parametrize(
    ("match", "held"),
    [
        ({}, True),
        ({"modality": ("DX",)}, True),
        ({"modality": ("dx", "cr")}, True),
        ({"modality": ("CT",)}, False),
        ({"modality": ("D*",)}, True),
        ({"modality": ("*",)}, True),
        ({"body_part": ("",)}, False),
        ({"sop_class": ("1.2.840.10008.5.1.4.1.1.1.1",)}, True),
        ({"sop_class": ("1.2.840.10008.5.1.4.1.1.1",)}, False),
        ({"view": ("PA", "AP")}, True),
        ({"calling_ae": ("XRAY-*",)}, True),
        ({"study_description": "^thorax"}, True),
        ({"study_description": "thorax$"}, False),
        ({"protocol_name": "^$"}, True),
        ({"min_age_years": 18}, True),
        ({"min_age_years": 47.5, "max_age_years": 47.5}, True),
        ({"max_age_years": 18}, False),
        ({"modality": ("DX",), "max_age_years": 18}, False),
    ],
)
def test_conditions(match: dict[str, Any], held: bool) -> None:
    assert try_route(route(**match), CHEST).matched is held


def test_an_absent_value_matches_only_an_empty_alternative() -> None:
    assert try_route(route(body_part=("CHEST", "")), {}).matched
    assert not try_route(route(body_part=("CHEST",)), {}).matched
    assert not try_route(route(min_age_years=0), {}).matched
    assert not try_route(route(min_age_years=0), {"age_years": None}).matched
    assert try_route(route(protocol_name=".*"), {}).matched


def test_an_explanation_shows_every_condition_also_after_the_first_failure() -> None:
    outcome = try_route(route(modality=("CT",), body_part=("CHEST", ""), min_age_years=18), CHEST)
    assert [(c.condition, c.held) for c in outcome.checks] == [("modality", False), ("body_part", True), ("age", True)]
    assert outcome.checks[0].detail == 'modality "DX" is not one of CT'
    assert outcome.checks[1].detail == 'body_part "CHEST" is one of CHEST, (absent)'
    assert outcome.checks[2].detail == "age lies within 18.0 to  years"
    assert outcome.as_dict() == {
        "route": "chest",
        "matched": False,
        "checks": [{"condition": c.condition, "held": c.held, "detail": c.detail} for c in outcome.checks],
    }


def test_an_explanation_keeps_texts_that_people_typed_to_itself() -> None:
    outcome = try_route(route(study_description="thorax", series_description="lat", min_age_years=99), CHEST)
    said = str(outcome.as_dict()) + why_not([route(study_description="lung")], CHEST)
    assert "Jane" not in said
    assert "47" not in said
    assert outcome.checks[0].detail == "study_description (18 characters) matches thorax"


def test_the_first_match_or_all() -> None:
    routes = [route("ct", modality=("CT",)), route("any"), route("dx", modality=("DX",))]
    assert [r.name for r, _ in choose(routes, CHEST, "first")] == ["any"]
    assert [r.name for r, _ in choose(routes, CHEST, "all")] == ["any", "dx"]
    assert choose(routes[:1], CHEST, "all") == []


def test_the_reason_why_no_route_took_it() -> None:
    routes = [route("ct", modality=("CT",), body_part=("HEAD",)), route("old", min_age_years=60)]
    assert why_not(routes, CHEST) == (
        'no route matched (ct: modality "DX" is not one of CT; old: age does not lie within 60.0 to  years)'
    )
    assert why_not([], CHEST) == "no routes are configured"


def test_the_digest_changes_with_the_rules_and_only_with_them() -> None:
    rules = [route(modality=("DX",))]
    assert rules_digest(rules) == rules_digest([route(modality=("DX",))])
    assert len(rules_digest(rules)) == 64
    others = [[], [route(modality=("CR",))], [route("other", modality=("DX",))], rules * 2]
    assert len({rules_digest(rules), *map(rules_digest, others)}) == 5


def test_the_route_of_a_node_without_settings_takes_chest_radiographs_alone() -> None:
    default = Route.chest_radiographs()
    assert try_route(default, CHEST).matched
    assert try_route(default, {**CHEST, "body_part": "", "modality": "CR"}).matched
    assert not try_route(default, {**CHEST, "body_part": "HAND"}).matched
    assert not try_route(default, {**CHEST, "modality": "CT"}).matched


@pytest.mark.parametrize(
    "wrong",
    [
        {"match": {"study_description": "("}},
        {"match": {"modalty": ["CR"]}},
        {"required_series": ["["]},
        {"models": []},
        {"name": "a/b"},
        {"priority": "soon"},
        {"min_instances": 0},
    ],
)
def test_wrong_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Route.model_validate({"name": "chest", "models": ["cxr"]} | wrong)


hostile_facts = st.dictionaries(
    st.sampled_from([*CHEST, "unknown"]), st.none() | st.text() | st.integers() | st.floats() | st.lists(st.text())
)


@given(hostile_facts)
def test_no_header_breaks_a_rule(facts: dict[str, Any]) -> None:
    rules = [route(modality=("CR",), study_description="x", min_age_years=1), route("all")]
    assert [r.name for r, _ in choose(rules, facts, "all")][-1] == "all"
    assert why_not(rules[:1], facts) or try_route(rules[0], facts).matched


@pytest.mark.parametrize("value", ["Doe^Jane", "C\0R", "\x1b[2J", "X" * 17, "MÜLLER", "[bold]"])
def test_a_reason_repeats_codes_only(value: str) -> None:
    told = why_not([route(modality=("CR",))], {"modality": value})
    assert told == "no route matched (chest: modality (not a code) is not one of CR)"
    assert value not in why_not([route(view=("PA",))], {"view_position": value})


def test_a_reason_names_the_senders_title_and_the_class() -> None:
    assert '"XRAY-1"' in why_not([route(calling_ae=("CT*",))], CHEST)
    assert f'"{CHEST["sop_class_uid"]}"' in why_not([route(sop_class=("1.2",))], CHEST)
    assert "(not a code)" in why_not([route(calling_ae=("CT*",))], {"calling_ae": "a\x1b[2J"})


def test_a_pattern_sees_no_more_of_a_text_than_the_standard_lets_it_hold() -> None:
    long = {"study_description": " " * 64 + "thorax"}
    assert not try_route(route(study_description="thorax"), long).matched
    assert try_route(route(study_description="thorax"), {"study_description": " " * 58 + "thorax"}).matched
