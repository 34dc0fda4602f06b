"""C-FIND in a modality worklist (PS3.4 annex K), and its answers as orders."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any

import structlog
from pydicom.dataset import Dataset

from db.domain import NewOrder
from db.errors import PermanentError
from node import scu
from node.commitment import MALFORMED
from node.settings import Peer, Settings
from node.worklist.matching import Key, day, priority_of

log = structlog.get_logger(__name__)

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
_MOST_ANSWERS = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# VR LO and SH hold less; a name has three groups of 64.
_LONGEST, _LONGEST_NAME, _LONGEST_WORD = 64, 200, 16


class TooManyAnswers(PermanentError):
    """The worklist does not match by what it is asked by."""


def ask(peer: Peer, settings: Settings, source: str, key: Key) -> list[NewOrder]:
    """What a worklist answers to a key, as orders of `source`. An answer that cannot be read is left out, and logged.

    Raises:
        PeerUnavailable, PeerRefused, ConfigError: as `node.scu.associate`; also where the query is refused.
        TooManyAnswers: more than a hundred.
    """
    patient = settings.worklist.timeout_s
    quick = settings.delivery.model_copy(update={"connect_timeout_s": patient, "response_timeout_s": patient})
    answers = scu.find(peer, settings.model_copy(update={"delivery": quick}), [_query(key)], MODALITY_WORKLIST)
    found = list(islice(answers, _MOST_ANSWERS + 1))
    if len(found) > _MOST_ANSWERS:
        raise TooManyAnswers(
            f"the worklist {source} answers with more than {_MOST_ANSWERS} orders; it must match by Accession Number, "
            "and by Patient ID with the scheduled date"
        )
    return list(_orders(found, source))


def _query(key: Key) -> Dataset:
    step = Dataset()
    step.Modality = ""
    step.ScheduledStationAETitle = ""
    step.ScheduledProcedureStepStartDate = key.date
    step.ScheduledProcedureStepStartTime = ""
    step.ScheduledProcedureStepDescription = ""
    step.ScheduledProcedureStepID = ""
    query = Dataset()
    if not (key.accession_number + key.patient_id).isascii():
        query.SpecificCharacterSet = "ISO_IR 192"
    query.AccessionNumber = key.accession_number
    query.ReferringPhysicianName = ""
    query.PatientName = ""
    query.PatientID = key.patient_id
    query.PatientBirthDate = ""
    query.PatientSex = ""
    query.StudyInstanceUID = ""
    query.RequestedProcedureDescription = ""
    query.AdmissionID = ""
    query.ScheduledProcedureStepSequence = [step]
    query.RequestedProcedureID = ""
    query.RequestedProcedurePriority = ""
    return query


def _orders(found: Iterable[Dataset], source: str) -> Iterable[NewOrder]:
    for one in found:
        try:
            with warnings.catch_warnings(action="ignore"):
                yield read_order(one, source)
        except MALFORMED as error:
            log.warning("worklist_answer_unreadable", peer=source, cause=type(error).__name__)


def read_order(found: Dataset, source: str) -> NewOrder:
    """An answer as an order; text is printable and fits the record. Raises one of `node.commitment.MALFORMED`."""
    steps = found.get("ScheduledProcedureStepSequence") or [Dataset()]
    step = steps[0]
    return NewOrder(
        source=source,
        accession_number=text_of(found, "AccessionNumber", _LONGEST),
        requested_procedure_id=text_of(found, "RequestedProcedureID", _LONGEST),
        patient_id=text_of(found, "PatientID", _LONGEST),
        patient_name=text_of(found, "PatientName", _LONGEST_NAME),
        patient_birth_date=day(text_of(found, "PatientBirthDate", _LONGEST_WORD)),
        patient_sex=text_of(found, "PatientSex", _LONGEST_WORD),
        study_instance_uid=text_of(found, "StudyInstanceUID", _LONGEST),
        priority=priority_of(text_of(found, "RequestedProcedurePriority", _LONGEST_WORD)),
        procedure=text_of(found, "RequestedProcedureDescription", _LONGEST)
        or text_of(step, "ScheduledProcedureStepDescription", _LONGEST),
        modality=text_of(step, "Modality", _LONGEST_WORD),
        scheduled_date=day(text_of(step, "ScheduledProcedureStepStartDate", _LONGEST_WORD)),
    )


def text_of(found: Dataset, keyword: str, longest: int) -> str:
    """A value of a peer's answer: printable, cut to that many characters. Raises one of `node.commitment.MALFORMED`."""
    value: Any = found.get(keyword)
    text = "" if value is None else str(value)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.strip("\0 \r\n\t"))[:longest]
