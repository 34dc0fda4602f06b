"""Which of a peer's studies are a study's priors, and whether an image is one. Pure.

A peer's answers are believed in nothing: each is held against what was asked and against the patient, and so is the
header of every image that then comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from db.identities import Correction, Identity
from db.priors import Wish
from node.header import Header
from node.uids import valid_uid
from node.worklist.matching import day, differences


@dataclass(frozen=True)
class Current:
    """The study that is to be compared. study_date: YYYYMMDD, or ""."""

    study_instance_uid: str
    identity: Identity
    study_date: str


@dataclass(frozen=True)
class FoundStudy:
    """A peer's answer at the level of studies. study_date: YYYYMMDD, or "". modalities: () where it does not say."""

    study_instance_uid: str
    identity: Identity
    study_date: str
    study_time: str = ""
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundSeries:
    """A peer's answer at the level of series. images: None where it does not say."""

    series_instance_uid: str
    modality: str
    body_part: str = ""
    images: int | None = None


@dataclass(frozen=True)
class Candidates:
    """studies: the latest first. refused: in what others, given as this patient's, differ from it."""

    studies: tuple[FoundStudy, ...]
    refused: tuple[str, ...]


def current_of(header: Header, correction: Correction | None) -> Current:
    """A study by one of its images, its patient as known today."""
    now = Identity("") if correction is None else correction.identity
    return Current(
        study_instance_uid=header.study_instance_uid,
        identity=Identity(
            patient_id=now.patient_id or header.patient_id,
            issuer=now.issuer or header.issuer_of_patient_id,
            name=now.name or header.patient_name,
            birth_date=now.birth_date or header.patient_birth_date,
            sex=now.sex or header.patient_sex,
        ),
        study_date=day(header.study_date),
    )


def period(current: Current, within_days: int) -> tuple[str, str] | None:
    """First and last day of priors, YYYYMMDD; None where the study's own day is none."""
    try:
        own = date(int(current.study_date[:4]), int(current.study_date[4:6]), int(current.study_date[6:]))
        first, last = own - timedelta(days=within_days), own - timedelta(days=1)
    except (ValueError, OverflowError):
        # A day of no calendar, as peers send them.
        return None
    return first.strftime("%Y%m%d").zfill(8), last.strftime("%Y%m%d").zfill(8)


def candidates(wish: Wish, current: Current, found: Iterable[FoundStudy]) -> Candidates:
    """The answers that may be priors, without those that were not asked for; no study stands in it twice."""
    days = period(current, wish.within_days)
    fitting: dict[str, FoundStudy] = {}
    refused: set[str] = set()
    for one in found:
        different = differences(current.identity, one.identity)
        if different:
            refused.update(different)
        elif (
            valid_uid(one.study_instance_uid)
            and one.study_instance_uid != current.study_instance_uid
            and days is not None
            and days[0] <= one.study_date <= days[1]
            and _any_of(wish.modalities, one.modalities)
        ):
            fitting.setdefault(one.study_instance_uid, one)
    latest = sorted(fitting.values(), key=lambda one: (one.study_date, one.study_time), reverse=True)
    return Candidates(tuple(latest), tuple(sorted(refused)))


def series_for(wish: Wish, found: Iterable[FoundSeries], most_images: int) -> tuple[str, ...]:
    """UIDs of the series to fetch, as many as have room for their images; a series that says too little has room."""
    chosen: dict[str, None] = {}
    images = 0
    for one in found:
        fits = (
            valid_uid(one.series_instance_uid)
            and _any_of(wish.modalities, (one.modality,) if one.modality else ())
            and _any_of(wish.body_parts, (one.body_part.upper(),) if one.body_part else ())
        )
        if fits and images + (one.images or 0) <= most_images and one.series_instance_uid not in chosen:
            images += one.images or 0
            chosen[one.series_instance_uid] = None
    return tuple(chosen)


@dataclass(frozen=True)
class Refusal:
    """Why an image is no prior. mismatch: it is another patient's, or of another study than was asked for."""

    reason: str
    mismatch: bool


def refusal_of(
    header: Header, current: Current, wish: Wish, study_instance_uid: str, series_instance_uids: Sequence[str]
) -> Refusal | None:
    """What speaks against an image that a peer sent as a prior; None where nothing does."""
    different = differences(current.identity, identity_of(header))
    if different:
        return Refusal(f"its {', '.join(different)} is another than the patient's", mismatch=True)
    if header.study_instance_uid != study_instance_uid or header.series_instance_uid not in series_instance_uids:
        return Refusal("it is of a study or series that was not asked for", mismatch=True)
    days, own = period(current, wish.within_days), day(header.study_date)
    if days is None or not days[0] <= own <= days[1]:
        return Refusal("its study date lies outside of the days that were asked for", mismatch=True)
    if not _any_of(wish.modalities, (header.modality,)):
        return Refusal("its modality is not one that was asked for", mismatch=False)
    if not _any_of(wish.body_parts, (header.body_part.upper(),) if header.body_part else ()):
        return Refusal("its body part is not one that was asked for", mismatch=False)
    return None


def identity_of(header: Header) -> Identity:
    """Whose an image says it is."""
    return Identity(
        header.patient_id,
        header.issuer_of_patient_id,
        header.patient_name,
        header.patient_birth_date,
        header.patient_sex,
    )


def _any_of(wanted: Sequence[str], said: Sequence[str]) -> bool:
    """Whether one of them is wanted; nothing wanted takes any, nothing said may be anything."""
    return not wanted or not said or any(one in wanted for one in said)
