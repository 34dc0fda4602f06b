"""A model reads the images of one job. No record, no network: files in, findings and refusals out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from db.errors import UnreadableError
from models.admission import admit
from models.contracts import HeaderFacts, Reading
from models.errors import NoReadingError, PreprocessError
from models.reading import read_image
from node.dataset_source import HeaderError
from node.header import Header, header_facts
from node.header import facts as facts_of
from node.settings import Work
from workers.loaded import Loaded
from workers.pixels import Limits, PixelError, Poison, drawn_uint8
from workers.priors import NOT_FETCHED, Companion, Priors
from workers.results import SourceResult
from workers.sandbox import Examined, JobFiles, Terms
from workers.series import ImageOutcome, Member, read_one_series, series_of
from workers.sources import identifiers

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SourceInput:
    """One image to read.

    facts: as `node.header.facts` made them; None reads them from the file. known: its UIDs as the record has them, to
    report of a file that cannot be followed; without them such a file is an error. examined: where it was, before.
    """

    path: Path
    facts: dict[str, Any] | None = None
    calling_ae: str = ""
    known: Header | None = None
    examined: Examined | None = None


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
    model: Loaded,
    sources: Sequence[SourceInput],
    files: JobFiles,
    progress: Callable[[], None] = lambda: None,
    priors: Priors | None = None,
) -> Analysis:
    """Read every image, or for a model of slices every series, or say why not.

    files: through which every file is read, in processes of their own.
    progress: called before each image is decoded; what it raises (a lost lease) ends the work.
    priors: of the patient, for a model that compares; None where nobody fetches any.
    Raises OSError where a stored file cannot be opened, DecoderUnavailable where none can be read now, and HeaderError
    or Poison for a file whose header cannot be read and of which nothing else is known.
    """
    if model.bundle.manifest.series is not None:
        return _analyse_series(model, sources, files, progress)
    read = []
    rules = model.bundle.manifest.priors
    companion = None if rules is None else Companion(model, priors or Priors(Path(), reason=NOT_FETCHED), files)
    for source in sources:
        progress()
        read.append(_read_one(model, source, files, companion))
    images = tuple(ImageOutcome(one.reading is not None, one.reason) for one in read)
    return Analysis(tuple(read), images, any(one.read for one in images), _reason(read, "images"))


def _analyse_series(
    model: Loaded, sources: Sequence[SourceInput], files: JobFiles, progress: Callable[[], None]
) -> Analysis:
    members = []
    with _examined_at_once([source.path for source in sources], files) as headers:
        for place, (source, examine) in enumerate(zip(sources, headers, strict=True)):
            progress()
            # Where it was examined before, nobody asked for its slices.
            examined, unreadable = _examine(replace(source, examined=None), examine)
            members.append(Member(place, source.path, examined, _facts(examined.header, source), unreadable))
    found = [read_one_series(model, group, files, progress) for group in series_of(members)]
    by_place = {place: image for series in found for place, image in series.images.items()}
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


def _read_one(model: Loaded, source: SourceInput, files: JobFiles, companion: Companion | None) -> SourceResult:
    examined, unreadable = _examine(source, lambda: files.examine(source.path))
    known, header = examined.header, examined.dataset
    if unreadable:
        return SourceResult(header, None, unreadable, None)
    admission = admit(model.bundle.manifest.admission, _facts(known, source))
    if not admission.admitted:
        return SourceResult(header, None, admission.reason, None)
    prior, alone = (None, "") if companion is None else companion.beside(known)
    try:
        image = files.grey(source.path)
        reading: Reading = read_image(model.bundle, model.runner, image, None if prior is None else prior.image)
    except (PixelError, PreprocessError, NoReadingError, UnreadableError) as error:
        log.warning("image_not_analysed", sop_instance_uid=known.sop_instance_uid, reason=str(error))
        return SourceResult(header, None, str(error), None)
    picture = drawn_uint8(image) if reading.explanations else None
    result = SourceResult(header, reading, "", picture)
    if companion is None:
        return result
    if prior is None or not reading.compared:
        return replace(result, without_prior=alone or "it cannot become the model's input")
    return replace(result, prior=prior.header)


@contextmanager
def _examined_at_once(paths: Sequence[Path], files: JobFiles) -> Iterator[list[Callable[[], Examined]]]:
    """Headers and slices of the files, read by all decoders; each comes, or raises, when it is asked for."""
    threads = ThreadPoolExecutor(files.at_once, thread_name_prefix="headers")
    with warnings.catch_warnings():
        # Of all threads: where each sets and resets them by itself, one undoes what another has just set.
        warnings.simplefilter("ignore")
        try:
            yield [threads.submit(files.examine, path, slices=True).result for path in paths]
        finally:
            threads.shutdown(cancel_futures=True)


def _examine(source: SourceInput, examine: Callable[[], Examined]) -> tuple[Examined, str]:
    """A file's header, and the reason why it cannot be read where it cannot."""
    if source.examined is not None:
        return source.examined, ""
    try:
        return examine(), ""
    except (HeaderError, Poison) as error:
        if source.known is None:
            raise
        uid, reason = source.known.sop_instance_uid, str(error)
        log.warning("image_not_analysed", sop_instance_uid=uid, reason=reason)
        return Examined(source.known, identifiers(source.known)), reason


def _facts(known: Header, source: SourceInput) -> HeaderFacts:
    stored = facts_of(known, source.calling_ae) if source.facts is None else source.facts
    return HeaderFacts(**header_facts(stored))


def limits_for(work: Work) -> Limits:
    """The pixel limits of the settings."""
    return Limits(max_frame_pixels=work.max_image_pixels, max_decoded_bytes=work.max_decoded_bytes)


def terms_for(work: Work) -> Terms:
    """What the settings grant decoders."""
    return Terms(work.decode_processes, work.decode_seconds, work.decode_memory_bytes)
