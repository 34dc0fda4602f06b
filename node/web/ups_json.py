"""What UPS-RS exchanges: DICOM JSON in requests, keys of queries in URLs (PS3.18 8.3.4 and F.2). Pure."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from db import workitem_rules as rules
from db.dicom_json import Json
from node.commitment import MALFORMED
from node.web.problems import Problem

MEDIA_TYPE = "application/dicom+json"
# What JSON is called by programs that know no better; XML is neither taken nor given.
_TAKEN = frozenset({MEDIA_TYPE, "application/json"})
_GIVEN = frozenset({*_TAKEN, "application/*", "*/*"})
# A data set's nested sequences, with the objects and lists that JSON makes of each.
_MOST_DEEP = 64
_MOST_KEYS, _MOST_VALUES = 32, 100
_MOST_ANSWERS, _ANSWERS, _FURTHEST = 200, 100, 10_000
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_OTHER = frozenset({"limit", "offset", "fuzzymatching", "includefield"})

RETURNED = (
    rules.SOP_CLASS,
    rules.SOP_INSTANCE,
    rules.STATE,
    rules.PRIORITY,
    rules.LABEL,
    rules.WORKLIST_LABEL,
    rules.READINESS,
    rules.STATION_NAME,
    rules.WORKITEM_CODE,
    rules.PROGRESS_INFORMATION,
    rules.STUDY,
    rules.MODIFIED_AT,
    "00404005",  # Scheduled Procedure Step Start DateTime
    "00100010",
    "00100020",
    "00100030",
    "00100040",
)
"""Attributes of each answer to a search, beside those that were asked for."""


@dataclass(frozen=True)
class Search:
    """A query of work items. wanted: tags of the answers, None for all. fuzzy: was asked for, and is not done."""

    query: Json = field(default_factory=dict)
    wanted: frozenset[str] | None = frozenset()
    limit: int = _ANSWERS
    offset: int = 0
    fuzzy: bool = False


def require_given(accept: str) -> None:
    """Raise Problem 406 where a client takes no JSON."""
    asked = {part.partition(";")[0].strip().lower() for part in accept.split(",")} - {""}
    if asked and not asked & _GIVEN:
        raise Problem(406, f"work items are given as {MEDIA_TYPE} only")


def require_taken(content_type: str) -> None:
    """Raise Problem 415 where a body is no JSON."""
    if content_type.partition(";")[0].strip().lower() not in _TAKEN:
        raise Problem(415, f"work items are taken as {MEDIA_TYPE} only; XML is not")


def read(body: bytes) -> Dataset:
    """The one data set of a request, by itself or in a list. Raises Problem."""
    try:
        found = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Problem(400, "the request is no JSON in UTF-8") from error
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict) or _too_deep(found):
        raise Problem(400, "the request holds no data set in DICOM JSON, or more than one")
    if not all(isinstance(tag, str) and _TAG.fullmatch(tag) for tag in found):
        raise Problem(400, "the request has an attribute whose tag is not eight hexadecimal digits")
    try:
        with warnings.catch_warnings(action="ignore"):
            # Bulk data would have to be fetched from wherever the client says.
            return Dataset.from_json({tag.upper(): one for tag, one in found.items()})
    except MALFORMED as error:
        raise Problem(400, f"the request is no data set in DICOM JSON ({type(error).__name__})") from error


def _too_deep(found: object) -> bool:
    level: list[object] = [found]
    for _ in range(_MOST_DEEP):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def search(parameters: Iterable[tuple[str, str]]) -> Search:
    """The query of a URL: attributes by keyword or tag, those of a sequence's items after a dot. Raises Problem."""
    query: Json = {}
    asked: set[str] = set()
    everything, other = False, dict[str, str]()
    for count, (name, value) in enumerate(parameters):
        if count >= _MOST_KEYS:
            raise Problem(400, f"a search has at most {_MOST_KEYS} parameters")
        if name == "includefield":
            everything |= value == "all"
            asked |= {_path(one)[0] for one in value.split(",") if value != "all"}
        elif name in _OTHER:
            other[name] = value
        else:
            path = _path(name)
            _put(query, path, value)
            asked.add(path[0])
    return Search(
        query,
        None if everything else frozenset({*RETURNED, *asked} - {rules.TRANSACTION}),
        limit=min(_number(other.get("limit", str(_ANSWERS)), "limit", least=1), _MOST_ANSWERS),
        offset=_number(other.get("offset", "0"), "offset", least=0),
        fuzzy=other.get("fuzzymatching", "false").lower() == "true",
    )


def _path(name: str) -> list[str]:
    tags = []
    for part in name.split("."):
        tag = int(part, 16) if _TAG.fullmatch(part) else tag_for_keyword(part)
        if tag is None or not keyword_for_tag(tag):
            raise Problem(400, "a search names an attribute that DICOM does not know")
        tags.append(f"{tag:08X}")
    if tags[0] == rules.TRANSACTION:
        raise Problem(400, "a Transaction UID is known to its performer alone, and is no key")
    return tags


def _put(query: Json, path: list[str], value: str) -> None:
    """A key of a sequence goes into the query's one item of it."""
    for tag in path[:-1]:
        if dictionary_VR(int(tag, 16)) != "SQ":
            raise Problem(400, "a search looks into an attribute that is no sequence")
        query = query.setdefault(tag, {"vr": "SQ", "Value": [{}]})["Value"][0]
    vr = dictionary_VR(int(path[-1], 16))
    if vr == "SQ":
        raise Problem(400, "a search matches the attributes of a sequence's items: Sequence.Attribute")
    # A comma is a list of UIDs, and a character of every other value.
    found = re.split(r"[,\\]", value) if vr == "UI" else [value]
    if len(found) > _MOST_VALUES:
        raise Problem(400, f"a search has at most {_MOST_VALUES} UIDs for a key")
    query[path[-1]] = {"vr": vr, "Value": [{"Alphabetic": one} for one in found] if vr == "PN" else found}


def _number(text: str, name: str, *, least: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not least <= int(text) <= _FURTHEST:
        raise Problem(400, f"{name} is a number from {least} to {_FURTHEST}")
    return int(text)
