"""ER7, the text form of HL7 v2 messages (HL7 v2.5.1 chapter 2): escaping, taking apart, character sets.

What is sent is written with the recommended delimiters; what comes in may have named others in MSH-1 and MSH-2. hl7apy
takes a text that looks like an escape sequence for one, so escaping is done here, before a value meets it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from db.errors import RefusedError

# Table 0211 to Python's codecs.
CODECS = {
    "ASCII": "ascii",
    **{f"8859/{n}": f"iso8859-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "UNICODE UTF-8": "utf-8",
}
# What senders of the field write instead.
_ALSO = {"UTF-8": "utf-8", "UTF8": "utf-8", "UNICODE": "utf-8", "ISO IR100": "iso8859-1", "ISO_IR 100": "iso8859-1"}

# Section 2.7.1. The escape character comes first: those of the others must not be escaped again.
_ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"})
# Nothing of a value may end a segment, a block of MLLP or a line of a log; halves of surrogate pairs have no encoding.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]+")
_SEGMENT_NAME = re.compile("[A-Z][A-Z0-9]{2}")
_HEX = re.compile("(?:[0-9A-Fa-f]{2})+")
_MOST_SEGMENTS = 2000
_LONGEST_HEAD = 8192


class UnusableMessage(RefusedError):
    """A message that is not taken as it is. `code`: of table 0357, for the answer."""

    code = ("101", "Required field missing")


class MalformedMessage(UnusableMessage):
    """What came in is no HL7 v2 message that could be read."""

    code = ("102", "Data type error")


class UnsupportedMessage(UnusableMessage):
    """A message of a kind that this node does not take."""

    code = ("200", "Unsupported message type")


def clean(text: str) -> str:
    """One line without control characters."""
    return _CONTROL.sub(" ", text).strip()


def escape(text: str, longest: int | None = None) -> str:
    """A value as one sub-component can hold it. longest: in characters of the escaped text; no sequence is cut."""
    escaped = clean(text).translate(_ESCAPES)
    if longest is None or len(escaped) <= longest:
        return escaped
    kept, length = [], 0
    for character in clean(text):
        part = character.translate(_ESCAPES)
        length += len(part)
        if length > longest:
            break
        kept.append(part)
    return "".join(kept)


def segment(name: str, fields: dict[int, str]) -> str:
    """A segment of fields that are escaped already, by their numbers; empty ones at the end are left out."""
    last = max((number for number, value in fields.items() if value), default=0)
    return "|".join([name, *(fields.get(number, "") for number in range(1, last + 1))])


def join(parts: Sequence[str], delimiter: str) -> str:
    """Components (or the like) without the empty ones at the end."""
    return delimiter.join(parts).rstrip(delimiter)


@dataclass(frozen=True)
class Delimiters:
    """Those of MSH-1 and MSH-2. "" where the message names none for that place."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    def unescape(self, text: str) -> str:
        """A value as it was meant. Sequences that say nothing of the text (highlighting, formatting) are left out."""
        if not self.escape or self.escape not in text:
            return text
        parts = text.split(self.escape)
        if len(parts) % 2 == 0:
            # One too many: the last one is the character itself.
            parts = [*parts[:-2], self.escape.join(parts[-2:])]
        return "".join(part if n % 2 == 0 else self._meant(part) for n, part in enumerate(parts))

    def _meant(self, sequence: str) -> str:
        plain = {
            "F": self.field,
            "S": self.component,
            "T": self.subcomponent,
            "R": self.repetition,
            "E": self.escape,
            ".br": " ",
        }
        if sequence in plain:
            return plain[sequence]
        if sequence[:1] == "X" and _HEX.fullmatch(sequence[1:]):
            return bytes.fromhex(sequence[1:]).decode("latin-1")
        return ""


