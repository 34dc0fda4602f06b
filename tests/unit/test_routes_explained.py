"""`radnode routes test` says what the sweeper would write."""

from __future__ import annotations

from typing import Any

import pytest

from node.header import Header, facts
from node.identity import MANUFACTURER
from node.route_test import explain
from node.rules import Match, Route
from node.settings import Settings
from node.verdicts import OWN_RESULT

CR = "1.2.840.10008.5.1.4.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def outcome(settings: Settings | None = None, **header: Any) -> str:
    chest = Route(name="chest", models=("cxr",), match=Match(modality=("CR",)))
    base = (settings or Settings()).model_copy(update={"routes": (chest,)})
    told = explain(base, facts(Header(**({"sop_class_uid": CR, "modality": "CR"} | header)), "MODALITY"))
    return str(told["outcome"])


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({}, "chest -> cxr"),
        ({"manufacturer": MANUFACTURER}, f"stored, not read: {OWN_RESULT}"),
        ({"sop_class_uid": SECONDARY_CAPTURE}, "stored, not read: its SOP class"),
        ({"modality": "CT"}, 'stored, not read: no route matched (chest: modality "CT" is not one of CR)'),
    ],
)
def test_what_would_become_of_it(header: dict[str, str], told: str) -> None:
    assert outcome(**header).startswith(told)


def test_settings_open_more_classes() -> None:
    assert outcome(Settings(read_secondary_captures=True), sop_class_uid=SECONDARY_CAPTURE).startswith("chest -> cxr")
