"""Audit messages: each event is a message that PS3.15 A.5.1 allows, whatever a peer has put into it."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db import audit
from db.audit import Entry
from db.audit_events import EVENTS
from node.audit import syslog
from node.audit.catalogue import MEANINGS
from node.audit.message import Origin, xml
from tests.support.audit_message import frames, parsed, validated

ORIGIN = Origin("NODE-1", "RADNODE", "node.example.org", "Hospital 7")
STUDY = "1.2.840.99"
DETAIL: dict[str, Any] = {
    "study": STUDY,
    "address": "10.0.0.7",
    "destination": "pacs",
    "ae_title": "PACS",
    "reason": "because",
    "sop_classes": {"1.2.840.10008.5.1.4.1.1.1": {"count": 2, "uids": ["1.2.3", "1.2.4"]}},
}
ENTRY = Entry(
    1, datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC), "login", "success", "anna", STUDY, DETAIL, 41, "ab" * 32
)

# Everything that breaks a format somewhere: line ends, quotes, brackets, markup, NUL, halves of pairs, directions.
HOSTILE = st.text(
    alphabet=st.one_of(
        st.sampled_from("\r\n\t\0\x1b\"'`\\]<>&[]{};|$%\u2028\u202e\ufeff\ufffe\ud800\udfff"),
        st.characters(),
    ),
    max_size=60,
)


def entry(event: str, **changes: Any) -> Entry:
    return replace(ENTRY, event=event, **changes)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("outcome", ["success", "warning", "failure"])
def test_every_event_is_a_message_the_standard_allows(event: str, outcome: str) -> None:
    root = validated(xml(entry(event, outcome=outcome), ORIGIN))
    identification = root.find("EventIdentification")
    assert identification is not None
    code = identification.find("EventID")
    assert code is not None
    assert code.get("codeSystemName") == "DCM"
    expected = {"success": {"0"}, "warning": {"4", "12"}, "failure": {"4", "8", "12"}}[outcome]
    if event != "user_locked":
        assert identification.get("EventOutcomeIndicator") in expected
    assert identification.get("EventDateTime") == "2026-03-01T12:00:00.000005+00:00"
    # What A.5.3 asks of nearly all: somebody or something that acts, and the node that reports.
    assert len(root.findall("ActiveParticipant")) in {1, 2, 3}
    assert root.find("AuditSourceIdentification").get("AuditSourceID") == "NODE-1"  # type: ignore[union-attr]


def test_every_event_has_its_meaning_and_no_other_has() -> None:
    assert set(MEANINGS) == set(EVENTS)


def test_a_name_of_another_release_is_sent_all_the_same() -> None:
    root = validated(xml(entry("event_of_the_future"), ORIGIN))
    assert [one.get("csd-code") for one in root.iter("EventTypeCode")] == ["event_of_the_future"]


@pytest.mark.parametrize(
    ("event", "code", "action", "requestor", "roles"),
    [
        # A.5.3.7: who sends asks for it; source and destination are named as such.
        ("instances_received", "110104", "C", "anna", ["110153", "110152"]),
        ("result_sent", "110104", "C", "anna", ["110153", "110152"]),
        ("sending_begun", "110102", "E", "anna", ["110153", "110152"]),
        ("study_viewed", "110103", "R", "anna", ["110150"]),
        ("application_started", "110100", "E", "anna", ["110150", "110151"]),
        ("association_rejected", "110113", "E", "anna", ["110153", "110152"]),
        ("study_exported", "110106", "R", "anna", ["110153", "110154", "110150"]),
        ("study_deleted", "110105", "D", "anna", ["110150"]),
        ("audit_used", "110101", "E", "anna", ["110150"]),
        ("login", "110114", "E", "anna", ["110150"]),
    ],
)
def test_who_took_part_and_how(event: str, code: str, action: str, requestor: str, roles: list[str]) -> None:
    root = validated(xml(entry(event), ORIGIN))
    identification = root[0]
    assert identification.get("EventActionCode") == action
    assert identification[0].get("csd-code") == code
    asked = [one.get("UserID") for one in root.iter("ActiveParticipant") if one.get("UserIsRequestor") == "true"]
    assert asked == [requestor]
    assert [one.get("csd-code") for one in root.iter("RoleIDCode")] == roles


def test_a_transfer_names_study_and_instances_and_no_patient() -> None:
    root = validated(xml(entry("instances_received"), ORIGIN))
    objects = {one[0].get("csd-code"): one for one in root.iter("ParticipantObjectIdentification")}
    assert objects["110180"].get("ParticipantObjectID") == STUDY
    assert [one.get("NumberOfInstances") for one in root.iter("SOPClass")] == ["2"]
    assert [one.get("UID") for one in root.iter("Instance")] == ["1.2.3", "1.2.4"]
    assert objects["2"].get("ParticipantObjectID") == "withheld"
    peer = root.find("ActiveParticipant")
    assert peer is not None
    assert (peer.get("NetworkAccessPointID"), peer.get("NetworkAccessPointTypeCode")) == ("10.0.0.7", "2")
    assert peer.get("AlternativeUserID") == "AETITLES=anna"


def test_a_message_carries_its_place_and_digest() -> None:
    root = validated(xml(ENTRY, ORIGIN))
    row = root.findall("ParticipantObjectIdentification")[-1]
    assert row.get("ParticipantObjectID") == "urn:radnode:audit:41"
    details = {str(one.get("type")): one.get("value") for one in row.iter("ParticipantObjectDetail")}
    assert base64.b64decode(str(details["digest"])).decode() == ENTRY.digest


def test_the_frame_is_that_of_the_standards() -> None:
    stream = b"".join(
        syslog.frame(replace(ENTRY, outcome=outcome), ORIGIN, version="1.2", process_id=7)
        for outcome in ("success", "failure")
    )
    first, second = (parsed(one) for one in frames(stream))
    assert (first.priority, second.priority) == (85, 84)
    assert (first.host, first.application, first.id) == ("node.example.org", "radnode", "DICOM+RFC3881")
    assert first.data == {"origin": {"software": "radnode", "swVersion": "1.2"}, "meta": {"sequenceId": "41"}}
    assert first.body.startswith('<?xml version="1.0" encoding="UTF-8"?><AuditMessage>')
    late = parsed(frames(syslog.frame(replace(ENTRY, position=2**31), ORIGIN, version="1", process_id=7))[0])
    assert late.data["meta"]["sequenceId"] == "1"


def test_a_message_fits_into_what_every_collector_must_take() -> None:
    """RFC 5425 4.3.1: at least 2048 octets must be taken, 8192 should."""
    uids = [("1.2.840.10008.5.1.4.1.1.2", f"1.2.840.{'9' * 50}.{number:03}") for number in range(24)]
    for count in (24, 2000):
        detail = {**DETAIL, "sop_classes": audit.count_by_class((uids * 100)[:count])}
        assert len(syslog.frame(entry("instances_received", detail=detail), ORIGIN, version="1", process_id=7)) < 8192


@settings(max_examples=150, deadline=None)
@given(
    event=st.sampled_from([*EVENTS, "unknown"]),
    actor=HOSTILE,
    subject=HOSTILE,
    host=HOSTILE,
    detail=st.dictionaries(
        st.sampled_from(["study", "address", "destination", "ae_title", "reason", "x"]), HOSTILE, max_size=6
    ),
)
def test_no_text_of_a_peer_breaks_out_of_xml_or_syslog(
    event: str, actor: str, subject: str, host: str, detail: dict[str, Any]
) -> None:
    hostile = entry(event, actor=actor, subject=subject, detail=detail, outcome="failure")
    stream = syslog.frame(hostile, replace(ORIGIN, host=host), version=actor, process_id=7)
    (message,) = frames(stream)
    assert b"\n" not in message
    assert b"\r" not in message
    told = parsed(message)
    assert list(told.data) == ["origin", "meta"]
    root = validated(told.body.partition("?>")[2])
    assert root.tag == "AuditMessage"
    plain = validated(xml(entry(event, outcome="failure", detail=dict.fromkeys(detail, "1.2")), ORIGIN))
    # The tree has the shape that harmless text gives it, but for objects that need a UID and get none.
    assert {one.tag for one in root.iter()} <= {one.tag for one in plain.iter()} | {
        "ParticipantObjectDetail",
        "EventOutcomeDescription",
    }


@settings(max_examples=200, deadline=None)
@given(HOSTILE)
def test_outside_text_becomes_one_printable_line(text: str) -> None:
    cleaned = audit.clean(text, 40)
    assert len(cleaned) <= 40
    assert cleaned.splitlines() in ([], [cleaned])
    assert "\0" not in cleaned
    cleaned.encode("utf-8")
    assert audit.clean(cleaned) == cleaned
