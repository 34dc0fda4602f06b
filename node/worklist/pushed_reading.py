"""What peers say of work items, read from their data sets and held against PS3.4 table CC.2.5-3."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from db import workitem_rules as rules
from db.dicom_json import Json, element, items, text, values
from db.errors import RefusedError
from db.states import WorkitemState
from db.workitems import NewWorkitem
from node.commitment import MALFORMED, decode
from node.dataset_source import IMPLICIT_VR_LITTLE_ENDIAN, HeaderError
from node.statuses import Status
from node.worklist.work_items import NotPerformable, named_input

MOST_BYTES = 1 << 19
"""Longest data set of an operation on a work item; a named instance takes some 150."""

_MOST_DEEP = 12
# Each is held against each item on the worklist.
_MOST_KEY_VALUES = 1000
_START = "00404005"
_ONE = (rules.LABEL, _START, rules.PRIORITY, rules.READINESS, rules.STATE)
_TWO = (
    rules.WORKLIST_LABEL,
    "00741210",
    rules.STATION_NAME,
    "00404026",
    "00404027",
    rules.WORKITEM_CODE,
    "00400400",
    rules.INPUT,
    "00100010",
    "00100020",
    "00100030",
    "00100040",
    "00380010",
    "00380014",
    "00081080",
    "00081084",
    "0040A370",
    rules.PROGRESS_INFORMATION,
    rules.PERFORMED,
)
_READINESS = frozenset({"INCOMPLETE", "UNAVAILABLE", rules.READY})
# Set by creation, or by N-ACTION, and by nothing else; what a work item is about does not change under its performer.
_FIXED = (rules.SOP_CLASS, rules.SOP_INSTANCE, rules.STATE, rules.STUDY, rules.INPUT)
_CHARACTER_SET = "00080005"
_CODES = (rules.STATION_NAME, rules.WORKITEM_CODE)


class WorkitemRefused(RefusedError):
    """Carries the status to answer. The text is the error comment: it names attributes, and never their values."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Pushed:
    """A work item to be created. modified: attributes that it lacked were put in, without a value."""

    new: NewWorkitem
    modified: bool


def created(found: Dataset, uid: str, *, created_by: str, own_ae: str, study_for_s: float, now: datetime) -> Pushed:
    """The attribute list of an N-CREATE. Raises WorkitemRefused."""
    attributes = as_json(found)
    if text(attributes, rules.TRANSACTION):
        raise _invalid(rules.TRANSACTION, "has to be empty")
    for tag in _ONE:
        _require(attributes, tag)
    if text(attributes, rules.STATE) != WorkitemState.SCHEDULED:
        raise WorkitemRefused(rules.UpsStatus.NOT_SCHEDULED, "ProcedureStepState is not SCHEDULED")
    _check_words(attributes)
    for tag in _CODES:
        _check_codes(attributes, tag)
    study, instances = _input(found)
    lacking = [tag for tag in _TWO if tag not in attributes]
    attributes |= {tag: {"vr": dictionary_VR(tag)} for tag in lacking}
    if not text(attributes, rules.WORKLIST_LABEL):
        attributes[rules.WORKLIST_LABEL] = element("LO", own_ae)
    attributes |= {
        rules.SOP_CLASS: element("UI", rules.PUSH_CLASS),
        rules.SOP_INSTANCE: element("UI", uid),
        rules.STUDY: element("UI", study),
        rules.MODIFIED_AT: element("DT", rules.date_time(now)),
    }
    attributes.pop(rules.TRANSACTION, None)
    new = NewWorkitem(
        sop_instance_uid=uid,
        study_instance_uid=study,
        data=attributes,
        created_by=created_by,
        priority=rules.PRIORITIES[text(attributes, rules.PRIORITY)],
        instances=instances,
        expires_at=now + timedelta(seconds=study_for_s),
        ready=text(attributes, rules.READINESS) == rules.READY,
    )
    return Pushed(new, bool(lacking))


def changes(found: Dataset) -> tuple[Json, str]:
    """The modification list of an N-SET, and the Transaction UID it comes under. Raises WorkitemRefused."""
    attributes = as_json(found)
    for tag in _FIXED:
        if tag in attributes:
            raise _invalid(tag, "is not changed by N-SET")
    lock = text(attributes, rules.TRANSACTION)
    attributes.pop(rules.TRANSACTION, None)
    for tag in _ONE:
        if tag in attributes:
            _require(attributes, tag)
    _check_words(attributes)
    for tag in _CODES:
        _check_codes(attributes, tag)
    return attributes, lock


