"""What a work item's events and its final state say, from its data set alone (PS3.4 annex CC)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from db import workitem_rules as rules
from db.dicom_json import code, element, items, sequence, values
from db.states import WorkitemState

AT = datetime(2026, 3, 1, 12, 30, 5, 250, tzinfo=UTC)
WHY = {
    rules.CANCEL_REASON: element("LT", "the patient left"),
    rules.DISCONTINUATION: sequence([code("110502", "DCM", "Incorrect procedure ordered")]),
    rules.CONTACT_NAME: element("PN", {"Alphabetic": "Ward^Nurse"}),
}


def test_a_moment_is_written_with_its_offset() -> None:
    assert rules.date_time(AT) == "20260301123005.000250+0000"


def test_a_canceled_item_says_when_and_why_as_the_request_for_it_did() -> None:
    data = rules.canceled({rules.STATE: element("CS", "SCHEDULED")}, AT, WHY)
    assert rules.unmet(data, WorkitemState.CANCELED) == ()
    (progress,) = items(data, rules.PROGRESS_INFORMATION)
    assert progress[rules.CANCELED_AT] == element("DT", "20260301123005.000250+0000")
    assert progress[rules.CANCEL_REASON] == WHY[rules.CANCEL_REASON]
    assert progress[rules.DISCONTINUATION] == WHY[rules.DISCONTINUATION]
    assert rules.CONTACT_NAME not in progress


def test_one_that_is_canceled_without_a_reason_says_that_none_is_known_and_keeps_what_stood_there() -> None:
    once = rules.canceled({}, AT)
    (progress,) = items(once, rules.PROGRESS_INFORMATION)
    assert progress[rules.DISCONTINUATION] == sequence([code(*rules.UNSPECIFIED)])
    (again,) = items(rules.canceled(once, datetime(2026, 4, 1, tzinfo=UTC), WHY), rules.PROGRESS_INFORMATION)
    assert again[rules.CANCELED_AT] == progress[rules.CANCELED_AT]
    assert again[rules.DISCONTINUATION] == progress[rules.DISCONTINUATION]


def test_events_say_state_progress_and_whom_it_is_assigned_to() -> None:
    station = sequence([code("GPU1", "99HOSP", "GPU 1")])
    progress = sequence([{rules.PROGRESS: element("DS", "50"), **WHY}])
    data = {
        rules.STATE: element("CS", "IN PROGRESS"),
        rules.READINESS: element("CS", "READY"),
        rules.PROGRESS_INFORMATION: progress,
        rules.STATION_NAME: station,
        rules.HUMAN_PERFORMERS: sequence([{rules.HUMAN_ORGANIZATION: element("LO", "Radiology")}]),
        "00100010": element("PN", {"Alphabetic": "Doe^Jane"}),
    }
    reported = rules.state_report(data)
    assert (values(reported, rules.STATE), values(reported, rules.READINESS)) == (["IN PROGRESS"], ["READY"])
    assert reported[rules.CANCEL_REASON] == WHY[rules.CANCEL_REASON]
    assert rules.progress_report(data) == {rules.PROGRESS_INFORMATION: progress}
    assert rules.assigned(data) == {
        rules.STATION_NAME: station,
        rules.HUMAN_ORGANIZATION: element("LO", "Radiology"),
    }
    assert rules.assigned({}) is None
    assert not any(rules.names_patient(tag) for told in (reported, rules.progress_report(data)) for tag in told)


def test_a_request_to_cancel_names_who_asks_and_how_to_reach_them() -> None:
    told = rules.cancel_requested("RIS", WHY)
    assert told == {rules.REQUESTING_AE: element("AE", "RIS"), **WHY}


def test_a_start_is_told_as_one_that_kept_everything() -> None:
    assert [values(rules.restarted(), tag) for tag in ("00741242", "00741244", "00741246")] == [
        ["RESTARTED"],
        ["WARM START"],
        ["WARM START"],
    ]


@pytest.mark.parametrize(
    ("tag", "names"), [("00100010", True), ("00104000", True), ("00380010", True), (rules.STUDY, False)]
)
def test_what_names_a_patient_is_known(tag: str, names: bool) -> None:
    assert rules.names_patient(tag) is names
