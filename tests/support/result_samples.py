"""Readings that no model made, for building results: every kind of outcome over any source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from db.domain import ResultRef
from models.contracts import CodedConcept, Explanation, Finding, ModelIdentity, Placement, Presence, Priority, Reading
from workers.results import Provenance, SeriesRead, SliceRead, SourceResult

LUNG = CodedConcept("39607008", "SCT", "Lung")
PLEURA = CodedConcept("3120008", "SCT", "Pleura")
HEART = CodedConcept("80891009", "SCT", "Heart")

# Label key -> its code and site; one scheme is private.
LABELS = {
    "pneumonia": (CodedConcept("233604007", "SCT", "Pneumonia"), LUNG),
    "effusion": (CodedConcept("60046008", "SCT", "Pleural effusion"), PLEURA),
    "cardiomegaly": (CodedConcept("8186001", "SCT", "Cardiomegaly"), HEART),
    "pleural_thickening": (CodedConcept("CXR14-PT", "99NODE", "Pleural thickening"), PLEURA),
    "nodule": (CodedConcept("786838002", "SCT", "Nodule of lung"), LUNG),
}
_PROBABILITY = {Presence.PRESENT: 0.871, Presence.UNDETERMINED: 0.47, Presence.ABSENT: 0.0512}


def shared_data() -> Path:
    """The folder of real images beside the project."""
    return Path(os.environ.get("RADNODE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def model(digest: str = "ab" * 32) -> ModelIdentity:
    return ModelIdentity(
        id="cxr-sample",
        name="Chest sample model",
        version="1.2.0",
        manufacturer="radnode project",
        bundle_digest=digest,
        weights_digest="cd" * 32,
        licence="Apache-2.0",
    )


def provenance(
    identity: str = "job-1", digest: str = "ab" * 32, predecessors: tuple[ResultRef, ...] = ()
) -> Provenance:
    return Provenance(
        identity=identity,
        created_at=datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC),
        model=model(digest),
        ae_title="RADNODE",
        software_version="0.1.0",
        config_digest="ef" * 32,
        predecessors=predecessors,
    )


def header(**changes: object) -> Dataset:
    """A small but whole CR header; a change to None removes the attribute."""
    made = Dataset()
    made.SOPClassUID = ComputedRadiographyImageStorage
    made.SOPInstanceUID, made.SeriesInstanceUID, made.StudyInstanceUID = "1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"
    made.Modality, made.BodyPartExamined, made.ViewPosition = "CR", "CHEST", "PA"
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Doe^Jane", "P-1", "19700102", "F"
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20260301", "101112", "S1", "A1"
    made.ReferringPhysicianName = "House^G"
    made.PatientOrientation = ["L", "F"]
    made.Rows, made.Columns = 250, 205
    for keyword, value in changes.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def read_header(path: Path) -> Dataset:
    """A real source's header, with a file's UIDs completed where the file lacks them."""
    return dcmread(path, stop_before_pixels=True, force=True)


def explained(key: str, rows: int, columns: int, grid: np.ndarray | None = None) -> Explanation:
    """A map with one bump, over the whole source."""
    if grid is None:
        y, x = np.mgrid[0:7, 0:7]
        grid = np.exp(-((y - 4.2) ** 2 + (x - 1.8) ** 2) / 2.2)
    placed = Placement((rows, columns), (0, 0, rows, columns), (0, 0, 224, 224), (224, 224))
    return Explanation(key, "Grad-CAM", (grid / max(float(grid.max()), 1e-6)).astype(np.float32), 1.7, placed)


def finding(key: str, presence: Presence, calibrated: bool = True) -> Finding:
    code, site = LABELS[key]
    return Finding(
        key=key,
        display=code.meaning,
        code=code,
        site=site,
        logit=1.91,
        probability=_PROBABILITY[presence],
        threshold=0.5,
        operating_point="balanced",
        presence=presence,
        priority=Priority.ROUTINE,
        calibrated=calibrated,
    )


def reading(rows: int, columns: int, present: Sequence[str] = (), undetermined: Sequence[str] = ()) -> Reading:
    """All labels of `LABELS`; those named are present or undetermined, the present ones with a map."""
    presences = dict.fromkeys(LABELS, Presence.ABSENT)
    presences |= dict.fromkeys(present, Presence.PRESENT) | dict.fromkeys(undetermined, Presence.UNDETERMINED)
    return Reading(
        findings=tuple(finding(key, presence) for key, presence in presences.items()),
        explanations=tuple(explained(key, rows, columns) for key in present),
        notes=("one half of the image is padding",) if present else (),
    )


def picture(rows: int, columns: int) -> np.ndarray:
    """A smooth shape with some grain, like nothing in particular."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    body = np.clip(1.15 - np.hypot(x * 0.9, y * 0.8), 0, 1)
    lungs = np.exp(-(((np.abs(x) - 0.42) / 0.25) ** 2) - ((y + 0.05) / 0.55) ** 2)
    grain = np.random.default_rng(5).normal(0, 0.015, (rows, columns))
    return np.clip((body * (1 - 0.75 * lungs) + grain) * 255, 0, 255).astype(np.uint8)


def analysed(
    made: Dataset, present: Sequence[str] = (), undetermined: Sequence[str] = (), frame: int = 1
) -> SourceResult:
    rows, columns = int(made.Rows), int(made.Columns)
    return SourceResult(made, reading(rows, columns, present, undetermined), "", picture(rows, columns), frame)


def refused(made: Dataset, reason: str = "lateral view (ViewPosition LL)") -> SourceResult:
    return SourceResult(made, None, reason)


def series(
    slices: Sequence[Dataset], present: Sequence[str] = (), undetermined: Sequence[str] = (), key: int = 1
) -> SourceResult:
    """A series of three times as many slices, of which these were read; the one at ``key`` weighs most."""
    weights = [0.7 if place == key else 0.3 / (len(slices) - 1) for place in range(len(slices))]
    read = tuple(SliceRead(one, 1, 3 * place + 1, weights[place]) for place, one in enumerate(slices))
    said = SeriesRead(3 * len(slices), 3 * key + 1, read)
    return replace(analysed(slices[key], present, undetermined), series=said)
