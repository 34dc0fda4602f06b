"""A result as ORU^R01 (HL7 v2.5.1 chapter 7), and the change of priority that may follow it. Pure.

Everything a model says is preliminary (OBR-25 and OBX-11 ``P``); what it could not look at is ``X``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message, parse_segment

from db.errors import PermanentError
from node.settings_hl7 import Hl7, Hl7Destination
from node.worklist.findings import PRESENCE, PROBABILITY, Finding, Image, most_urgent
from node.worklist.hl7.er7 import CODECS, clean, escape, join, segment

VERSION = "2.5.1"
RESULT, ORM, OMI = "ORU^R01", "ORM^O01", "OMI^O23"
_STRUCTURES = {RESULT: "ORU_R01", ORM: "ORM_O01", OMI: "OMI_O23"}

_STUDY_UID = ("110180", "Study Instance UID", "DCM")
_SERIES_UID = ("112002", "Series Instance UID", "DCM")
_REPORT_UID = ("SR-UID", "SOP Instance UID of the report", "99RADNODE")
_IMAGE_UID = ("SOP-UID", "SOP Instance UID", "99RADNODE")
_COMMENT = ("121106", "Comment", "DCM")
_NO_UNITS = ("1", "no units", "UCUM")

# TQ1-9 and OBR-27.6 (tables 0485 and 0027).
_PRIORITIES = {"stat": ("S", "STAT"), "urgent": ("A", "ASAP"), "routine": ("R", "Routine")}
_SEXES = {"M": "M", "F": "F", "O": "O"}
_DAY = re.compile(r"\d{8}")
_CLOCK = re.compile(r"(\d{2})(\d{2})?(\d{2})?(\.\d{1,6})?")
# ST, and the text of a coded value (2.A.77, 2.A.13).
_LONGEST = 199
_LONGEST_ID = 64
_LONGEST_COMMENT = 1000


class UnsendableResult(PermanentError):
    """A result that no valid message can be made of."""


@dataclass(frozen=True)
class Patient:
    """name: of DICOM's VR PN (``family^given^middle^prefix^suffix``, groups apart by ``=``). birth_date: YYYYMMDD."""

    id: str
    issuer: str
    name: str
    birth_date: str
    sex: str


@dataclass(frozen=True)
class Report:
    """What one message tells: one model on one revision of one study.

    study_date, study_time: as DICOM writes them, may be empty. report_uid: of the DICOM SR that says the same.
    placer_number, filler_number, procedure: of the order, "" where they are not known. notice: what is said of every
    result.
    """

    patient: Patient
    study_instance_uid: str
    accession_number: str
    study_date: str
    study_time: str
    placer_number: str
    filler_number: str
    procedure: str
    report_uid: str
    model: str
    model_version: str
    device: str
    images: tuple[Image, ...]
    analysed_at: datetime
    notice: str

    @property
    def priority(self) -> str:
        """That of the most urgent finding."""
        return most_urgent(self.images)


def control_id(*identity: str) -> str:
    """MSH-10: the same for the same message, 20 characters (100 bits) of it."""
    digest = hashlib.sha256("\0".join(identity).encode()).digest()
    return base64.b32encode(digest).decode("ascii")[:20]


def result(report: Report, hl7: Hl7, to: Hl7Destination, *, message_id: str, now: datetime) -> bytes:
    """The ORU^R01, encoded for its destination.

    Raises UnsendableResult where the destination's character set lacks a character of an identifier, or the message
    would not be valid.
    """
    text = _Text(to.character_set)
    observations = _numbered([*_observations(report, text)], report)
    return _finished(
        [
            _msh(RESULT, hl7, to, message_id, now),
            _pid(report.patient, to, text),
            segment("ORC", {1: "RE", 2: text.id(report.placer_number), 3: text.id(report.filler_number)}),
            _obr(report, to, text, {22: _moment(report.analysed_at), 24: "RAD", 25: "P"}),
            *observations,
        ],
        to.character_set,
    )


