"""An audit row as the XML message of DICOM PS3.15 A.5.1.

Of patients it tells nothing: where A.5.3 asks for the patient of a study, that object says that the number is withheld.
The study's UID leads whoever may know to the patient.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from db.audit import Entry, clean
from node.audit.catalogue import (
    APPLICATION,
    DESTINATION,
    DESTINATION_MEDIA,
    EXPORT,
    LAUNCHER,
    NODE_ID,
    OWN_SCHEME,
    PATIENT_NUMBER,
    SOURCE,
    STUDY_UID,
    URI,
    USER_IDENTIFIER,
    Code,
    Meaning,
    What,
    Who,
    meaning_of,
)
from node.uids import valid_uid

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
WITHHELD = "withheld"
_SUCCESS, _WARNING = "0", "4"
_APPLICATION_SERVER = "4"
_HOST_NAME, _ADDRESS = "1", "2"


@dataclass(frozen=True)
class _Kind:
    """What identifies an object, with its type and role (A.5.1.2)."""

    code: Code
    type: str
    role: str


_STUDY = _Kind(STUDY_UID, "2", "3")  # system object, report
_PATIENT = _Kind(PATIENT_NUMBER, "1", "1")  # person, patient
_ACCOUNT = _Kind(USER_IDENTIFIER, "1", "6")  # person, user
_THIS_NODE = _Kind(NODE_ID, "2", "13")  # system object, security resource
_RESOURCE = _Kind(URI, "2", "13")
_LIST = _Kind(URI, "2", "24")  # system object, query
_LOCKED_OUT = "12"


@dataclass(frozen=True)
class Origin:
    """Who reports. source_id: names this node to the collector; site: the enterprise's part it stands in, or ""."""

    source_id: str
    ae_title: str
    host: str
    site: str = ""


