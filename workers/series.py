"""A model of slices reads the series among a job's images: each series is one thing, read or refused as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from db.errors import UnreadableError
from models.admission import admit
from models.contracts import GreyImage, HeaderFacts, Presence, Reading
from models.errors import NoReadingError, PreprocessError
from models.manifest import AdmissionRules
from models.reading import read_series
from models.series import admit_series, heaviest
from workers.loaded import Loaded
from workers.pixels import PixelError, SliceHeader, Volume, drawn_uint8, volume_of
from workers.results import SeriesRead, SliceRead, SourceResult
from workers.sandbox import Examined, JobFiles

log = structlog.get_logger(__name__)

Step = Callable[[], None]


@dataclass(frozen=True)
class Member:
    """One image of a job. place: among the job's images. unreadable: why its header could not be read, or ""."""

    place: int
    path: Path
    examined: Examined
    facts: HeaderFacts
    unreadable: str = ""


@dataclass(frozen=True)
class ImageOutcome:
    """What became of one image. reason: why it was not read, or what else there is to say of it."""

    read: bool
    reason: str


@dataclass(frozen=True)
class SeriesOutcome:
    """One series: what its report says, and what became of each of its images, by place."""

    result: SourceResult
    images: dict[int, ImageOutcome]


class _Refused(Exception):
    """The series is not read; the message is a reason for people."""


def series_of(members: Sequence[Member]) -> Iterator[list[Member]]:
    """The images by series, in the order in which each series came first."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.examined.header.series_instance_uid, []).append(member)
    yield from groups.values()


def read_one_series(model: Loaded, members: Sequence[Member], files: JobFiles, progress: Step) -> SeriesOutcome:
    """Read the images of one series that the model admits, or say why the series is not read.

    Images that do not belong (a localizer, another size) are left out and noted. progress: called before each slice is
    decoded. Raises OSError where a file cannot be opened, and what ``progress`` raises.
    """
    rules = model.bundle.manifest.admission
    refused = {one.place: reason for one in members if (reason := one.unreadable or _refusal(rules, one.facts))}
    admitted = [one for one in members if one.place not in refused]
    try:
        if not admitted:
            raise _Refused(next(iter(refused.values())))
        volume = _volume(model, admitted, files)
        reading, picture = _read(model, volume, files.at_once, progress)
    except (_Refused, PixelError, PreprocessError, NoReadingError, UnreadableError) as error:
        reason = str(error)
        log.warning("series_not_analysed", images=len(members), reason=reason)
        first = (admitted or members)[0]
        header = first.examined.dataset
        images = {one.place: ImageOutcome(False, refused.get(one.place, reason)) for one in members}
        return SeriesOutcome(SourceResult(header, None, reason, None, series=SeriesRead(len(members))), images)
    return _told(members, refused, volume, reading, picture)


def _refusal(rules: AdmissionRules, facts: HeaderFacts) -> str:
    answer = admit(rules, facts)
    return "" if answer.admitted else answer.reason


def _volume(model: Loaded, admitted: Sequence[Member], files: JobFiles) -> Volume:
    rules = model.bundle.manifest.series
    if rules is None:
        raise _Refused("the model reads single images, not series")
    volume = volume_of(_slices(admitted), files)
    order = volume.order
    answer = admit_series(rules, order.facts)
    if not answer.admitted:
        raise _Refused("; ".join((answer.reason, *order.notes)))
    return volume


def _slices(admitted: Sequence[Member]) -> list[SliceHeader]:
    """Of all frames of all files, as each was found when its header was read."""
    headers: list[SliceHeader] = []
    for number, one in enumerate(admitted, 1):
        found = one.examined.slices
        if isinstance(found, PixelError):
            raise type(found)(f"image {number} of {len(admitted)}: {found}" if len(admitted) > 1 else str(found))
        headers.extend(found or ())
    return headers


def _read(model: Loaded, volume: Volume, at_once: int, progress: Step) -> tuple[Reading, NDArray[np.uint8] | None]:
    """What the model says, and the key slice as a picture where a map lies on it."""

    def slice_at(place: int) -> GreyImage:
        progress()
        return volume.read(place)

    reading = read_series(model.bundle, model.runner, len(volume), slice_at, ahead=at_once)
    if not any(finding.presence is Presence.PRESENT for finding in reading.findings):
        return reading, None
    progress()
    # Decoded once more, so that no slice had to be kept until it was known which one weighs most.
    return reading, drawn_uint8(volume.read(heaviest(reading.slices).index))


def _told(
    members: Sequence[Member],
    refused: dict[int, str],
    volume: Volume,
    reading: Reading,
    picture: NDArray[np.uint8] | None,
) -> SeriesOutcome:
    by_path = {one.path: one for one in members}
    read = {one.index: volume.slices[one.index] for one in reading.slices}
    headers = {path: by_path[path].examined.dataset for path in {one.path for one in read.values()}}
    slices = tuple(
        SliceRead(headers[read[one.index].path], read[one.index].frame + 1, one.index + 1, one.weight)
        for one in reading.slices
    )
    key = heaviest(reading.slices).index
    notes = (*reading.notes, *volume.order.notes, *_left_out(refused, len(members)))
    result = SourceResult(
        header=headers[read[key].path],
        reading=replace(reading, notes=notes),
        picture=picture,
        frame=read[key].frame + 1,
        series=SeriesRead(len(volume), key + 1, slices),
    )
    chosen, ordered = {one.path for one in read.values()}, {one.path for one in volume.slices}
    beside = f"its series was read by {len(slices)} of {len(volume)} slices; this one was not among them"

    def outcome(one: Member) -> ImageOutcome:
        if one.place in refused:
            return ImageOutcome(False, refused[one.place])
        if one.path not in ordered:
            return ImageOutcome(False, "left out of its series: another size, orientation or the same place")
        return ImageOutcome(True, "" if one.path in chosen else beside)

    return SeriesOutcome(result, {one.place: outcome(one) for one in members})


def _left_out(refused: dict[int, str], images: int) -> tuple[str, ...]:
    if not refused:
        return ()
    return (f"{len(refused)} of {images} images of the series left out: {'; '.join(dict.fromkeys(refused.values()))}",)