def priority_change(report: Report, hl7: Hl7, to: Hl7Destination, *, message_id: str, now: datetime) -> bytes:
    """An order change (ORC-1 ``XO``) that asks for the priority of the most urgent finding. Raises UnsendableResult."""
    kind, text = to.priority_change, _Text(to.character_set)
    code, meaning = _PRIORITIES[report.priority]
    ordered = f"^{text.free(report.procedure or 'Imaging procedure')}"
    orc = segment("ORC", {1: "XO", 2: text.id(report.placer_number), 3: text.id(report.filler_number)})
    head = [_msh(kind, hl7, to, message_id, now), _pid(report.patient, to, text), orc]
    if kind == ORM:
        body = [_obr(report, to, text, {4: ordered, 27: f"^^^^^{code}"})]
    else:
        ipc = {1: text.id(report.accession_number), 2: text.id(report.accession_number)}
        body = [
            segment("TQ1", {1: "1", 9: f"{code}^{meaning}^HL70485"}),
            _obr(report, to, text, {4: ordered}),
            segment("IPC", {**ipc, 3: text.id(report.study_instance_uid), 4: text.id(report.accession_number)}),
        ]
    return _finished([*head, *body], to.character_set, as_segments=kind == ORM)


class _Text:
    """Values as the destination's character set holds them."""

    def __init__(self, character_set: str) -> None:
        self._codec = CODECS[character_set]

    def id(self, value: str) -> str:
        """An identifier, whole or not at all: a shortened or altered one could be somebody else's."""
        cleaned = clean(value)
        if cleaned != value.strip() or len(cleaned) > _LONGEST_ID:
            raise UnsendableResult("an identifier of the result is too long for HL7 or holds control characters")
        if cleaned.encode(self._codec, "replace").decode(self._codec) != cleaned:
            raise UnsendableResult(
                "an identifier of the result has characters that the destination's character_set lacks; "
                "set it to UNICODE UTF-8"
            )
        return escape(cleaned)

    def free(self, value: str, longest: int = _LONGEST) -> str:
        """Text for people; what the character set lacks becomes a question mark."""
        return escape(value.encode(self._codec, "replace").decode(self._codec), longest)

    def coded(self, code: tuple[str, str, str]) -> str:
        """(value, meaning, scheme) as a CWE."""
        value, meaning, scheme = code
        return "^".join((self.free(value, 20), self.free(meaning), self.free(scheme, 20)))


def _msh(kind: str, hl7: Hl7, to: Hl7Destination, message_id: str, now: datetime) -> str:
    fields = {
        1: "^~\\&",
        2: hl7.sending_application,
        3: hl7.sending_facility,
        4: to.receiving_application,
        5: to.receiving_facility,
        6: _moment(now),
        8: f"{kind}^{_STRUCTURES[kind]}",
        9: message_id,
        10: "P",
        11: VERSION,
        17: to.character_set,
    }
    # MSH-1 is the delimiter before MSH-2.
    return segment("MSH", fields)


def _pid(patient: Patient, to: Hl7Destination, text: _Text) -> str:
    identifier = text.id(patient.id)
    if not identifier:
        raise UnsendableResult("the images name no patient (Patient ID); nobody could file a message about them")
    authority = text.free(patient.issuer, 20) or to.assigning_authority
    born = patient.birth_date if _DAY.fullmatch(patient.birth_date) else ""
    # PID-5 is required; an empty name is one that is not known (XPN-7 ``U``).
    fields = {
        1: "1",
        3: join([identifier, "", "", authority, "MR"], "^"),
        5: _names(patient.name, text) or "^^^^^^U",
        7: born,
    }
    return segment("PID", {**fields, 8: _SEXES.get(patient.sex, "U" if patient.sex else "")})


def _names(name: str, text: _Text) -> str:
    """PN to XPN: prefix and suffix change places, and the groups become repetitions (2.A.88)."""
    repetitions = []
    for group, representation in zip(name.split("="), ("A", "I", "P"), strict=False):
        parts = [text.free(part, 60) for part in (group.split("^") + [""] * 5)[:5]]
        if any(parts):
            family, given, middle, prefix, suffix = parts
            repetitions.append("^".join((family, given, middle, suffix, prefix, "", "L", representation)))
    return "~".join(repetitions)


