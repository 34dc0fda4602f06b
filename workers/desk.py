"""The bundles on disk as the web side shows them: it asks through an entry point, since it loads no framework."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from db.model_versions import ModelVersionView
from db.states import ModelState
from models import registry
from models.errors import BundleError
from models.manifest import MANIFEST, Figure, Manifest, read_manifest
from node.settings import Settings
from node.web.desk import BundleCard, Point, SourceFigures
from workers.models_cli import require_bundle_in_a_folder, require_version_usable

_LONGEST_CARD = 100_000
require_usable = require_version_usable
require_fallback = require_bundle_in_a_folder


def cards(settings: Settings, versions: Sequence[ModelVersionView]) -> list[BundleCard]:
    """Every bundle in the node's folders, then every installed version; one that is broken says how."""
    active = {one.model_id for one in versions if one.state is ModelState.ACTIVE}
    found = [_folder_card(folder) for folder in registry.candidates(settings.work.model_dirs)]
    # Of several folders with one id the last one counts.
    last = {card.id: index for index, card in enumerate(found) if not card.problem}
    listed = [
        _with(card, reads=last.get(card.id) == index and card.id not in active) for index, card in enumerate(found)
    ]
    return listed + [_version_card(settings, one) for one in versions]


def _folder_card(folder: Path) -> BundleCard:
    origin = "came with the node" if folder.parent == registry.SHIPPED else "in a folder"
    try:
        return _with(_read(folder, _stamp(folder)), origin=origin)
    except BundleError as error:
        return BundleCard(folder.name, "", origin=origin, problem=str(error))


def _version_card(settings: Settings, version: ModelVersionView) -> BundleCard:
    folder, reads = settings.data_dir / version.folder, version.state is ModelState.ACTIVE
    try:
        card = _read(folder, _stamp(folder))
    except BundleError as error:
        return BundleCard(
            version.model_id,
            version.version,
            digest=version.digest,
            origin="installed",
            reads=reads,
            problem=str(error),
        )
    return _with(card, origin="installed", reads=reads, problem=version.reason)


def _stamp(folder: Path) -> int:
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@lru_cache(maxsize=64)
def _read(folder: Path, _stamp_ns: int) -> BundleCard:
    """As the manifest says; files are held against their digests before a bundle is used, not before it is shown."""
    manifest, digest = read_manifest(folder)
    return BundleCard(
        id=manifest.id,
        version=manifest.version,
        digest=digest,
        name=manifest.name,
        intended_use=manifest.intended_use,
        regulatory_status=manifest.regulatory_status,
        licence=manifest.licence,
        architecture=manifest.architecture.name,
        limits=(*manifest.limits, *manifest.contraindications),
        points=tuple(_points(manifest)),
        figures=tuple(_figures(manifest.evaluation)),
        card=_text(folder, manifest),
        reference=_section(manifest.evaluation, "reference"),
    )


def _points(manifest: Manifest) -> Iterator[Point]:
    display = {label.key: label.display for label in manifest.labels}
    for point in manifest.operating_points:
        yield Point(
            point.label,
            display[point.label],
            point.name,
            point.threshold,
            _figure(point.sensitivity),
            _figure(point.specificity),
        )


def _figure(figure: Figure) -> tuple[float, float, float]:
    return (figure.value, figure.low, figure.high)


def _figures(evaluation: dict[str, Any]) -> Iterator[SourceFigures]:
    for source, told in _section(_section(evaluation, "test"), "sources").items():
        if isinstance(told, dict):
            auroc = _section(told, "auroc")
            whole = all(isinstance(auroc.get(name), int | float) for name in ("value", "low", "high"))
            figure = (float(auroc["value"]), float(auroc["low"]), float(auroc["high"])) if whole else None
            images = told.get("images", 0)
            yield SourceFigures(str(source), images if isinstance(images, int) else 0, figure)


def _section(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    found = mapping.get(name)
    return found if isinstance(found, dict) else {}


def _text(folder: Path, manifest: Manifest) -> str:
    path = next((folder / entry.path for entry in manifest.files if entry.role == "card"), None)
    if path is None or not path.is_file() or path.is_symlink():
        return ""
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(_LONGEST_CARD)


def _with(card: BundleCard, **changes: Any) -> BundleCard:
    return BundleCard(**{**vars(card), **changes})