@dataclass(frozen=True)
class Segment:
    """One segment; fields are numbered as in the standard, for MSH, too."""

    name: str
    fields: tuple[str, ...]
    delimiters: Delimiters

    def raw(self, number: int) -> str:
        """A field as it stands; "" where the segment has none, or the "" that means: delete."""
        value = self.fields[number - 1] if 0 < number <= len(self.fields) else ""
        return "" if value == '""' else value

    def repetitions(self, number: int) -> list[str]:
        """The repetitions of a field, as they stand."""
        raw = self.raw(number)
        mark = self.delimiters.repetition
        return [one for one in (raw.split(mark) if mark else [raw]) if one]

    def get(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """A value of the first repetition, unescaped and on one line."""
        first = (self.repetitions(number) or [""])[0]
        return component_of(first, component, subcomponent, self.delimiters)


def component_of(repetition: str, component: int, subcomponent: int, delimiters: Delimiters) -> str:
    """A value of one repetition, unescaped and on one line; "" where it has none."""
    value = _part(_part(repetition, delimiters.component, component), delimiters.subcomponent, subcomponent)
    return "" if value == '""' else clean(delimiters.unescape(value))


def _part(text: str, delimiter: str, number: int) -> str:
    parts = text.split(delimiter) if delimiter else [text]
    return parts[number - 1] if number <= len(parts) else ""


@dataclass(frozen=True)
class Message:
    """A message taken apart. The first segment is MSH."""

    segments: tuple[Segment, ...]

    @property
    def msh(self) -> Segment:
        return self.segments[0]

    @property
    def kind(self) -> str:
        """MSH-9.1^MSH-9.2: "ORM^O01"."""
        return f"{self.msh.get(9, 1)}^{self.msh.get(9, 2)}"

    def first(self, name: str) -> Segment | None:
        return next((one for one in self.segments if one.name == name), None)

    def groups(self, name: str) -> list[list[Segment]]:
        """The segments from each one of that name up to the next of it, or to the end."""
        starts = [n for n, one in enumerate(self.segments) if one.name == name]
        return [list(self.segments[a:b]) for a, b in pairwise([*starts, len(self.segments)])]


def read(data: bytes, assumed: str) -> Message:
    """Take a message apart. assumed: the character set where MSH-18 names none.

    Raises MalformedMessage; its text quotes nothing of the message.
    """
    msh = read_head(data)
    delimiters = msh.delimiters
    try:
        text = data.decode(codec_of(msh.get(18) or assumed))
    except UnicodeDecodeError as error:
        raise MalformedMessage("the message is not in the character set of its MSH-18") from error
    lines = [line for line in re.split("[\r\n]+", text.strip("\r\n")) if line]
    if len(lines) > _MOST_SEGMENTS:
        raise MalformedMessage(f"the message has more than {_MOST_SEGMENTS} segments")
    return Message(tuple(_segment(line, delimiters) for line in lines))


def read_head(data: bytes) -> Segment:
    """MSH alone, as if it were in Latin-1: enough to answer a message that cannot be read. Raises MalformedMessage."""
    head = data[:_LONGEST_HEAD].decode("latin-1").lstrip("\r\n").split("\r", 1)[0].split("\n", 1)[0]
    return _segment(head, _delimiters(head))


def codec_of(name: str) -> str:
    """Python's name of a character set of table 0211. Raises MalformedMessage."""
    codec = CODECS.get(name) or _ALSO.get(name.upper())
    if codec is None:
        raise MalformedMessage("MSH-18 names a character set that this node does not know")
    return codec


def _delimiters(head: str) -> Delimiters:
    if not head.startswith("MSH") or len(head) < 8:
        raise MalformedMessage("the message does not begin with MSH")
    field = head[3]
    named = head[4:].split(field, 1)[0]
    marks = [field, *named]
    if not 3 <= len(marks) <= 6 or len(set(marks)) != len(marks) or any(m.isalnum() or m.isspace() for m in marks):
        raise MalformedMessage("MSH-1 and MSH-2 name no usable delimiters")
    return Delimiters(*marks[:2], *(marks[n] if n < len(marks) else "" for n in (2, 3, 4)))


def _segment(line: str, delimiters: Delimiters) -> Segment:
    name, *fields = line.split(delimiters.field)
    if not _SEGMENT_NAME.fullmatch(name):
        raise MalformedMessage("a line of the message does not begin with the name of a segment")
    # MSH-1 is the delimiter itself.
    return Segment(name, tuple([delimiters.field, *fields] if name == "MSH" else fields), delimiters)
