"""What goes into and comes out of the building of results: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from db.domain import ResultRef
from models.contracts import Explanation, Finding, ModelIdentity, Presence, Reading
from workers.results.uids import derive


@dataclass(frozen=True)
class Provenance:
    """Who made the results, with what and when: the same for every rerun of a job.

    identity: the job's. created_at: aware; every date and time in the objects derives from it. config_digest: of the
    settings that change what a result says. predecessors: the reports this one supersedes. replaced_flags: the key
    object selections before.
    """

    identity: str
    created_at: datetime
    model: ModelIdentity
    ae_title: str
    software_version: str
    config_digest: str
    predecessors: tuple[ResultRef, ...] = ()
    replaced_flags: tuple[ResultRef, ...] = ()

    @property
    def device_uid(self) -> str:
        """The node's UID as an observer (PS3.16 TID 1004)."""
        return derive("device", self.ae_title)

    def instance_uid(self, kind: str, source_uid: str, label: str = "") -> str:
        """SOP Instance UID of one result: another model or another setting is another object."""
        model = self.model.bundle_digest
        return derive("instance", self.identity, source_uid, model, self.config_digest, kind, label)

    def series_uid(self, kind: str, study_uid: str) -> str:
        """One series per study, model and kind of object; everything that names the equipment is part of it."""
        model = self.model.bundle_digest
        return derive("series", study_uid, model, self.config_digest, self.ae_title, self.software_version, kind)

    def tracking_uid(self, source_uid: str, label: str) -> str:
        """The same finding of the same model in the same image, or series, keeps its tracking UID over every rerun."""
        return derive("tracking", source_uid, self.model.bundle_digest, self.config_digest, label)


@dataclass(frozen=True)
class SliceRead:
    """One slice that the model looked at.

    header: its file's data set without pixel data. frame: from 1. number: its place in the order of the series, from 1.
    weight: its share of the answer, in [0, 1].
    """

    header: Dataset
    frame: int
    number: int
    weight: float


@dataclass(frozen=True)
class SeriesRead:
    """A series that was read, or refused, as one.

    count: its slices; of a refused one its images. key: number of the slice that weighs most, which its pictures show.
    slices: those that were looked at, in their order. 0 and () where it was not read.
    """

    count: int
    key: int = 0
    slices: tuple[SliceRead, ...] = ()

    @property
    def key_weight(self) -> float:
        """What the key slice weighs."""
        return next((one.weight for one in self.slices if one.number == self.key), 0.0)


@dataclass(frozen=True)
class SourceResult:
    """One image of a job, or one series that was read as one: then image means its key slice.

    header: its data set without pixel data; attributes may be absent or odd. Best handed over as read, before any
        value was decoded: then identifiers are copied byte for byte.
    reading: what the model said; None where it was not asked. reason: why not ("lateral view (ViewPosition LL)").
    picture: uint8 (rows, columns), display-ready (0 is black), the whole source; needed where the reading has
        explanations.
    frame: the frame that was read, counted from 1; matters for multi-frame sources only.
    series: None for single images.
    prior: the data set of the earlier image that was read beside it; None where the model does not compare, or had
        none, and why not stands in ``without_prior``.
    """

    header: Dataset
    reading: Reading | None
    reason: str = ""
    picture: NDArray[np.uint8] | None = None
    frame: int = 1
    series: SeriesRead | None = None
    prior: Dataset | None = None
    without_prior: str = ""


@dataclass(frozen=True)
class ResultObject:
    """A DICOM file: ``data`` has preamble and meta information, and is byte-identical for equal inputs."""

    kind: str
    ref: ResultRef
    transfer_syntax_uid: str
    data: bytes


def explanation_of(reading: Reading, finding: Finding) -> Explanation | None:
    """The map of a finding, where the model gave one."""
    return next((e for e in reading.explanations if e.label_key == finding.key), None)


def grouped(reading: Reading) -> tuple[Finding, ...]:
    """Findings that get a Measurement Group of their own: the positives first, then the grey band."""
    order = (Presence.PRESENT, Presence.UNDETERMINED)
    return tuple(f for presence in order for f in reading.findings if f.presence is presence)
