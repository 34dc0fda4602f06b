"""What the API answers, as types: the OpenAPI description is made from them. Times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class FindingAnswer(_Answer):
    """One label's result."""

    label: str
    presence: str = Field(description="present, absent or undetermined, by the operating point.")
    probability: float = Field(description="0 to 1; calibrated where the model is.")
    threshold: float = Field(description="Of the operating point, 0 to 1.")
    priority: str


class StudyAnswer(_Answer):
    """One line of the worklist. What names a patient is null without the right to it, or where it is masked."""

    study_instance_uid: str
    patient_name: str | None = Field(description="As in DICOM (VR PN).")
    patient_id: str | None
    accession_number: str | None
    study_description: str | None
    modalities: list[str]
    body_parts: list[str]
    requested_procedure: str | None = Field(description="Of its order; null where none is known, or it is masked.")
    order: str = Field(description="How far the hospital's order for it is known; empty where none is asked for.")
    priority: str | None = Field(description="stat, urgent or routine; null where no model is asked.")
    age_s: float = Field(description="Seconds from the first image to now, or to the end of all work.")
    target_s: float = Field(description="Seconds in which a study of this priority should be read.")
    late: bool
    state: str
    reason: str
    top_finding: FindingAnswer | None
    models: str
    deliveries: dict[str, int] = Field(description="How many are in each state.")
    images: int
    last_received_at: datetime


class StudiesAnswer(_Answer):
    """A page of the worklist."""

    studies: list[StudyAnswer]
    next: str | None = Field(description="Address of the following page; null at the end.")


class DeliveryAnswer(_Answer):
    destination: str
    state: str
    reason: str


class ResultAnswer(_Answer):
    kind: str = Field(description="SR or SC.")
    sop_instance_uid: str
    deliveries: list[DeliveryAnswer]


class RunAnswer(_Answer):
    """One model's work on the study. current: no later revision has taken its place."""

    job: str
    model: str
    model_version: str
    current: bool
    state: str
    reason: str
    priority: str
    revision: int
    finished_at: datetime | None
    images: list[dict[str, Any]] = Field(description="Per image: findings, or the reason why it was not analysed.")
    results: list[ResultAnswer]


class RetryAnswer(_Answer):
    """How many parked jobs and dead letters of the study are tried again."""

    jobs: int
    deliveries: int


class RerunAnswer(_Answer):
    """What is read again of a study."""

    revisions: int = Field(description="Finished runs that became new revisions.")
    retried: int = Field(description="Parked jobs that are tried again.")
    under_way: int = Field(description="Jobs that are waiting or running anyway.")


class InstanceAnswer(_Answer):
    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    state: str
    reason: str
    received_at: datetime


class StudyDetailAnswer(StudyAnswer):
    """A study with its runs and images."""

    runs: list[RunAnswer]
    instances: list[InstanceAnswer]
