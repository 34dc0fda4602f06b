"""From what a model said to DICOM objects: pure functions, no files, no network, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from db.errors import UnreadableError
from db.identities import Correction
from models.contracts import Presence
from workers.results.contents import (
    Provenance,
    ResultObject,
    SeriesRead,
    SliceRead,
    SourceResult,
    explanation_of,
)
from workers.results.ko import build_flags, naming_report
from workers.results.page import readable_html
from workers.results.sc import Shown, build_picture, picture_ref, warm_up
from workers.results.source import Source, read_source
from workers.results.sr import as_sop_class, build_report, sr_fallbacks
from workers.results.subject import corrected, read_subject
from workers.results.tree import Evidence, Part

__all__ = [
    "Provenance",
    "ResultObject",
    "SeriesRead",
    "SliceRead",
    "SourceResult",
    "as_sop_class",
    "build_results",
    "naming_report",
    "part_of",
    "readable_html",
    "sr_fallbacks",
    "warm_up",
]


def build_results(
    sources: Sequence[SourceResult],
    provenance: Provenance,
    correction: Correction | None = None,
    *,
    flags: bool = False,
) -> tuple[ResultObject, ...]:
    """One report for the whole job, then one overlay per source (image or series) and positive label that has a map;
    last, where `flags` are wanted and something is positive, a key object selection of those.

    Equal inputs give equal bytes. Patient and study are those of the first source; the patient as `correction` says
    where its identity was changed since.

    Raises:
        UnreadableError: a source has no usable UIDs, or no size although it was read; or the sources belong to more
            than one study; or DICOM cannot hold the changed identity.
        ValueError: there are no sources, ``created_at`` has no time zone, or a map comes without its picture.
    """
    if not sources:
        raise ValueError("a report needs at least one source")
    if provenance.created_at.tzinfo is None:
        raise ValueError("created_at needs a time zone")
    parts = [part_of(result, provenance) for result in sources]
    if len({part.source.study_uid for part in parts}) > 1:
        raise UnreadableError("the sources of one report belong to several studies")
    subject = read_subject(sources[0].header)
    if correction is not None:
        subject = corrected(subject, correction)
    results = [build_report(parts, provenance, subject)]
    for part in parts:
        reading, picture = part.result.reading, part.result.picture
        if reading is None:
            continue
        for finding in reading.findings:
            found = explanation_of(reading, finding)
            if finding.key in part.pictures and found is not None and picture is not None:
                shown = Shown(part.source, finding, found, picture, part.result.frame, part.result.series)
                results.append(build_picture(shown, len(results), provenance, subject))
    flagged = build_flags(parts, results[0].ref, provenance, subject) if flags else None
    return tuple(results if flagged is None else [*results, flagged])


def part_of(result: SourceResult, provenance: Provenance) -> Part:
    """One source as a report tells of it. Raises like `build_results`."""
    source = read_source(result.header)
    reading = result.reading
    if reading is None:
        return Part(source, result, {})
    evidence = _evidence(result)
    shown = [f for f in reading.findings if f.presence is Presence.PRESENT and explanation_of(reading, f) is not None]
    if shown and result.picture is None:
        raise ValueError(f"the source {source.sop_instance_uid} has maps but no picture to draw them on")
    pictures = {f.key: picture_ref(source, f, provenance) for f in shown}
    prior = None if result.prior is None else read_source(result.prior)
    part = Part(source, result, pictures, evidence, prior)
    if min(part.shape) < 1:
        raise UnreadableError(f"the source {source.sop_instance_uid} was read but has no rows and columns")
    return part


def _evidence(result: SourceResult) -> tuple[Evidence, ...]:
    """Every file a series was read from, once, with the frames of it that were looked at."""
    frames: dict[str, tuple[Source, list[int]]] = {}
    for one in result.series.slices if result.series is not None else ():
        source = read_source(one.header)
        frames.setdefault(source.sop_instance_uid, (source, []))[1].append(one.frame)
    return tuple(Evidence(source, tuple(numbers)) for source, numbers in frames.values())
