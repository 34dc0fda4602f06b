"""FHIR's data types out of DICOM's values, which a peer chose. Pure.

Text is made to fit; an identifier is taken whole or not at all, because an altered one could be somebody else's.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

from node.worklist.hl7.er7 import clean

Json = dict[str, Any]

# Coding schemes of DICOM (PS3.16 table 8-1) that have a URI in FHIR.
_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "RADLEX": "http://www.radlex.org",
    "UCUM": "http://unitsofmeasure.org",
}
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_DAY = re.compile(r"(\d{4})(\d{2})(\d{2})")
_LONGEST = 1000
_LONGEST_ID = 64


def text(value: str, longest: int = _LONGEST) -> str:
    """One line that FHIR's string can hold; "" where nothing is left."""
    return " ".join(clean(value).split())[:longest].strip()


def exact(value: str) -> str:
    """An identifier as it is, but for the blanks around it; "" where FHIR cannot hold it."""
    stripped = value.strip()
    return stripped if len(stripped) <= _LONGEST_ID and text(stripped) == stripped else ""


def coding(code: tuple[str, str, str]) -> Json:
    """code: (value, meaning, scheme)."""
    value, meaning, scheme = code
    system = _SYSTEMS.get(scheme) or f"urn:radnode:coding-scheme:{quote(scheme, safe='', errors='replace')}"
    return {"system": system, "code": text(value), "display": text(meaning)}


def concept(code: tuple[str, str, str], words: str = "") -> Json:
    """A CodeableConcept of one code; words: its text, where that is not the code's meaning."""
    return {"coding": [coding(code)], "text": text(words or code[1])}


def hl7_concept(table: str, code: str) -> Json:
    """Out of one of HL7's own code systems."""
    return {"coding": [{"system": f"{_TERMINOLOGY}/{table}", "code": code}]}


def uid_identifier(uid: str) -> Json:
    """A DICOM UID (R4 5.11, ImagingStudy)."""
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}


def typed_identifier(kind: str, value: str, system: str) -> Json:
    """kind: of HL7 table 0203. system: "" leaves it out."""
    named = {"system": system} if system else {}
    return {"type": hl7_concept("v2-0203", kind), **named, "value": value}


def instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day(value: str) -> str:
    """DICOM's DA as a date; "" for what is none."""
    found = _DAY.fullmatch(value)
    try:
        return date(*map(int, found.groups())).isoformat() if found else ""
    except ValueError:
        return ""


def person(name: str) -> str:
    """DICOM's PN for people, by its first group that says anything: "Dr Eva Maria Müller"."""
    for group in name.split("="):
        family, given, middle, prefix, suffix = ([text(part) for part in group.split("^")] + [""] * 5)[:5]
        shown = " ".join(part for part in (prefix, given, middle, family, suffix) if part)
        if shown:
            return shown[:_LONGEST].strip()
    return ""


def without_empty(resource: Json) -> Json:
    """FHIR knows no empty value: what has none is left out."""
    return {name: value for name, value in resource.items() if value not in (None, "", [], {})}
