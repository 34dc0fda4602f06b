"""Is an order the one of these images? Pure. What does not fit is for a person; nothing is mended here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from db.domain import PRIORITIES, NewOrder, WantedOrder, more_urgent
from db.identities import Identity
from db.states import OrderState

# PS3.4 C.2.2.2.4: what would match more than itself. A backslash asks for a list of UIDs or values.
_WILDCARDS = re.compile(r"[*?\\]")
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_WORD = re.compile(r"[^\W_]+")
_PRIORITIES = {"STAT": "stat", "HIGH": "urgent", "MEDIUM": "routine", "ROUTINE": "routine", "LOW": "routine"}
# VR SH; what is longer is no accession number.
_LONGEST_ACCESSION, _LONGEST_PATIENT_ID = 16, 64
_SEVERAL = "several orders fit, none was taken"


@dataclass(frozen=True)
class Key:
    """What the worklist is asked by. date: YYYYMMDD. Empty where it is not asked by that."""

    accession_number: str = ""
    patient_id: str = ""
    date: str = ""


@dataclass(frozen=True)
class Match:
    """reason: for the record and for people; names no patient."""

    state: OrderState
    reason: str
    order: NewOrder | None = None


def key_of(wanted: WantedOrder) -> Key | None:
    """What to ask by: the accession number, else patient and date. None where the header gives neither, or something
    that would match other orders as well.
    """
    if wanted.accession_number:
        usable = _plain(wanted.accession_number, _LONGEST_ACCESSION)
        return Key(accession_number=wanted.accession_number) if usable else None
    date = day(wanted.study_date)
    if not date or not _plain(wanted.patient_id, _LONGEST_PATIENT_ID):
        return None
    return Key(patient_id=wanted.patient_id, date=date)


def match(wanted: WantedOrder, key: Key, found: Iterable[NewOrder]) -> Match:
    """Which of the worklist's answers is the order of a study, and whether it is the same patient's.

    An answer that does not have the key's values is none: some servers ignore what they are asked by. Several steps of
    one order count as one, as urgent as the most urgent of them.
    """
    answers = [one for one in found if _answers(key, one)]
    if key.accession_number:
        return _by_accession(wanted, _merged(answers))
    # Before steps of an order are merged: one of them may be of another modality.
    fitting = _merged(
        one for one in answers if not one.modality or not wanted.modalities or one.modality in wanted.modalities
    )
    if not fitting:
        return Match(OrderState.ABSENT, "the worklist has no order for its patient on its date")
    if len(fitting) > 1:
        return Match(OrderState.ABSENT, f"{_SEVERAL}: it has no accession number")
    return _same_patient(wanted, fitting[0])


def _by_accession(wanted: WantedOrder, orders: Sequence[NewOrder]) -> Match:
    if not orders:
        return Match(OrderState.ABSENT, "the worklist has no order of its accession number")
    verdicts = [_same_patient(wanted, one) for one in orders]
    # Two patients under one accession number: whichever of them is meant, somebody has to look.
    wrong = next((one for one in verdicts if one.state is OrderState.MISMATCHED), None)
    if wrong is not None:
        return wrong
    return min(verdicts, key=lambda one: PRIORITIES.index(one.order.priority) if one.order else len(PRIORITIES))


def differences(mine: Identity, theirs: Identity) -> list[str]:
    """In what two identities cannot be one patient's: names of attributes, never values; [] where they may be.

    The Patient ID must be the same. Of the others, what one side does not say speaks against nothing.
    """
    different = []
    # Two sides that name nobody do not name the same one.
    if not theirs.patient_id.strip() or theirs.patient_id.strip() != mine.patient_id.strip():
        different.append("Patient ID")
    if mine.issuer.strip() and theirs.issuer.strip() and mine.issuer.strip() != theirs.issuer.strip():
        different.append("Issuer of Patient ID")
    here, there = day(mine.birth_date), day(theirs.birth_date)
    if here and there and here != there:
        different.append("Patient's Birth Date")
    if {mine.sex.strip().upper(), theirs.sex.strip().upper()} == {"M", "F"}:
        different.append("Patient's Sex")
    one, other = words(mine.name), words(theirs.name)
    if one and other and not one & other:
        different.append("Patient's Name")
    return different


def _same_patient(wanted: WantedOrder, order: NewOrder) -> Match:
    image = Identity(wanted.patient_id, name=wanted.patient_name, birth_date=wanted.patient_birth_date)
    ordered = Identity(order.patient_id, name=order.patient_name, birth_date=order.patient_birth_date)
    different = differences(image, ordered)
    if different:
        reason = f"its order has another {', '.join(different)} than the image"
        return Match(OrderState.MISMATCHED, reason, order)
    return Match(OrderState.MATCHED, f"ordered as {order.priority}", order)


def priority_of(requested: str) -> str:
    """Requested Procedure Priority (0040,1003) as this node's priorities; what is none of its terms is routine."""
    return _PRIORITIES.get(requested.strip().upper(), "routine")


def day(text: str) -> str:
    """A DICOM date, or one of older releases with dots, as YYYYMMDD; "" where it is none."""
    found = _DATE.fullmatch(text.strip())
    return "".join(found.groups()) if found else ""


def words(name: str) -> frozenset[str]:
    """The words of a name in all its spellings, without regard to case and accents.

    Names are typed by people: "Doe^Jane", "DOE^JANE^^MRS" and "Doe-Smith^Jane" name one person more likely than two,
    "Doe^Jane" and "Roe^Richard" do not. Prefixes and suffixes are no names: many people are a "MRS" or a "Jr".
    """
    named = "=".join("^".join(group.split("^")[:3]) for group in name.split("="))
    plain = "".join(c for c in unicodedata.normalize("NFKD", named) if not unicodedata.combining(c))
    return frozenset(_WORD.findall(plain.casefold()))


def _plain(value: str, longest: int) -> bool:
    return bool(value) and len(value) <= longest and not _WILDCARDS.search(value) and value.isprintable()


def askable_patient_id(value: str) -> bool:
    """Whether a Patient ID can be asked by, and matches no more than itself (PS3.4 C.2.2.2.4)."""
    return _plain(value, _LONGEST_PATIENT_ID)


def _answers(key: Key, order: NewOrder) -> bool:
    if key.accession_number:
        return order.accession_number == key.accession_number
    return order.patient_id == key.patient_id and order.scheduled_date == key.date


def _merged(found: Iterable[NewOrder]) -> list[NewOrder]:
    """One for each order: its scheduled steps differ in modality and date at the most."""
    merged: dict[tuple[str, ...], NewOrder] = {}
    for one in found:
        # What says whose it is belongs to it: no step is believed for another one's patient.
        name = (
            one.accession_number,
            one.requested_procedure_id,
            one.patient_id,
            one.patient_name,
            day(one.patient_birth_date),
        )
        before = merged.get(name)
        if before is None:
            merged[name] = one
        else:
            priority = more_urgent(before.priority, one.priority)
            merged[name] = replace(before, priority=priority)
    return list(merged.values())
