"""Does a work item match the keys of a query? (PS3.4 C.2.2.2, CC.2.8.) Pure, over the DICOM JSON model."""

from __future__ import annotations

import re
from typing import Any

from db.dicom_json import Json, items, values

# Of a query's pattern, and of a value that it is held against.
_LONGEST = 1024
_MOST_ITEMS = 100
_RANGES = frozenset({"DA", "TM", "DT"})
_WILD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})


def matches(query: Json, data: Json) -> bool:
    """Whether every key of the query that has a value matches. Of a sequence one item has to match all keys of it."""
    return all(_matches(key, data.get(tag) or {}) for tag, key in query.items() if isinstance(key, dict))


def _matches(key: Json, found: Json) -> bool:
    vr = key.get("vr")
    wrapped_key, wrapped = {"": key}, {"": found}
    if vr == "SQ":
        inner = items(wrapped_key, "")[:1]
        if not inner or not _has_value(inner[0]):
            return True
        return any(matches(inner[0], item) for item in items(wrapped, "")[:_MOST_ITEMS])
    wanted = [_text(one) for one in values(wrapped_key, "") if _text(one)]
    if not wanted:
        return True
    held = [_text(one) for one in values(wrapped, "")[:_MOST_ITEMS]]
    return any(_equal(str(vr), one, other) for one in wanted for other in held)


def _has_value(query: Json) -> bool:
    return any(values(query, tag) for tag in query)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = "=".join(str(value.get(part) or "") for part in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    return "" if value is None else str(value).strip()[:_LONGEST]


def _equal(vr: str, wanted: str, held: str) -> bool:
    if vr in _RANGES and "-" in wanted and not _is_offset(vr, wanted):
        first, _, last = wanted.partition("-")
        # The end of a range takes in all that begins like it: a day takes in its hours.
        return bool(held) and (not first or held >= first) and (not last or held[: len(last)] <= last)
    if vr in _RANGES:
        return held.startswith(wanted)
    if vr == "PN":
        # Names match whatever their case (PS3.4 C.2.2.2.1), and without their trailing empty components.
        wanted, held = wanted.rstrip("^").casefold(), held.rstrip("^").casefold()
    if vr in _WILD and ("*" in wanted or "?" in wanted):
        return _wild(wanted, held)
    return wanted == held


def _is_offset(vr: str, wanted: str) -> bool:
    """A minus sign before the offset from UTC is no range."""
    return vr == "DT" and re.fullmatch(r"[0-9.]{4,21}-[0-9]{4}", wanted) is not None and len(wanted) >= 19


def _wild(wanted: str, held: str) -> bool:
    """Match stars and question marks, in time of no more than the two lengths multiplied, whatever a peer writes."""
    at = star = -1
    i = j = 0
    while j < len(held):
        if i < len(wanted) and wanted[i] == "*":
            star, at, i = i, j, i + 1
        elif i < len(wanted) and wanted[i] in ("?", held[j]):
            i, j = i + 1, j + 1
        elif star >= 0:
            # The last star takes in one character more.
            at += 1
            i, j = star + 1, at
        else:
            return False
    return all(rest == "*" for rest in wanted[i:])
