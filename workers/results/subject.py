"""Patient, study and order of the source, carried over byte for byte where that is legal.

An archive files a result by these values, so none is ever altered: a value is copied exactly, or it is left out (empty
where the standard wants the attribute). A shortened identifier could be another patient's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from db.errors import UnreadableError
from db.identities import Correction
from node.character_sets import decode_extended
from workers.results.source import character_sets, raw_bytes
from workers.results.texts import long_string

ACCESSION_NUMBER = 0x00080050
_OFFSET_FROM_UTC = 0x00080201
_IDENTITY_REMOVED, _REMOVED_HOW = 0x00120062, 0x00120063

# Type 2 in both objects: empty where the source has nothing legal.
_ALWAYS = {
    0x00080020: "DA",  # Study Date
    0x00080030: "TM",  # Study Time
    ACCESSION_NUMBER: "SH",
    0x00080090: "PN",  # Referring Physician's Name
    0x00100010: "PN",  # Patient's Name
    0x00100020: "LO",  # Patient ID
    0x00100030: "DA",  # Patient's Birth Date
    0x00100040: "CS",  # Patient's Sex
    0x00200010: "SH",  # Study ID
}
_WHERE_PRESENT = {
    0x00081030: "LO",  # Study Description
    0x00100021: "LO",  # Issuer of Patient ID
    0x00101010: "AS",  # Patient's Age
    _OFFSET_FROM_UTC: "SH",
    _IDENTITY_REMOVED: "CS",
    _REMOVED_HOW: "LO",
}
_TERMS = {0x00100040: frozenset({"M", "F", "O"}), _IDENTITY_REMOVED: frozenset({"YES", "NO"})}

# PS3.3 C.12.1.1.2, tables C.12-2 to C.12-5.
_SINGLE = frozenset(
    ["ISO_IR 6", "ISO_IR 13", "ISO_IR 166", "ISO_IR 192", "GB18030", "GBK"]
    + [f"ISO_IR {n}" for n in (100, 101, 109, 110, 126, 127, 138, 144, 148, 203)]
)
_EXTENDED = frozenset(
    ["ISO 2022 IR 6", "ISO 2022 IR 13", "ISO 2022 IR 166", "ISO 2022 IR 87", "ISO 2022 IR 159"]
    + [f"ISO 2022 IR {n}" for n in (100, 101, 109, 110, 126, 127, 138, 144, 148, 149, 58, 203)]
)
_UTF8, _LATIN = ("ISO_IR 192",), ("ISO_IR 100",)
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?")
_AGE = re.compile(r"\d{3}[DWMY]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_OFFSET = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")


Values = tuple[tuple[int, str, bytes], ...]


@dataclass(frozen=True)
class Superseded:
    """Values that were changed after the images were made: when, and by which system's word."""

    values: Values
    at: datetime
    by: str


@dataclass(frozen=True)
class Subject:
    """What results inherit: values as (tag, VR, bytes of even length), and the character set those bytes are in."""

    values: Values
    character_set: tuple[str, ...]
    superseded: Superseded | None = None

    @property
    def holds_unicode(self) -> bool:
        return self.character_set == _UTF8

    def value(self, tag: int) -> bytes:
        return next((value for known, _, value in self.values if known == tag), b"")

    def apply(self, dataset: Dataset) -> None:
        """Write every value into a data set, and say in which character set."""
        if self.character_set:
            dataset.SpecificCharacterSet = list(self.character_set)
        elif "SpecificCharacterSet" in dataset:
            del dataset.SpecificCharacterSet
        for tag, vr, value in self.values:
            put_raw(dataset, tag, vr, value)
        if self.superseded is not None:
            dataset.OriginalAttributesSequence = [self._original(self.superseded)]

    def _original(self, superseded: Superseded) -> Dataset:
        """PS3.3 C.12.1: what the images said, so that nobody takes the change for a mix-up."""
        before = Dataset()
        for tag, vr, value in superseded.values:
            put_raw(before, tag, vr, value)
        item = Dataset()
        item.SourceOfPreviousValues = ""
        item.AttributeModificationDateTime = superseded.at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
        item.ModifyingSystem = long_string(superseded.by, self.holds_unicode)
        item.ReasonForTheAttributeModification = "COERCE"
        item.ModifiedAttributesSequence = [before]
        return item

    def local(self, moment: datetime) -> datetime:
        """An aware moment on the clock that the source's own dates are on, where the source says which."""
        match = _OFFSET.fullmatch(self.value(_OFFSET_FROM_UTC).decode("ascii").strip())
        if match is None:
            return moment
        minutes = int(match[2]) * 60 + int(match[3])
        return moment.astimezone(timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes)))


def put_raw(dataset: Dataset, tag: int, vr: str, value: bytes) -> None:
    """Set an element whose bytes are written as they are."""
    dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def read_subject(header: Dataset) -> Subject:
    """Copy what is legal from a source's header."""
    wanted = _ALWAYS | _WHERE_PRESENT
    found = {tag: raw_bytes(header, tag).rstrip(b" \0") for tag in wanted}
    chosen = _character_set(character_sets(header), [v for t, v in found.items() if wanted[t] in {"SH", "LO", "PN"}])
    values: list[tuple[int, str, bytes]] = []
    for tag, vr in wanted.items():
        kept = found[tag] if _legal(tag, vr, found[tag], chosen) else b""
        if kept or tag in _ALWAYS:
            values.append((tag, vr, _exact(raw_bytes(header, tag), kept)))
    return Subject(_complete(values), chosen)


