"""How documents name other objects, and the order they answer."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID

from db.domain import ResultRef
from workers.results.provenance import keep_raw
from workers.results.subject import ACCESSION_NUMBER, Subject, put_raw

# Items of Referenced Request Sequence must hold these, empty where unknown (PS3.3 C.17.2, Type 2).
_EMPTY_IN_REQUEST = (
    "ReferencedStudySequence",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
)


def by_series(refs: Iterable[ResultRef]) -> list[Dataset]:
    """Items of Hierarchical SOP Instance References (PS3.3 C.17.2.1), one for each study."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for ref in refs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(ref.sop_class_uid), UID(ref.sop_instance_uid)
        studies.setdefault(ref.study_instance_uid, {}).setdefault(ref.series_instance_uid, []).append(item)
    return [_study(uid, series) for uid, series in studies.items()]


def _study(study_uid: str, instances: dict[str, list[Dataset]]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = UID(study_uid)
    study.ReferencedSeriesSequence = Items([])
    for series_uid, referenced in instances.items():
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = UID(series_uid), Items(referenced)
        study.ReferencedSeriesSequence.append(series)
    return study


def request_item(ref: ResultRef, subject: Subject) -> Dataset:
    """An item of Referenced Request Sequence: the order the source was made for."""
    item = Dataset()
    item.StudyInstanceUID = UID(ref.study_instance_uid)
    for keyword in _EMPTY_IN_REQUEST:
        setattr(item, keyword, Items([]) if keyword.endswith("Sequence") else "")
    put_raw(item, ACCESSION_NUMBER, "SH", subject.value(ACCESSION_NUMBER))
    keep_raw(item)
    return item
