"""A model reads the images of one job. No record, no network: files in, findings and refusals out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from db.errors import UnreadableError
from models.admission import admit
from models.contracts import HeaderFacts, Reading
from models.errors import NoReadingError, PreprocessError
from models.reading import read_image
from node.header import Header, header_facts, read_file
from node.header import facts as facts_of
from workers.loaded import Loaded
from workers.pixels import Limits, PixelError, display_uint8, read_grey
from workers.results import SourceResult
from workers.series import Member, read_one_series, series_of
from workers.sources import read_source_header

log = structlog.get_logger(__name__)

# Larger than any result picture: what is drawn is scaled from this, and a mammogram is not copied whole.
_PICTURE_SIDE = 1536


@dataclass(frozen=True)
class SourceInput:
    """One image to read. facts: as `node.header.facts` made them; None reads them from the file."""

    path: Path
    facts: dict[str, Any] | None = None
    calling_ae: str = ""


@dataclass(frozen=True)
class ImageOutcome:
    """What became of one image. reason: why it was not read, or what else there is to say of it."""

    read: bool
    reason: str


@dataclass(frozen=True)
class Analysis:
    """All images of one job.

    sources: what there is to report of: each image, or for a model of slices each series, in the order given.
    images: what became of every image, in the order given.
    analysed: at least one source was read by the model. reason: for people, of the job as a whole.
    """

    sources: tuple[SourceResult, ...]
    images: tuple[ImageOutcome, ...]
    analysed: bool
    reason: str


def analyse(
    model: Loaded, sources: Sequence[SourceInput], limits: Limits, progress: Callable[[], None] = lambda: None
) -> Analysis:
    """Read every image, or for a model of slices every series, or say why not.

    progress: called before each image is decoded; what it raises (a lost lease) ends the work.
    Raises OSError where a stored file cannot be opened, HeaderError where it is no DICOM data set.
    """
    if model.bundle.manifest.series is not None:
        return _analyse_series(model, sources, limits, progress)
    read = []
    for source in sources:
        progress()
        read.append(_read_one(model, source, limits))
    images = tuple(ImageOutcome(one.reading is not None, one.reason) for one in read)
    return Analysis(tuple(read), images, any(one.read for one in images), _reason(read, "images"))


def _analyse_series(
    model: Loaded, sources: Sequence[SourceInput], limits: Limits, progress: Callable[[], None]
) -> Analysis:
    members = []
    for place, source in enumerate(sources):
        progress()
        known = read_file(source.path)
        members.append(Member(place, source.path, known, _facts(known, source)))
    found = [read_one_series(model, group, limits, _PICTURE_SIDE, progress) for group in series_of(members)]
    by_place = {one.place: ImageOutcome(one.read, one.reason) for series in found for one in series.images}
    results = tuple(series.result for series in found)
    images = tuple(by_place[place] for place in range(len(sources)))
    return Analysis(results, images, any(one.reading is not None for one in results), _reason(results, "series"))


def _reason(results: Sequence[SourceResult], what: str) -> str:
    refused = [one.reason for one in results if one.reading is None]
    if not refused:
        return ""
    if len(refused) == len(results) == 1:
        return refused[0]
    return f"{len(refused)} of {len(results)} {what} were not analysed: {'; '.join(dict.fromkeys(refused))}"


def _read_one(model: Loaded, source: SourceInput, limits: Limits) -> SourceResult:
    known = read_file(source.path)
    header = read_source_header(source.path, known)
    admission = admit(model.bundle.manifest.admission, _facts(known, source))
    if not admission.admitted:
        return SourceResult(header, None, admission.reason, None)
    try:
        image = read_grey(source.path, limits=limits)
        reading: Reading = read_image(model.bundle, model.runner, image)
    except (PixelError, PreprocessError, NoReadingError, UnreadableError) as error:
        log.warning("image_not_analysed", sop_instance_uid=known.sop_instance_uid, reason=str(error))
        return SourceResult(header, None, str(error), None)
    picture = display_uint8(image, _PICTURE_SIDE) if reading.explanations else None
    return SourceResult(header, reading, "", picture)


def _facts(known: Header, source: SourceInput) -> HeaderFacts:
    stored = facts_of(known, source.calling_ae) if source.facts is None else source.facts
    return HeaderFacts(**header_facts(stored))


def limits_for(max_decoded_bytes: int) -> Limits:
    """The pixel limits of the settings."""
    return Limits(max_decoded_bytes=max_decoded_bytes)
