"""What a search under /fhir/R4 asks for (FHIR R4 3.1.1). Pure.

A parameter that is not known is refused, not passed over: leaving out a condition would tell of more patients.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from db.fhir_view import FINISHED, Key, Wanted
from db.states import JobState
from node.settings_fhir import Fhir
from node.web.problems import Problem
from node.worklist.fhir import ids
from node.worklist.fhir.resources import PRELIMINARY, REPLACED, TASK_STATES

REPORT, FINDING, TASK = "DiagnosticReport", "Observation", "Task"
STUDY, DEVICE = "ImagingStudy", "Device"

# By kind of resource: name and type of each parameter. `study`, a Study Instance UID, is this node's own.
_ALL = {"_id": "token", "_lastUpdated": "date", "status": "token"}
_OF_PATIENTS = {**_ALL, "patient.identifier": "token", "study": "token"}
PARAMETERS: dict[str, dict[str, str]] = {
    REPORT: {**_OF_PATIENTS, "identifier": "token"},
    FINDING: _OF_PATIENTS,
    TASK: _OF_PATIENTS,
    STUDY: {**_OF_PATIENTS, "identifier": "token"},
    DEVICE: {"_id": "token", "identifier": "token", "status": "token"},
}
FORMATS = frozenset({"json", "application/json", "application/fhir+json"})
MOST = 100
_USUAL = 20
_DATE = re.compile(
    r"(eq|ge|gt|le|lt)?(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d))?)?)?"
)
_STATUSES = {STUDY: "available", DEVICE: "active"}
_LONGEST = 200
_ONE = "several values at once are not supported but for status; a comma of a value is written as \\,"


@dataclass(frozen=True)
class Search:
    """resource_id: of `_id`, "" for all. nothing: the conditions exclude each other, or name what is not here.

    page: where the page begins, as the link to it says; "" at the first.
    """

    wanted: Wanted
    resource_id: str = ""
    count: int = _USUAL
    page: str = ""
    nothing: bool = False


def parse(kind: str, given: Iterable[tuple[str, str]], fhir: Fhir) -> Search:
    """Raises Problem for what is not understood."""
    search = Search(Wanted(states=FINISHED if kind in {REPORT, FINDING} else ()))
    seen: set[str] = set()
    for name, value in given:
        if name == "_format":
            require_format(value)
            continue
        if name not in {*PARAMETERS[kind], "_count", "_page"}:
            raise Problem(400, f"a parameter is not supported; {kind} knows: {', '.join(sorted(PARAMETERS[kind]))}")
        if name in seen and name != "_lastUpdated":
            raise Problem(400, f"{name} is given twice")
        if not value or len(value) > _LONGEST or not value.isprintable():
            raise Problem(400, f"{name} has a value that cannot be meant")
        seen.add(name)
        search = _with(search, kind, name, value, fhir)
    return search


def require_format(value: str) -> None:
    """Raises Problem for any but JSON. A space is what a query makes of an unquoted plus."""
    if value.partition(";")[0].strip().replace(" ", "+").lower() not in FORMATS:
        raise Problem(406, "resources are told as application/fhir+json only")


def acceptable(accept: str) -> bool:
    """Whether an Accept header takes FHIR's JSON (RFC 9110 12.5.1); an empty one takes all."""
    for entry in accept.split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        refused = any(re.fullmatch(r"q=0(\.0*)?", one) for one in parameters)
        if not refused and media in {"application/fhir+json", "application/json", "application/*", "*/*"}:
            return True
    return not accept.strip()


def _with(search: Search, kind: str, name: str, value: str, fhir: Fhir) -> Search:
    if name == "_count":
        if not value.isascii() or not value.isdigit() or int(value) < 1:
            raise Problem(400, "_count is a number of at least 1")
        return replace(search, count=min(int(value), MOST))
    if name == "_page":
        return replace(search, page=value)
    if name == "_lastUpdated":
        return replace(search, wanted=_within(search.wanted, value))
    if name == "status":
        return _by_status(search, kind, value)
    if name == "_id":
        if "," in value:
            raise Problem(400, _ONE)
        return replace(_narrowed(search, **_of_id(kind, value)), resource_id=value)
    return _narrowed(search, **_of_identifier(kind, name, value, fhir))


def _narrowed(search: Search, **told: str) -> Search:
    """With these conditions, too; "" is one that nothing fulfils."""
    clash = any(getattr(search.wanted, name) not in ("", value) for name, value in told.items())
    nothing = search.nothing or clash or not all(told.values())
    return replace(search, wanted=replace(search.wanted, **told), nothing=nothing)  # type: ignore[arg-type]


def _of_id(kind: str, value: str) -> dict[str, str]:
    if kind in {REPORT, FINDING}:
        return {"report_uid": ids.report_uid(ids.report_of_observation(value) if kind == FINDING else value)}
    return {{TASK: "job_id", STUDY: "study_uid", DEVICE: "digest"}[kind]: value}


