"""This node's own result objects, read for a page: the report as text, and what a picture was drawn on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from db.errors import UnreadableError

_DEEPEST = 32
_MOST_LINES = 2000


@dataclass(frozen=True)
class ReportLine:
    """One content item. depth: 0 at the top. value: "" for a heading."""

    depth: int
    name: str
    value: str


@dataclass(frozen=True)
class Drawn:
    """A picture with a map: the image it was drawn on, and what of."""

    source_uid: str
    description: str


def report_lines(path: Path) -> list[ReportLine]:
    """The content tree of a structured report (PS3.3 C.17.3) as indented text. Raises UnreadableError."""
    report = _read(path)
    return list(islice(_walk(report.get("ContentSequence") or [], 0), _MOST_LINES))


def drawn_on(path: Path) -> Drawn:
    """Of a Secondary Capture that this node drew. Raises UnreadableError."""
    picture = _read(path)
    sources = picture.get("SourceImageSequence") or []
    source = str(sources[0].get("ReferencedSOPInstanceUID", "")) if sources else ""
    return Drawn(source, str(picture.get("DerivationDescription", "")).partition(";")[0])


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError, EOFError) as error:
        raise UnreadableError(
            f"a result's file cannot be read ({type(error).__name__}); see `radnode doctor`"
        ) from error


def _walk(items: Sequence[Dataset], depth: int) -> Iterator[ReportLine]:
    if depth > _DEEPEST:
        return
    for item in items:
        yield ReportLine(depth, _meaning(item, "ConceptNameCodeSequence") or "Item", _value(item))
        yield from _walk(item.get("ContentSequence") or [], depth + 1)


def _value(item: Dataset) -> str:
    kind = str(item.get("ValueType", ""))
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        measured = item.get("MeasuredValueSequence") or []
        return " ".join(
            f"{part.get('NumericValue', '')} {_meaning(part, 'MeasurementUnitsCodeSequence')}".strip()
            for part in measured
        )
    if kind in {"IMAGE", "COMPOSITE"}:
        return ", ".join(str(one.ReferencedSOPInstanceUID) for one in item.get("ReferencedSOPSequence") or [])
    keyword = {"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName", "DATETIME": "DateTime"}.get(kind, "")
    return str(item.get(keyword, "")) if keyword else ""


def _meaning(item: Dataset, keyword: str) -> str:
    return next((str(code.get("CodeMeaning", "")) for code in item.get(keyword) or []), "")
