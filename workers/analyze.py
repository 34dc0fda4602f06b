"""Files in, reports out, without a record or a network: what `radnode analyze` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import dcmread

from db.errors import StorageFull
from node.dataset_source import HeaderError
from node.settings import Settings, config_digest
from node.uids import valid_uid
from node.version import VERSION
from workers.analysis import SourceInput, analyse, limits_for, terms_for
from workers.loaded import Loaded, LoadedModels
from workers.pixels import Poison
from workers.results import Provenance, ResultObject, build_results, readable_html
from workers.sandbox import Decoders, Examined, JobFiles
from workers.summaries import summary_of

RESULT_FILE = "result.json"
NOTICE = "Research use. Not a medical device; AI-generated, preliminary, not verified by a physician."
ANALYSED, NOT_ANALYSED, REFUSED = "analysed", "not analysed", "refused"

Document = dict[str, Any]

_OF_SERIES = ("series_instance_uid", "series_slices", "key_slice", "slices")


def analyze_files(
    settings: Settings, files: Sequence[Path], out_dir: Path, model_id: str, advance: Callable[[], None]
) -> Document:
    """Read each file by itself, or for a model of slices each series, and write the reports below `out_dir`; returns
    what `result.json` holds. The entry of a series stands under its first file and lists them all.

    A second run into the same folder gives the same objects, UIDs and times included.
    Raises ModelUnusable or ModelNotReady, and StorageFull where the folder cannot be written.
    """
    model = LoadedModels(settings).get(model_id)
    created_at = _earlier_run(out_dir / RESULT_FILE) or datetime.now(UTC).replace(microsecond=0)
    decoders = Decoders(terms_for(settings.work))
    run = _Run(settings, model, decoders, out_dir, created_at)
    entries = []
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for number, subject in enumerate(_subjects(run, files), 1):
            entries.append(_one(run, subject, number))
            for _ in subject:
                advance()
        document = {
            "notice": NOTICE,
            "created_at": created_at.isoformat(),
            "radnode": VERSION,
            "model": {
                "id": model.bundle.manifest.id,
                "version": model.bundle.manifest.version,
                "digest": model.bundle.identity.bundle_digest,
            },
            "files": entries,
        }
        (out_dir / RESULT_FILE).write_text(as_json(document) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageFull(
            f"{out_dir} cannot be written ({error.strerror}); make room or name another folder"
        ) from error
    finally:
        decoders.close()
    return document


def as_json(document: Document) -> str:
    return json.dumps(document, indent=2)


def lines(document: Document) -> list[str]:
    """One line per file, for people."""
    return [_line(entry) for entry in document["files"]]


def _line(entry: Document) -> str:
    if entry["outcome"] != ANALYSED:
        return f"{entry['file']}: {entry['outcome']}: {entry['reason']}"
    findings = ", ".join(f"{f['label']} {f['presence']} ({f['probability']:.3f})" for f in entry["findings"])
    of_series = f"; key slice {entry['key_slice']} of {entry['series_slices']}" if "key_slice" in entry else ""
    return f"{entry['file']}: {findings}{of_series}; {len(entry['results'])} objects written"


@dataclass(frozen=True)
class _Run:
    settings: Settings
    model: Loaded
    decoders: Decoders
    out_dir: Path
    created_at: datetime

    def files(self) -> JobFiles:
        """Of one subject: what one costs is not held against the next."""
        return JobFiles(self.decoders, limits_for(self.settings.work))


@dataclass(frozen=True)
class _File:
    """examined: None where it cannot be read, and why stands in `refused`."""

    path: Path
    examined: Examined | None
    refused: str = ""


def _subjects(run: _Run, files: Sequence[Path]) -> Iterator[list[_File]]:
    """What gets a report of its own: each file, or for a model of slices each series; unreadable files by themselves.

    A file that comes a second time, by its SOP Instance UID, is read by itself and refused as a series of one.
    """
    if run.model.bundle.manifest.series is None:
        yield from ([_examined(run, path)] for path in files)
        return
    subjects: dict[tuple[str, ...], list[_File]] = {}
    seen: set[str] = set()
    for file in (_examined(run, path) for path in files):
        key = ("file", str(file.path))
        if file.examined is not None:
            known = file.examined.header
            if known.sop_instance_uid not in seen:
                key = (known.study_instance_uid, known.series_instance_uid)
            seen.add(known.sop_instance_uid)
        subjects.setdefault(key, []).append(file)
    yield from subjects.values()


def _examined(run: _Run, path: Path) -> _File:
    try:
        examined = run.files().examine(path)
    except (HeaderError, Poison) as error:
        return _File(path, None, str(error))
    known = examined.header
    if not all(map(valid_uid, (known.sop_instance_uid, known.study_instance_uid, known.series_instance_uid))):
        return _File(path, None, "its study, series or instance UID is missing or no UID")
    return _File(path, examined)


def _one(run: _Run, subject: Sequence[_File], number: int) -> Document:
    settings, model, created_at = run.settings, run.model, run.created_at
    paths, examined = [file.path for file in subject], subject[0].examined
    if examined is None:
        return {"file": str(paths[0]), "outcome": REFUSED, "reason": subject[0].refused, "results": []}
    known = examined.header
    sources = [SourceInput(file.path, examined=file.examined) for file in subject]
    try:
        analysis = analyse(model, sources, run.files())
    except (HeaderError, Poison) as error:
        return {"file": str(paths[0]), "outcome": REFUSED, "reason": str(error), "results": []}
    of_series = model.bundle.manifest.series is not None
    subject_uid = known.series_instance_uid if of_series else known.sop_instance_uid
    provenance = Provenance(
        identity="|".join(("analyze", subject_uid, model.bundle.manifest.id, created_at.isoformat())),
        created_at=created_at,
        model=model.bundle.identity,
        ae_title=settings.ae_title,
        software_version=VERSION,
        config_digest=config_digest(settings),
    )
    results = build_results(analysis.sources, provenance)
    written = [_write(result, run.out_dir, number, place) for place, result in enumerate(results)]
    (source,) = analysis.sources
    summary = summary_of(source)
    told = {name: summary[name] for name in _OF_SERIES if name in summary}
    return {
        "file": str(paths[0]),
        **({"files": [str(path) for path in paths], **told} if of_series else {}),
        "outcome": ANALYSED if analysis.analysed else NOT_ANALYSED,
        "reason": analysis.reason,
        "study_instance_uid": known.study_instance_uid,
        "sop_instance_uid": summary["sop_instance_uid"] if of_series else known.sop_instance_uid,
        "findings": summary.get("findings", []),
        "results": written,
    }


def _write(result: ResultObject, out_dir: Path, number: int, place: int) -> Document:
    """The object itself, and a rendering that any computer opens."""
    stem = f"{number:04d}-{place}-{result.kind.lower()}"
    (out_dir / f"{stem}.dcm").write_bytes(result.data)
    if result.kind == "SR":
        rendering = f"{stem}.html"
        (out_dir / rendering).write_text(readable_html(result.data), encoding="utf-8")
    else:
        rendering = f"{stem}.png"
        Image.fromarray(dcmread(BytesIO(result.data)).pixel_array).save(out_dir / rendering)
    return {
        "kind": result.kind,
        "sop_class_uid": result.ref.sop_class_uid,
        "sop_instance_uid": result.ref.sop_instance_uid,
        "series_instance_uid": result.ref.series_instance_uid,
        "file": f"{stem}.dcm",
        "rendering": rendering,
    }


def _earlier_run(path: Path) -> datetime | None:
    """When an earlier run into the same folder was made; None where there was none."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        moment = datetime.fromisoformat(earlier["created_at"])
    except (OSError, ValueError, KeyError, TypeError):
        # No run, or a file of something else: this run writes its own.
        return None
    return moment if moment.tzinfo is not None else None
