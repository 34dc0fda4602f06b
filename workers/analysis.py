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
class Analysis:
    """All images of one job, in the order given.

    analysed: at least one image was read by the model. reason: for people, of the job as a whole.
    """

    sources: tuple[SourceResult, ...]
    analysed: bool
    reason: str


def analyse(
    model: Loaded, sources: Sequence[SourceInput], limits: Limits, progress: Callable[[], None] = lambda: None
) -> Analysis:
    """Read every image, or say why not.

    progress: called before each image; what it raises (a lost lease) ends the work.
    Raises OSError where a stored file cannot be opened, HeaderError where it is no DICOM data set.
    """
    read = []
    for source in sources:
        progress()
        read.append(_read_one(model, source, limits))
    refused = [one.reason for one in read if one.reading is None]
    if not refused:
        reason = ""
    elif len(refused) == len(read) == 1:
        reason = refused[0]
    else:
        reason = f"{len(refused)} of {len(read)} images were not analysed: {'; '.join(dict.fromkeys(refused))}"
    return Analysis(tuple(read), len(refused) < len(read), reason)


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
