"""HL7 text: whatever a value holds, it comes out at the other end as one value, and as nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from node.settings_hl7 import Hl7, Hl7Destination
from node.worklist.hl7 import er7, oru
from node.worklist.hl7.er7 import Delimiters, MalformedMessage, UnusableMessage, clean, escape, read

HOSTILE = st.text(
    alphabet=st.one_of(st.sampled_from("|^~\\&\r\n\t\x0b\x1c\0\x85\u2028EFSTRXH.\"0D'"), st.characters()), max_size=60
)
PRINTABLE = HOSTILE.map(clean).filter(bool)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RIS = Hl7Destination(host="127.0.0.1")
PATIENT = oru.Patient("ID-1", "HOSP", "Müller^Eva^^Dr", "19700101", "F")
FINDING = oru.Finding(("233604007", "SCT", "Pneumonia"), "present", 0.8712, 0.5, "stat")
REPORT = oru.Report(
    patient=PATIENT,
    study_instance_uid="1.2.840.99",
    accession_number="ACC-1",
    study_date="20260301",
    study_time="1030",
    placer_number="PL-1",
    filler_number="FI-1",
    procedure="Chest PA",
    report_uid="1.2.840.99.9",
    model="cxr-pneumonia",
    model_version="1.0.0",
    device="RADNODE",
    images=(oru.Image("1.2.840.99.1.1", "", (FINDING,), ""),),
    analysed_at=NOW,
    notice="AI-generated preliminary result",
)


def text_of(report: oru.Report, to: Hl7Destination = RIS) -> str:
    data = oru.result(report, Hl7(), to, message_id="A" * 20, now=NOW)
    return data.decode(er7.CODECS[to.character_set])


def segments(text: str) -> list[str]:
    return [line.split("|", 1)[0] for line in text.split("\r")]


@given(HOSTILE)
def test_what_is_escaped_comes_back_as_it_was_on_one_line(value: str) -> None:
    escaped = escape(value)
    assert not set(escaped) & set("|^~&\r\n\x0b\x1c\0")
    assert Delimiters().unescape(escaped) == clean(value)


@given(HOSTILE, st.integers(0, 40))
def test_what_is_cut_is_cut_between_characters(value: str, longest: int) -> None:
    cut = escape(value, longest)
    assert len(cut) <= longest
    assert clean(value).startswith(Delimiters().unescape(cut))


@examples(max_examples=15, deadline=None)
@given(HOSTILE, HOSTILE, PRINTABLE, HOSTILE)
def test_hostile_values_make_the_same_segments_as_harmless_ones(
    name: str, reason: str, meaning: str, more: str
) -> None:
    report = replace(
        REPORT,
        patient=replace(PATIENT, name=f"{name}^Eva", issuer=more),
        procedure=more,
        images=(
            oru.Image("1.2.3", "", (replace(FINDING, code=("1", "99X", meaning)),), ""),
            oru.Image("1.2.4", "", (), reason or "none"),
        ),
    )
    plain = replace(
        report, patient=PATIENT, images=(oru.Image("1.2.3", "", (FINDING,), ""), oru.Image("1.2.4", "", (), "none"))
    )
    text = text_of(report)
    assert segments(text) == segments(text_of(plain))
    # Read by somebody else's program.
    observed = hl7.parse(text).segments("OBX")
    assert str(observed[1](3)(1)(2)) in escape(meaning, 199)
    assert [str(one(11)) for one in observed] == ["P", "P", "P", "P", "X", "P", "P", "P"]


@examples(max_examples=15, deadline=None)
@given(HOSTILE)
def test_an_identifier_goes_out_whole_or_not_at_all(identifier: str) -> None:
    report = replace(REPORT, patient=replace(PATIENT, id=identifier), accession_number="")
    try:
        text = text_of(report)
    except oru.UnsendableResult:
        assert len(identifier) > 64 or clean(identifier) != identifier.strip() or not clean(identifier)
        return
    pid = hl7.parse(text).segment("PID")
    assert hl7.parse(text).unescape(str(pid(3)(1)(1))) == clean(identifier)


def test_what_a_character_set_lacks_is_told_in_names_and_refused_in_identifiers() -> None:
    latin = Hl7Destination(host="127.0.0.1", character_set="8859/1")
    report = replace(REPORT, patient=replace(PATIENT, name="Müller^Eva=山田^太郎"))
    text = text_of(report, latin)
    assert "Müller^Eva^^^^^L^A~??^??^^^^^L^I" in text
    assert "|2.5.1||||||8859/1" in text
    with pytest.raises(oru.UnsendableResult, match="character_set lacks"):
        text_of(replace(report, accession_number="山"), latin)


def test_a_message_that_would_not_be_valid_is_not_sent() -> None:
    device = replace(REPORT, model="m" * 300)
    assert text_of(device)
    # A birth date that is none is left out; nothing is made up.
    assert "|||Müller" not in text_of(replace(REPORT, patient=replace(PATIENT, birth_date="not known")))
    with pytest.raises(oru.UnsendableResult, match="too long"):
        text_of(replace(REPORT, filler_number="9" * 65))
    with pytest.raises(oru.UnsendableResult, match="no valid HL7"):
        text_of(replace(REPORT, patient=replace(PATIENT, birth_date="99999999")))


def test_control_ids_depend_on_what_they_name_alone() -> None:
    assert oru.control_id("ORU^R01", "1.2", "ris") == oru.control_id("ORU^R01", "1.2", "ris")
    named = {oru.control_id(*one) for one in [("a", "b"), ("ab", ""), ("", "ab"), ("a", "b", "")]}
    assert len(named) == 4
    assert {len(one) for one in named} == {20}


@pytest.mark.parametrize(
    ("presence", "priority", "code", "flag"),
    [
        ("present", "stat", "52101004^Present^SCT", "AA"),
        ("present", "routine", "52101004^Present^SCT", "A"),
        ("absent", "stat", "272519000^Absent^SCT", ""),
        ("undetermined", "stat", "373068000^Undetermined^SCT", ""),
    ],
)
def test_a_finding_is_coded_and_flagged(presence: str, priority: str, code: str, flag: str) -> None:
    finding = replace(FINDING, presence=presence, priority=priority)
    report = replace(REPORT, images=(oru.Image("1.2.3", "", (finding,), ""),))
    first, second = (hl7.parse(text_of(report)).segments("OBX"))[:2]
    assert (str(first(5)), str(first(8)), str(first(11))) == (code, flag, "P")
    assert (str(second(5)), str(second(6)), str(second(7))) == ("0.8712", "1^no units^UCUM", "<0.500")
    assert report.priority == (priority if presence == "present" else "routine")


# MSH with other delimiters, as the standard allows them.
ODD = "MSH#*@!%#ADT#H#RAD#N#20260301##ADT*A08#7#P#2.3\rPID###A!S!B*%*x@C##Doe*Jane\r"


def test_a_message_is_read_by_its_own_delimiters() -> None:
    message = read(ODD.encode(), "ASCII")
    pid = message.first("PID")
    assert pid is not None
    assert message.kind == "ADT^A08"
    assert (pid.get(3), pid.get(5), pid.get(5, 2)) == ("A*B", "Doe", "Jane")
    assert len(pid.repetitions(3)) == 2


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("\\F\\", "|"),
        ("a\\S\\b", "a^b"),
        ("\\X4142\\", "AB"),
        ("\\XZZ\\", ""),
        ("\\H\\loud\\N\\", "loud"),
        ("one\\.br\\two", "one two"),
        ("a\\b", "a\\b"),
        ("\\E\\X0D\\E\\", "\\X0D\\"),
        ("\\E\\F\\E\\", "\\F\\"),
    ],
)
def test_escape_sequences_of_others_are_understood(said: str, meant: str) -> None:
    assert Delimiters().unescape(said) == meant


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MSH",
        b"PID|1\r",
        b"MSH|||||\r",
        b"MSHA^~\\&A\r",
        b"MSH|^~\\&|A||||1||ADT^A08|1|P|2.5.1||||||KLINGON\rPID|1\r",
        b"MSH|^~\\&|A||||1||ADT^A08|1|P|2.5.1||||||UNICODE UTF-8\rPID|\xff\r",
        b"MSH|^~\\&|A\rpid|1\r",
        b"MSH|^~\\&|A\r" + b"OBX|1\r" * 2001,
    ],
)
def test_what_is_no_message_is_named_as_such(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read(data, "ASCII")


@given(st.binary(max_size=300), st.sampled_from([b"", b"MSH|^~\\&|", b"MSH|^~\\&|A|B|C|D|1||ADT^A40|7|P|2.5.1\rPID|"]))
def test_any_bytes_are_a_message_or_refused(data: bytes, head: bytes) -> None:
    try:
        message = read(head + data, "UNICODE UTF-8")
    except UnusableMessage:
        return
    told: list[Any] = [one.get(number, part) for one in message.segments for number in range(40) for part in (1, 2)]
    assert all(clean(value) == value for value in told)