def _exact(raw: bytes, kept: bytes) -> bytes:
    """The source's own padding where it is legal, else one space to an even length."""
    if kept and len(raw) % 2 == 0 and not raw.endswith(b"\0"):
        return raw
    return kept + b" " * (len(kept) % 2)


def _complete(values: list[tuple[int, str, bytes]]) -> tuple[tuple[int, str, bytes], ...]:
    """A removed identity has to say how it was removed (PS3.3 C.7.1.1, Type 1C)."""
    present = {tag: value for tag, _, value in values}
    if present.get(_IDENTITY_REMOVED, b"").strip() == b"YES" and _REMOVED_HOW not in present:
        values.append((_REMOVED_HOW, "LO", b"see source images "))
    return tuple(values)


def _character_set(declared: Sequence[str], texts: Sequence[bytes]) -> tuple[str, ...]:
    """The declared one, if the texts really are in it; else the one that makes their bytes legal."""
    if all(text.isascii() and b"\x1b" not in text for text in texts):
        return tuple(declared) if declared and _known(declared) else ()
    candidates = [tuple(declared)] if declared and _known(declared) else []
    for candidate in (*candidates, _UTF8):
        if all(_decoded(text, candidate) is not None for text in texts):
            return candidate
    return _LATIN


def _known(declared: Sequence[str]) -> bool:
    if len(declared) == 1:
        return declared[0] in _SINGLE | _EXTENDED
    return declared[0] in _EXTENDED | {""} and all(name in _EXTENDED for name in declared[1:])


def _decoded(raw: bytes, character_set: Sequence[str]) -> str | None:
    """None where the bytes are not in the character set."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    if not character_set:
        return None
    # pydicom warns and guesses where a value is not in its character set; here that means "no".
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            encodings = convert_encodings(list(character_set))
            if len(encodings) == 1:
                return raw.decode(encodings[0], "strict")
            return decode_extended(raw, encodings, TEXT_VR_DELIMS | PN_DELIMS)
        except (UnicodeError, LookupError, ValueError, Warning):
            return None


def _legal(tag: int, vr: str, raw: bytes, character_set: Sequence[str]) -> bool:
    text = _decoded(raw, character_set)
    if not text or _CONTROL.search(text) or "\\" in text:
        return False
    if tag in _TERMS:
        return text in _TERMS[tag]
    if tag == _OFFSET_FROM_UTC:
        return _OFFSET.fullmatch(text) is not None
    return _RULES[vr](text)


def _is_name(text: str) -> bool:
    """PS3.5 section 6.2: three groups of at most 64 characters, each of five components."""
    groups = text.split("=")
    return len(groups) <= 3 and all(len(group) <= 64 and group.count("^") <= 4 for group in groups)


def _is_day(text: str) -> bool:
    if re.fullmatch(r"\d{8}", text) is None:
        return False
    try:
        datetime(int(text[:4]), int(text[4:6]), int(text[6:]))  # noqa: DTZ001  # a day has no time zone
    except ValueError:
        return False
    return True


_RULES: dict[str, Callable[[str], bool]] = {
    "PN": _is_name,
    "DA": _is_day,
    "SH": lambda text: len(text) <= 16,
    "LO": lambda text: len(text) <= 64,
    "TM": lambda text: _TIME.fullmatch(text) is not None,
    "AS": lambda text: _AGE.fullmatch(text) is not None,
}


def corrected(subject: Subject, correction: Correction) -> Subject:
    """The subject with an identity that was changed after its images were made.

    Raises:
        UnreadableError: DICOM cannot hold a value of it. Cut to fit, it could be another patient's.
    """
    now = correction.identity
    told = {0x00100020: now.patient_id, 0x00100021: now.issuer, 0x00100010: now.name}
    told |= {0x00100030: now.birth_date, 0x00100040: now.sex}
    wanted = _ALWAYS | _WHERE_PRESENT
    given = {tag: value for tag, value in told.items() if value}
    for tag, value in given.items():
        if not _legal(tag, wanted[tag], value.encode(), _UTF8):
            raise UnreadableError("the identity that an HL7 message gave the patient cannot be written in DICOM")
    made = subject if all(value.isascii() for value in given.values()) else _in_unicode(subject)
    before = {tag: (vr, value) for tag, vr, value in made.values}
    old = {tag: before.get(tag, (wanted[tag], b"")) for tag in sorted(given)}
    changed = {tag: _even(value) for tag, value in given.items() if old[tag][1].rstrip(b" ") != value.encode()}
    if not changed:
        return subject
    kept = [one for one in made.values if one[0] not in changed]
    values = sorted([*kept, *((tag, wanted[tag], value) for tag, value in changed.items())])
    superseded = tuple((tag, *old[tag]) for tag in sorted(changed))
    return Subject(tuple(values), made.character_set, Superseded(superseded, correction.at, correction.sender))


def _even(text: str) -> bytes:
    value = text.encode()
    return value + b" " * (len(value) % 2)


def _in_unicode(subject: Subject) -> Subject:
    """All values in UTF-8. They are legal in their character set, or would not be there."""
    texts = {"SH", "LO", "PN"}
    values = tuple(
        (
            tag,
            vr,
            _even((_decoded(value, subject.character_set) or "").rstrip()) if vr in texts else value,
        )
        for tag, vr, value in subject.values
    )
    return Subject(values, _UTF8)
