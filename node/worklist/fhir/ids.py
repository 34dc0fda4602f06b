"""Ids of resources: the same for the same work however often it is run, and the way back from them. Pure.

They follow from DICOM identifiers: a report's from the UID of its structured report, which itself follows from study,
model and settings; a study's is its UID, a model's the digest of its bundle. A Task is this node's own piece of work.
"""

from __future__ import annotations

import hashlib
import re
import uuid

from node.uids import valid_uid

_FROM_UUID = "2.25."
_OBSERVATION = re.compile(r"(.+)-([0-9a-f]{16})")


def report_id(report_uid: str) -> str:
    """Of the DiagnosticReport that says what a structured report says: its UID as a UUID (PS3.5 B.2)."""
    tail = report_uid.removeprefix(_FROM_UUID)
    if tail != report_uid and tail.isdigit() and int(tail) < 2**128 and str(int(tail)) == tail:
        return str(uuid.UUID(int=int(tail)))
    return report_uid


def report_uid(resource_id: str) -> str:
    """The UID that `report_id` was made from; "" for what is none."""
    if valid_uid(resource_id):
        return resource_id
    try:
        found = uuid.UUID(resource_id)
    except ValueError:
        return ""
    return f"{_FROM_UUID}{found.int}" if str(found) == resource_id else ""


def observation_id(report: str, subject_uid: str, label: str) -> str:
    """Of one finding in one image or series: the report's id, short, and 64 bits of what it is of.

    report: a `report_id`. subject_uid: of the image, or of the series. label: the model's own name of the finding.
    """
    digest = hashlib.sha256("\0".join((report, subject_uid, label)).encode("utf-8", "surrogatepass")).hexdigest()
    # A UID may be as long as an id.
    return f"{report[:47]}-{digest[:16]}"


def report_of_observation(resource_id: str) -> str:
    """The id of the report that an Observation is part of; "" for what is none."""
    found = _OBSERVATION.fullmatch(resource_id)
    return found[1] if found else ""
