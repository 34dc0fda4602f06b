"""What a message that came in asks for: orders to keep, identities to change. Pure.

Names are the standard's: ORM^O01 and OMI^O23 (HL7 v2.5.1 chapter 4), ADT^A08 and ADT^A40 (chapter 3); where an imaging
order has its numbers, by the IHE Radiology framework (RAD-4, volume 2 section 4.4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from db.domain import NewOrder
from db.identities import Change, Identity
from node.worklist.hl7.er7 import Delimiters, Message, Segment, UnusableMessage, component_of
from node.worklist.matching import day

ORDERS = frozenset({"ORM^O01", "OMI^O23"})
UPDATE, MERGE = "ADT^A08", "ADT^A40"
KINDS = ORDERS | {UPDATE, MERGE}

# Table 0119: what takes an order back.
_WITHDRAWN = frozenset({"CA", "OC", "DC", "OD"})
# Tables 0027 and 0485.
_PRIORITIES = {
    "S": "stat",
    "STAT": "stat",
    "A": "urgent",
    "ASAP": "urgent",
    "C": "urgent",
    "CALLBACK": "urgent",
    "T": "urgent",
    "TIMING CRITICAL": "urgent",
}
_SEXES = frozenset("MFO")
# As long as the columns of the record.
_LONGEST, _LONGEST_WORD, _LONGEST_NAME = 64, 16, 320
_UID = re.compile(r"[0-9.]{1,64}")
_MOST_ORDERS = 200


def orders(message: Message, source: str, authority: str = "") -> tuple[list[NewOrder], list[NewOrder]]:
    """The orders that a message gives or changes, and those it takes back. authority: as of `changes`.

    Raises UnusableMessage.
    """
    patient = message.first("PID")
    if patient is None:
        raise UnusableMessage("the order has no PID segment")
    if len(message.groups("PID")) > 1:
        raise UnusableMessage("the message has several PID segments; whose each of its orders is cannot be told")
    groups = message.groups("ORC")
    if not groups:
        raise UnusableMessage("the order has no ORC segment")
    if len(groups) > _MOST_ORDERS:
        raise UnusableMessage(f"the message has more than {_MOST_ORDERS} orders")
    told = [(group[0].get(1).upper(), _order(patient, group, message, source, authority)) for group in groups]
    given = [order for control, order in told if control not in _WITHDRAWN]
    return given, [order for control, order in told if control in _WITHDRAWN]


def _order(patient: Segment, group: Sequence[Segment], message: Message, source: str, authority: str) -> NewOrder:
    orc = group[0]
    obr, ipc, tq1, zds = (
        next((one for one in group if one.name == name), None) for name in ("OBR", "IPC", "TQ1", "ZDS")
    )
    zds = zds or message.first("ZDS")
    filler = orc.get(3) or _of(obr, 3)
    accession = _of(ipc, 1) or _of(obr, 18) or filler
    identifier = identity_of(patient.repetitions(3), patient.delimiters, authority)[0]
    # PID-2 names no authority.
    identifier = identifier or ("" if authority else patient.get(2))
    if not accession or len(accession) > _LONGEST:
        raise UnusableMessage("an order has no usable accession number (IPC-1, OBR-18 or the filler number)")
    if not identifier or len(identifier) > _LONGEST:
        raise UnusableMessage("an order has no usable patient identifier (PID-3)")
    priority = _of(tq1, 9) or _of(obr, 27, 6) or orc.get(7, 6) or _of(obr, 5)
    study_uid = _of(ipc, 3) or _of(zds, 1)
    return NewOrder(
        source=source,
        accession_number=accession,
        requested_procedure_id=_fitting(_of(ipc, 2) or _of(obr, 19)),
        patient_id=identifier,
        patient_name=name_of(patient)[:_LONGEST_NAME],
        patient_birth_date=day(patient.get(7)[:8]),
        patient_sex=_sex(patient),
        study_instance_uid=study_uid if _UID.fullmatch(study_uid) else "",
        priority=_PRIORITIES.get(priority.upper(), "routine"),
        procedure=(_of(obr, 4, 2) or _of(obr, 4))[:_LONGEST],
        modality=(_of(ipc, 5) or _of(obr, 24))[:_LONGEST_WORD],
        scheduled_date=day((_of(tq1, 7) or _of(obr, 36) or orc.get(7, 4))[:8]),
        placer_number=_fitting(orc.get(2) or _of(obr, 2)),
        filler_number=_fitting(filler),
    )


def _of(segment: Segment | None, number: int, component: int = 1) -> str:
    return "" if segment is None else segment.get(number, component)


def _fitting(identifier: str) -> str:
    """A number that fits its column; a shortened one would be another number."""
    return identifier if len(identifier) <= _LONGEST else ""


def changes(message: Message, sender: str, control_id: str, authority: str) -> list[Change]:
    """The changes of identity in an ADT message. authority: whose identifiers count; "" takes the first of each list.

    Raises UnusableMessage.
    """
    if message.kind == UPDATE:
        patient = message.first("PID")
        identifier, issuer = ("", "") if patient is None else _identifier(patient, 3, authority)
        if patient is None or not identifier:
            raise UnusableMessage("the update has no usable patient identifier (PID-3)")
        return [Change(identifier, _identity(patient, identifier, issuer), "update", sender, control_id)]
    merges = [_merge(group, sender, control_id, authority) for group in message.groups("PID")]
    if not merges:
        raise UnusableMessage("the merge has no PID segment")
    return merges


def _merge(group: Sequence[Segment], sender: str, control_id: str, authority: str) -> Change:
    patient = group[0]
    merged = next((one for one in group if one.name == "MRG"), None)
    old = "" if merged is None else _identifier(merged, 1, authority)[0]
    new, issuer = _identifier(patient, 3, authority)
    if not old or not new:
        raise UnusableMessage("a merge lacks a usable identifier, of the patient that stays (PID-3) or goes (MRG-1)")
    if old == new:
        raise UnusableMessage("a merge names one identifier for both patients")
    return Change(old, _identity(patient, new, issuer), "merge", sender, control_id)


def _identifier(segment: Segment, number: int, authority: str) -> tuple[str, str]:
    found, issuer = identity_of(segment.repetitions(number), segment.delimiters, authority)
    return (found, issuer) if len(found) <= _LONGEST else ("", "")


def identity_of(repetitions: Sequence[str], delimiters: Delimiters, authority: str = "") -> tuple[str, str]:
    """(identifier, its authority) of a list of CX: the first of `authority`, or simply the first."""
    told = [(component_of(one, 1, 1, delimiters), component_of(one, 4, 1, delimiters)) for one in repetitions]
    return next(((value, by) for value, by in told if value and (not authority or by == authority)), ("", ""))


def _identity(patient: Segment, identifier: str, issuer: str) -> Identity:
    return Identity(
        patient_id=identifier,
        issuer=issuer[:_LONGEST],
        name=name_of(patient)[:_LONGEST_NAME],
        birth_date=day(patient.get(7)[:8]),
        sex=_sex(patient),
    )


def _sex(patient: Segment) -> str:
    sex = patient.get(8).upper()
    return sex if sex in _SEXES else ""


def name_of(patient: Segment) -> str:
    """PID-5 as DICOM writes a name: XPN's suffix and prefix change places, representations become groups."""
    groups = {"A": "", "I": "", "P": ""}
    for number, one in enumerate(patient.repetitions(5)):
        representation = component_of(one, 8, 1, patient.delimiters).upper()
        place = representation if representation in groups else "A"
        if number and not representation:
            # An alias, or a maiden name.
            continue
        family, given, middle, suffix, prefix = (
            component_of(one, n, 1, patient.delimiters).replace("^", " ").replace("=", " ").replace("\\", " ")
            for n in range(1, 6)
        )
        groups[place] = groups[place] or "^".join((family, given, middle, prefix, suffix)).rstrip("^")
    return "=".join(groups.values()).rstrip("=")
