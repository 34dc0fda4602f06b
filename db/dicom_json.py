"""Reading and writing data sets in the DICOM JSON model (PS3.18 F.2): a mapping of tags to VR and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
"""{"00100020": {"vr": "LO", "Value": ["ID-1"]}}; tags as eight upper-case hexadecimal digits."""


def values(data: Json, tag: str) -> list[Any]:
    """The values of an attribute; none where it is absent or empty."""
    element = data.get(tag)
    found = element.get("Value") if isinstance(element, dict) else None
    return found if isinstance(found, list) else []


def text(data: Json, tag: str) -> str:
    """The first value as text, "" where there is none; of a name its alphabetic group."""
    found = values(data, tag)
    first = found[0] if found else None
    if isinstance(first, dict):
        first = first.get("Alphabetic")
    return "" if first is None else str(first).strip()


def items(data: Json, tag: str) -> list[Json]:
    """The items of a sequence."""
    return [one for one in values(data, tag) if isinstance(one, dict)]


def element(vr: str, *found: Any) -> Json:
    """An attribute with these values; without a value it is empty."""
    return {"vr": vr, "Value": list(found)} if found else {"vr": vr}


def sequence(found: Sequence[Json] = ()) -> Json:
    """A sequence of these items."""
    return element("SQ", *found)


def code(value: str, scheme: str, meaning: str) -> Json:
    """An item of a code sequence (PS3.3 table 8.8-1a)."""
    return {
        "00080100": element("SH", value),
        "00080102": element("SH", scheme),
        "00080104": element("LO", meaning),
    }