def keys(found: Dataset) -> Json:
    """The keys of a query or of a filter. Raises WorkitemRefused."""
    attributes = as_json(found)
    if _values_in(attributes) > _MOST_KEY_VALUES:
        raise WorkitemRefused(Status.RESOURCE_LIMITATION, f"has keys of more than {_MOST_KEY_VALUES} values")
    return attributes


def _values_in(attributes: Json) -> int:
    """Items and their values included."""
    inner = sum(_values_in(item) for tag in attributes for item in items(attributes, tag))
    return inner + sum(len(values(attributes, tag)) for tag in attributes)


def decoded(data: bytes, transfer_syntax: str) -> Dataset:
    """A data set that came with a command; its values are read at their access. Raises WorkitemRefused."""
    try:
        return decode(data, transfer_syntax)
    except (HeaderError, *MALFORMED) as error:
        raise WorkitemRefused(Status.PROCESSING_FAILURE, f"cannot be read ({type(error).__name__})") from error


def encoded(data: Json, transfer_syntax: str) -> bytes:
    """A data set of the record in one of the native little endian syntaxes, in UTF-8.

    Raises one of `node.commitment.MALFORMED` where it cannot be.
    """
    with warnings.catch_warnings(action="ignore"):
        found = Dataset.from_json(data)
        found.SpecificCharacterSet = "ISO_IR 192"
        written = encode(found, transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN, True)
    if written is None:
        raise ValueError("the data set cannot be encoded")
    return written


def as_json(found: Dataset) -> Json:
    """A data set as the record holds it: bounded, in Unicode, fit to be written again. Raises WorkitemRefused."""
    try:
        with warnings.catch_warnings(action="ignore"):
            attributes = found.to_json_dict()
        written = json.dumps(attributes, allow_nan=False)
    except MALFORMED as error:
        raise WorkitemRefused(Status.INVALID_VALUE, f"has a value that is none ({type(error).__name__})") from error
    if len(written) > rules.MOST_CHARACTERS:
        raise WorkitemRefused(Status.RESOURCE_LIMITATION, "is too long")
    if _depth(attributes) > _MOST_DEEP:
        raise WorkitemRefused(Status.INVALID_VALUE, f"has sequences nested more than {_MOST_DEEP} deep")
    attributes.pop(_CHARACTER_SET, None)
    try:
        encoded(attributes, IMPLICIT_VR_LITTLE_ENDIAN)
    except MALFORMED as error:
        raise WorkitemRefused(Status.INVALID_VALUE, f"has a value that is none ({type(error).__name__})") from error
    return attributes


def _depth(attributes: Json) -> int:
    """Of nested sequences; goes no deeper than it has to."""
    level, depth = [attributes], 0
    while level and depth <= _MOST_DEEP:
        level = [item for one in level for tag in one for item in items(one, tag) if one[tag].get("vr") == "SQ"]
        depth += 1
    return depth


def _require(attributes: Json, tag: str) -> None:
    if tag not in attributes:
        raise WorkitemRefused(Status.MISSING_ATTRIBUTE, f"{keyword_for_tag(tag)} is missing")
    if not text(attributes, tag):
        raise WorkitemRefused(Status.MISSING_VALUE, f"{keyword_for_tag(tag)} has no value")


def _check_words(attributes: Json) -> None:
    for tag, words in ((rules.PRIORITY, set(rules.PRIORITIES)), (rules.READINESS, _READINESS)):
        if tag in attributes and text(attributes, tag) not in words:
            raise _invalid(tag, "is none of its terms")


def _check_codes(attributes: Json, tag: str) -> None:
    """PS3.4 table CC.2.5-2a: each item has a code, its scheme, and a meaning."""
    if values(attributes, tag) and attributes[tag].get("vr") != "SQ":
        raise _invalid(tag, "is no sequence")
    for item in items(attributes, tag):
        if not text(item, "00080104") or not any(text(item, code) for code in ("00080100", "00080119", "00080120")):
            raise _invalid(tag, "has an item without code or meaning")


def _input(found: Dataset) -> tuple[str, tuple[str, ...]]:
    try:
        with warnings.catch_warnings(action="ignore"):
            study, instances = named_input(found)
    except NotPerformable as error:
        raise WorkitemRefused(Status.INVALID_VALUE, f"InputInformationSequence: {error}") from error
    except MALFORMED as error:
        raise _invalid(rules.INPUT, "cannot be read") from error
    return study, instances


def _invalid(tag: str, why: str) -> WorkitemRefused:
    return WorkitemRefused(Status.INVALID_VALUE, f"{keyword_for_tag(tag)} {why}")