def xml(entry: Entry, origin: Origin) -> str:
    """One AuditMessage, without the XML declaration, on one line."""
    meaning = meaning_of(entry.event)
    root = Element("AuditMessage")
    _event(root, entry, meaning)
    _participants(root, entry, meaning, origin)
    source = SubElement(root, "AuditSourceIdentification", _given(AuditEnterpriseSiteID=origin.site))
    source.set("AuditSourceID", clean(origin.source_id))
    SubElement(source, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    _objects(root, entry, meaning, origin)
    return tostring(root, encoding="unicode")


def _event(root: Element, entry: Entry, meaning: Meaning) -> None:
    event = SubElement(
        root,
        "EventIdentification",
        {
            "EventActionCode": meaning.action,
            "EventDateTime": entry.at.isoformat(timespec="microseconds"),
            "EventOutcomeIndicator": _outcome(entry, meaning),
        },
    )
    _coded(event, "EventID", meaning.event)
    if meaning.type is not None:
        _coded(event, "EventTypeCode", meaning.type)
    _coded(event, "EventTypeCode", Code(entry.event, entry.event.replace("_", " "), OWN_SCHEME))
    reason = entry.detail.get("reason")
    if entry.outcome != "success" and isinstance(reason, str) and reason:
        SubElement(event, "EventOutcomeDescription").text = clean(reason)


def _outcome(entry: Entry, meaning: Meaning) -> str:
    if entry.event == "user_locked":
        return _LOCKED_OUT
    return {"success": _SUCCESS, "warning": _WARNING}.get(entry.outcome, meaning.failure)


def _participants(root: Element, entry: Entry, meaning: Meaning, origin: Origin) -> None:
    address = _text(entry.detail.get("address"))
    match meaning.who:
        case Who.SENDER:
            _participant(root, entry.actor, asked=True, role=SOURCE, address=address, ae_title=entry.actor)
            _node(root, origin, asked=False, role=DESTINATION)
        case Who.APPLICATION:
            _participant(root, entry.actor, asked=True, role=SOURCE, address=address, ae_title="")
            _node(root, origin, asked=False, role=DESTINATION)
        case Who.RECEIVER:
            _node(root, origin, asked=True, role=SOURCE, process=entry.actor)
            name, title = _text(entry.detail.get("destination")), _text(entry.detail.get("ae_title"))
            _participant(root, name, asked=False, role=DESTINATION, address=address, ae_title=title)
        case Who.STARTER:
            _node(root, origin, asked=False, role=APPLICATION, process=entry.subject)
            _participant(root, entry.actor, asked=True, role=LAUNCHER, address="", ae_title="")
        case Who.NODE:
            _node(root, origin, asked=True, role=APPLICATION, process=entry.actor)
        case Who.PERSON:
            role = SOURCE if meaning.event == EXPORT else None
            _participant(root, entry.actor, asked=True, role=role, address=address, ae_title="")
            if meaning.event == EXPORT:
                media = _text(entry.detail.get("destination")) or entry.actor
                _participant(root, media, asked=False, role=DESTINATION_MEDIA, address="", ae_title="")
            _node(root, origin, asked=False, role=APPLICATION)


def _node(root: Element, origin: Origin, *, asked: bool, role: Code, process: str = "") -> None:
    _participant(
        root, process or origin.source_id, asked=asked, role=role, address=origin.host, ae_title=origin.ae_title
    )  # fmt: skip


def _participant(root: Element, user: str, *, asked: bool, role: Code | None, address: str, ae_title: str) -> None:
    attributes = {"UserID": clean(user) or "unknown", "UserIsRequestor": "true" if asked else "false"}
    if ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={clean(ae_title)}"
    if address:
        attributes["NetworkAccessPointID"] = clean(address)
        attributes["NetworkAccessPointTypeCode"] = _ADDRESS if _is_address(address) else _HOST_NAME
    participant = SubElement(root, "ActiveParticipant", attributes)
    if role is not None:
        _coded(participant, "RoleIDCode", role)


def _objects(root: Element, entry: Entry, meaning: Meaning, origin: Origin) -> None:
    match meaning.what:
        case What.STUDY:
            _study(root, entry, entry.subject)
        case What.PART:
            _study(root, entry, _text(entry.detail.get("study")))
        case What.ALERT:
            subject = entry.subject or origin.source_id
            alert = _object(root, subject, _RESOURCE if entry.subject else _THIS_NODE)
            _detail(alert, "Alert Description", f"{entry.event.replace('_', ' ')}: {_told(entry)}")
        case What.USER:
            _object(root, entry.subject or "unknown", _ACCOUNT)
        case What.LOG:
            _object(root, f"urn:radnode:audit:{origin.source_id}", _RESOURCE, name="Security Audit Log")
        case What.LIST:
            _object(root, "urn:radnode:worklist", _LIST, query=_told(entry))
        case What.NOTHING:
            pass
    # The row itself, so that whoever holds the message can tell a trail that was changed afterwards from this one.
    row = _object(root, f"urn:radnode:audit:{entry.position or 0}", _RESOURCE, name="audit row")
    _detail(row, "digest", entry.digest)
    if entry.subject:
        _detail(row, "subject", entry.subject)
    if meaning.what is not What.ALERT:
        for key, value in sorted(entry.detail.items()):
            _detail(row, clean(key), value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def _study(root: Element, entry: Entry, study: str) -> None:
    if not valid_uid(study):
        return
    found = _object(root, study, _STUDY)
    classes = entry.detail.get("sop_classes")
    if isinstance(classes, dict) and classes:
        description = SubElement(found, "ParticipantObjectDescription")
        for uid, told in sorted(classes.items()):
            sop_class = SubElement(
                description, "SOPClass", {"UID": clean(uid), "NumberOfInstances": str(int(told["count"]))}
            )
            for instance in told.get("uids", ()):
                SubElement(sop_class, "Instance", {"UID": clean(str(instance))})
    _object(root, WITHHELD, _PATIENT)


def _object(root: Element, identifier: str, kind: _Kind, *, name: str = "", query: str | None = None) -> Element:
    found = SubElement(
        root,
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": clean(identifier),
            "ParticipantObjectTypeCode": kind.type,
            "ParticipantObjectTypeCodeRole": kind.role,
        },
    )
    _coded(found, "ParticipantObjectIDTypeCode", kind.code)
    if query is None:
        SubElement(found, "ParticipantObjectName").text = clean(name or identifier)
    else:
        SubElement(found, "ParticipantObjectQuery").text = _base64(query)
    return found


def _detail(parent: Element, name: str, value: str) -> None:
    SubElement(parent, "ParticipantObjectDetail", {"type": name, "value": _base64(value)})


def _told(entry: Entry) -> str:
    return json.dumps(entry.detail, sort_keys=True)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")


def _coded(parent: Element, name: str, code: Code) -> None:
    SubElement(
        parent,
        name,
        {
            "csd-code": clean(code.value),
            "codeSystemName": code.scheme,
            "displayName": clean(code.meaning),
            "originalText": clean(code.meaning),
        },
    )


def _given(**attributes: str) -> dict[str, str]:
    return {name: clean(value) for name, value in attributes.items() if value}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