def _of_identifier(kind: str, name: str, value: str, fhir: Fhir) -> dict[str, str]:
    uid = _token(value, "urn:dicom:uid").removeprefix("urn:oid:")
    if name == "study":
        return {"study_uid": uid}
    if name == "patient.identifier":
        return {"patient_id": _token(value, fhir.patient_id_system)}
    if kind == DEVICE:
        return {"digest": _token(value, "urn:radnode:bundle-sha256")}
    if kind == REPORT:
        return {"report_uid": uid}
    # Of a study it is its UID or its accession number.
    return {"numbers": uid or _token(value, fhir.accession_system)}


def _by_status(search: Search, kind: str, value: str) -> Search:
    if "|" in value:
        raise Problem(400, "status is a code, or several with commas, without their system")
    asked = set(value.split(","))
    if kind in {REPORT, FINDING}:
        both = {PRELIMINARY, REPLACED} & asked
        replaced = None if len(both) != 1 else REPLACED in both
        return replace(search, wanted=replace(search.wanted, replaced=replaced), nothing=search.nothing or not both)
    if kind == TASK:
        states = tuple(state for state in JobState if TASK_STATES[state] in asked)
        return replace(search, wanted=replace(search.wanted, states=states), nothing=search.nothing or not states)
    return replace(search, nothing=search.nothing or _STATUSES[kind] not in asked)


def _token(value: str, system: str) -> str:
    """The code of `system|code`, `|code` (of no system) or `code` (of any); "" where the system is another one."""
    parts = _split(value)
    if len(parts) == 1:
        return parts[0]
    return parts[1] if len(parts) == 2 and parts[0] == system else ""


def _split(value: str) -> list[str]:
    """At each bar but those that a backslash escapes (R4 3.1.1.4.0.1). A comma means alternatives: one at a time."""
    parts, escaped = [""], False
    for char in value:
        if not escaped and char == ",":
            raise Problem(400, _ONE)
        if not escaped and char == "|":
            parts.append("")
        elif escaped or char != "\\":
            parts[-1] += char
        escaped = char == "\\" and not escaped
    return parts


def _within(wanted: Wanted, value: str) -> Wanted:
    prefix, begin, end = _interval(value)
    since = {"ge": begin, "gt": end, "eq": begin}.get(prefix)
    before = {"lt": begin, "le": end, "eq": end}.get(prefix)
    return replace(
        wanted,
        since=max((one for one in (wanted.since, since) if one is not None), default=None),
        before=min((one for one in (wanted.before, before) if one is not None), default=None),
    )


def _interval(value: str) -> tuple[str, datetime, datetime]:
    """(prefix, begin, end) of a date as exact as it is (R4 3.1.1.4.7); days and longer are those of UTC."""
    # A plus that was not quoted.
    found = _DATE.fullmatch(value.replace(" ", "+"))
    if found is None:
        raise Problem(400, "_lastUpdated is a date or a moment with its time zone, after eq, ge, gt, le or lt")
    prefix, year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        if hour is not None:
            text = f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}{(fraction or '.0')[:7]:0<7}{zone}"
            begin = datetime.fromisoformat(text).astimezone(UTC)
            exact = timedelta(milliseconds=1) if fraction else timedelta(seconds=1)
            return prefix or "eq", begin, begin + (exact if second else timedelta(minutes=1))
        begin = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        if day is not None:
            return prefix or "eq", begin, begin + timedelta(days=1)
        following = (begin.year + 1, 1) if month is None or begin.month == 12 else (begin.year, begin.month + 1)
        return prefix or "eq", begin, begin.replace(year=following[0], month=following[1])
    except (ValueError, OverflowError) as error:
        raise Problem(400, "_lastUpdated names a day or a time that there is not") from error


def page_of_work(text: str) -> Key | None:
    """Where a page of work begins. Raises Problem."""
    if not text:
        return None
    refused = Problem(400, "_page is what the link to the next page says, and nothing else")
    try:
        revision, model, skip = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise refused from error
    whole = type(revision) is int and type(skip or 0) is int and isinstance(model, str)
    if not whole or not (0 <= revision < 2**62 and 0 <= (skip or 0) < 2**31) or not model.isprintable():
        raise refused
    return Key(revision, model, skip)


def written(key: Key) -> str:
    """As `page_of_work` reads it."""
    told = json.dumps([key.revision_id, key.model, key.skip], separators=(",", ":"))
    return base64.urlsafe_b64encode(told.encode("ascii")).decode("ascii")


def page_of_studies(text: str) -> int | None:
    """Where a page of studies begins. Raises Problem."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Problem(400, "_page is what the link to the next page says, and nothing else")
    return int(text)
