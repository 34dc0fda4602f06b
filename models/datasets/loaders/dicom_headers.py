"""What a data set needs of DICOM files, from their headers alone: no pixel is read, no name of a patient is kept."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from models.datasets.paths import shown
from models.datasets.samples import Problems

_TAGS = [
    "SpecificCharacterSet",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "ViewPosition",
    "Manufacturer",
    "ManufacturerModelName",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "NumberOfFrames",
    "Rows",
    "Columns",
]
# Everything pydicom is known to raise on files that are damaged in other ways than it looks for.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Header:
    """Of one file. Texts are "" and numbers None where the file has none.

    position, orientation: three and six numbers of PS3.3 C.7.6.2.1.1, in mm and direction cosines; () if not usable.
    spacing: mm from row to row and from column to column; () if not usable.
    """

    file: str
    sop: str
    study: str
    series: str
    modality: str
    image_type: tuple[str, ...]
    patient: str
    sex: str
    age: str
    view: str
    device: str
    number: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    rows: int
    columns: int
    frames: int
    has_pixels: bool


def headers(folder: Path, problems: Problems) -> Iterator[Header]:
    """Every DICOM file below the folder, in the order of their names; links are not followed.

    Files that are no DICOM are noted; what begins as DICOM and cannot be read is left out.
    """
    for path in _files(folder):
        file = path.relative_to(folder).as_posix()
        try:
            yield _header(path, file)
        except InvalidDicomError:
            problems.note(shown(file), "files that are no DICOM were left aside")
        except _DAMAGE as error:
            problems.leave_out(shown(file), f"the header cannot be read ({type(error).__name__})")


def pseudonym(patient: str, salt: str) -> str:
    """A hospital's number as 16 hexadecimal digits: the same person stays the same, and the number is not kept."""
    return hashlib.sha256(f"{salt}|{patient}".encode()).hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _header(path: Path, file: str) -> Header:
    with warnings.catch_warnings():
        # pydicom warns of each value that breaks its representation; those that matter are checked here.
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        return Header(
            file=file,
            sop=_text(found, "SOPInstanceUID"),
            study=_text(found, "StudyInstanceUID"),
            series=_text(found, "SeriesInstanceUID"),
            modality=_text(found, "Modality").upper(),
            image_type=tuple(part.strip().upper() for part in _text(found, "ImageType").split("\\")),
            patient=_text(found, "PatientID"),
            sex=_text(found, "PatientSex"),
            age=_text(found, "PatientAge"),
            view=_text(found, "ViewPosition"),
            device=f"{_text(found, 'Manufacturer')} {_text(found, 'ManufacturerModelName')}".strip(),
            number=_number(found, "InstanceNumber"),
            position=_numbers(found, "ImagePositionPatient", 3),
            orientation=_numbers(found, "ImageOrientationPatient", 6),
            spacing=_numbers(found, "PixelSpacing", 2),
            rows=_number(found, "Rows") or 0,
            columns=_number(found, "Columns") or 0,
            frames=_number(found, "NumberOfFrames") or 1,
            has_pixels="Rows" in found,
        )


def _text(found: Any, keyword: str) -> str:
    value = found.get(keyword)
    if value is None:
        return ""
    many = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    text = "\\".join(str(part) for part in many).strip(" \0")
    return "".join(letter for letter in text if letter.isprintable())


def _number(found: Any, keyword: str) -> int | None:
    try:
        return int(found.get(keyword))
    except (TypeError, ValueError):
        return None


def _numbers(found: Any, keyword: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in found.get(keyword))
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and all(map(isfinite, numbers)) else ()
