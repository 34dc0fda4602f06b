"""C-FIND for prior studies and their series (PS3.4 C.4.1), and what a peer answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

import structlog
from pydicom.dataset import Dataset

from db.identities import Identity
from node import scu
from node.commitment import MALFORMED
from node.retrieve.choosing import Current, FoundSeries, FoundStudy
from node.retrieve.retrieving import TooMuch
from node.settings import Peer, Settings
from node.worklist.matching import day
from node.worklist.query import text_of

log = structlog.get_logger(__name__)

MOST_ANSWERS = 500
_LONGEST, _LONGEST_NAME, _LONGEST_WORD = 64, 200, 16
_MOST_MODALITIES = 16
T = TypeVar("T")


def ask_studies(peer: Peer, settings: Settings, current: Current, days: tuple[str, str]) -> list[FoundStudy]:
    """A patient's studies between two days, as the peer answers them.

    It is asked by Patient ID; whose the answers are, the caller judges: many archives match by no other key of the
    patient's, and would leave out studies that say less.

    Raises:
        PeerUnavailable, PeerRefused, ConfigError: as `node.scu.associate`; also where the query is refused.
        TooMuch: more answers than a patient has studies.
    """
    query = Dataset()
    if not current.identity.patient_id.isascii():
        query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = "STUDY"
    query.PatientID = current.identity.patient_id
    query.StudyDate = f"{days[0]}-{days[1]}"
    for keyword in (
        "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyTime",
        "ModalitiesInStudy",
    ):  # fmt: skip
        setattr(query, keyword, "")
    return _ask(peer, settings, query, _study)


def ask_series(peer: Peer, settings: Settings, study_instance_uid: str) -> list[FoundSeries]:
    """The series of a study, as the peer answers them. Raises as `ask_studies`."""
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_instance_uid
    for keyword in ("SeriesInstanceUID", "Modality", "BodyPartExamined", "NumberOfSeriesRelatedInstances"):
        setattr(query, keyword, "" if keyword != "NumberOfSeriesRelatedInstances" else None)
    return _ask(peer, settings, query, _series)


def _ask(peer: Peer, settings: Settings, query: Dataset, read: Callable[[Dataset], T]) -> list[T]:
    found = list(islice(scu.find(peer, settings, [query]), MOST_ANSWERS + 1))
    if len(found) > MOST_ANSWERS:
        raise TooMuch(f"{scu.at(peer)} answers a question for one patient with more than {MOST_ANSWERS} entries")
    return list(_readable(found, read, peer))


def _readable(found: list[Dataset], read: Callable[[Dataset], T], peer: Peer) -> Iterator[T]:
    for one in found:
        try:
            with warnings.catch_warnings(action="ignore"):
                yield read(one)
        except MALFORMED as error:
            log.warning("prior_answer_unreadable", peer=scu.at(peer), cause=type(error).__name__)


def _study(found: Dataset) -> FoundStudy:
    modalities = found.get("ModalitiesInStudy") or ()
    several = [modalities] if isinstance(modalities, str) else list(modalities)[:_MOST_MODALITIES]
    return FoundStudy(
        study_instance_uid=text_of(found, "StudyInstanceUID", _LONGEST + 1),
        identity=Identity(
            patient_id=text_of(found, "PatientID", _LONGEST + 1),
            issuer=text_of(found, "IssuerOfPatientID", _LONGEST),
            name=text_of(found, "PatientName", _LONGEST_NAME),
            birth_date=text_of(found, "PatientBirthDate", _LONGEST_WORD),
            sex=text_of(found, "PatientSex", _LONGEST_WORD),
        ),
        study_date=day(text_of(found, "StudyDate", _LONGEST_WORD)),
        study_time=text_of(found, "StudyTime", _LONGEST_WORD),
        modalities=tuple(str(one).strip() for one in several if str(one).strip()),
    )


def _series(found: Dataset) -> FoundSeries:
    count = text_of(found, "NumberOfSeriesRelatedInstances", _LONGEST_WORD)
    return FoundSeries(
        series_instance_uid=text_of(found, "SeriesInstanceUID", _LONGEST + 1),
        modality=text_of(found, "Modality", _LONGEST_WORD),
        body_part=text_of(found, "BodyPartExamined", _LONGEST_WORD),
        images=int(count) if count.isdecimal() else None,
    )