def _obr(report: Report, to: Hl7Destination, text: _Text, more: dict[int, str]) -> str:
    service = (f"AI-{report.model}", f"AI reading by {report.model}", "99RADNODE")
    return segment(
        "OBR",
        {
            1: "1",
            2: text.id(report.placer_number),
            3: text.id(report.filler_number),
            4: text.coded(service),
            7: _study_moment(report.study_date, report.study_time),
            18: text.id(report.accession_number) if to.accession_in_obr18 else "",
            **more,
        },
    )


# (OBX-2, OBX-3, OBX-4, OBX-5, further fields)
_Observation = tuple[str, str, str, str, dict[int, str]]


def _observations(report: Report, text: _Text) -> Iterator[_Observation]:
    named = len(report.images) > 1
    for number, image in enumerate(report.images, 1):
        if named or image.series_instance_uid:
            code, uid = (
                (_SERIES_UID, image.series_instance_uid)
                if image.series_instance_uid
                else (_IMAGE_UID, image.sop_instance_uid)
            )
            yield "ST", text.coded(code), str(number), text.id(uid), {}
        if image.reason:
            reason = text.free(f"not analysed: {image.reason}", _LONGEST_COMMENT)
            yield "TX", text.coded(_COMMENT), str(number), reason, {11: "X"}
        for n, finding in enumerate(image.findings, 1):
            yield from _finding(finding, f"{number}.{n}", text)
    yield "ST", text.coded(_STUDY_UID), "", text.id(report.study_instance_uid), {}
    yield "ST", text.coded(_REPORT_UID), "", text.id(report.report_uid), {}
    yield "TX", text.coded(_COMMENT), "", text.free(report.notice, _LONGEST_COMMENT), {}


def _finding(finding: Finding, place: str, text: _Text) -> Iterator[_Observation]:
    value, scheme, meaning = finding.code
    abnormal = ("AA" if finding.priority == "stat" else "A") if finding.presence == "present" else ""
    yield "CWE", text.coded((value, meaning, scheme)), place, text.coded(PRESENCE[finding.presence]), {8: abnormal}
    probability = {6: text.coded(_NO_UNITS), 7: f"<{finding.threshold:.3f}"}
    yield "NM", text.coded(PROBABILITY), place, f"{finding.probability:.4f}", probability


def _numbered(observations: Sequence[_Observation], report: Report) -> Iterator[str]:
    moment, device = _moment(report.analysed_at), escape(report.device, _LONGEST)
    method = "^".join(
        (escape(report.model, 20), escape(f"{report.model} {report.model_version}", _LONGEST), "99RADNODE")
    )
    for number, (kind, code, place, value, more) in enumerate(observations, 1):
        fields = {1: str(number), 2: kind, 3: code, 4: place, 5: value, 11: "P", 14: moment, 17: method, 18: device}
        yield segment("OBX", fields | more)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def _study_moment(day: str, clock: str) -> str:
    """DICOM's DA and TM as a TS, as exact as they are, in the time of whoever wrote them."""
    if not _DAY.fullmatch(day):
        return ""
    match = _CLOCK.fullmatch(clock)
    # A TS has minutes where it has hours.
    return day + (match[1] + (match[2] or "00") + (match[3] or "") if match else "")


def _finished(segments: Sequence[str], character_set: str, *, as_segments: bool = False) -> bytes:
    """The message as bytes, once it has been found valid.

    as_segments: hl7apy wants all alternatives of ORM^O01's detail segment at once; there each segment is judged alone.
    """
    text = "\r".join(segments) + "\r"
    strict: dict[str, Any] = {"version": VERSION, "validation_level": VALIDATION_LEVEL.STRICT}
    try:
        if as_segments:
            valid = all(parse_segment(one, **strict).validate() for one in segments[1:])
        else:
            valid = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    except (HL7apyException, ValueError) as error:
        # What it says quotes the message.
        raise UnsendableResult(f"no valid HL7 {VERSION} message can be made of it ({type(error).__name__})") from error
    if not valid:
        raise UnsendableResult(f"no valid HL7 {VERSION} message can be made of it")
    return text.encode(CODECS[character_set])
