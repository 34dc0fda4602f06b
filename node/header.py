"""What the node needs to know of an instance, read from its dataset without touching a pixel.

Values are taken raw and converted here: no parser that recurses, no conversion of attributes nobody asked for, and no
warning that could carry a patient's name into a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.charset import python_encoding
from pydicom.valuerep import PN_DELIMS

from node.character_sets import decode_extended
from node.dataset_source import MOST_INFLATED_BYTES, HeaderError, RawDataset, open_dataset, open_stream
from node.dataset_walk import PIXEL_TAGS, Element, first_item, walk

__all__ = [
    "Header",
    "HeaderError",
    "check_complete",
    "examine",
    "examine_stream",
    "facts",
    "header_facts",
    "read_file",
    "read_header",
]

_MOST_VALUE_BYTES = 1 << 12
# PostgreSQL stores no NUL and no half of a surrogate pair, and a terminal acts on the others.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_VIEW_CODE_SEQUENCE = 0x00540220
_VIEWS_BY_MEANING = {
    "anteroposterior": "AP",
    "posteroanterior": "PA",
    "leftlateral": "LL",
    "rightlateral": "RL",
    "lateral": "LATERAL",
}

# Attribute of `Header` -> tag, for everything that is text.
_TEXT = {
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "study_date": 0x00080020,
    "accession_number": 0x00080050,
    "modality": 0x00080060,
    "conversion_type": 0x00080064,
    "presentation_intent": 0x00080068,
    "manufacturer": 0x00080070,
    "study_description": 0x00081030,
    "series_description": 0x0008103E,
    "manufacturer_model": 0x00081090,
    "patient_name": 0x00100010,
    "patient_id": 0x00100020,
    "issuer_of_patient_id": 0x00100021,
    "patient_birth_date": 0x00100030,
    "patient_sex": 0x00100040,
    "body_part": 0x00180015,
    "protocol_name": 0x00181030,
    "slice_thickness": 0x00180050,
    "patient_position": 0x00185100,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
    "laterality": 0x00200060,
    "photometric": 0x00280004,
    "burned_in_annotation": 0x00280301,
}
_SEVERAL = {
    "image_type": 0x00080008,
    "imager_pixel_spacing": 0x00181164,
    "patient_orientation": 0x00200020,
    "pixel_spacing": 0x00280030,
}
# Integers as text (VR IS), and as binary numbers (VR US; a peer's UL is read as well).
_TEXT_INTEGERS = {
    "series_number": 0x00200011,
    "instance_number": 0x00200013,
    "images_in_acquisition": 0x00201002,
    "number_of_study_related_instances": 0x00201208,
    "frames": 0x00280008,
}
_BINARY_INTEGERS = {
    "samples_per_pixel": 0x00280002,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "bits_stored": 0x00280101,
}
_CHARACTER_SET, _PATIENT_AGE, _VIEW_POSITION, _IMAGE_LATERALITY = 0x00080005, 0x00101010, 0x00185101, 0x00200062
_TAGS = (
    *_TEXT.values(),
    *_SEVERAL.values(),
    *_TEXT_INTEGERS.values(),
    *_BINARY_INTEGERS.values(),
    *(_CHARACTER_SET, _PATIENT_AGE, _VIEW_POSITION, _IMAGE_LATERALITY),
)
_WANTED = {**dict.fromkeys(_TAGS, _MOST_VALUE_BYTES), _VIEW_CODE_SEQUENCE: 1 << 16}
_CODE_MEANING = 0x00080104
_VIEW_CODE = {_CODE_MEANING: _MOST_VALUE_BYTES}


@dataclass(frozen=True)
class Header:
    """One instance's attributes. Text is stripped, holds no control character and is "" where absent; numbers are None
    where absent or no number.

    The UIDs are as the peer sent them: check with `valid_uid` before any use. ``patient_name``, ``patient_id``,
    ``patient_birth_date``, ``study_date`` and ``accession_number`` are protected health information.

    view_position: View Position (0018,5101); else AP, PA, LL, RL or LATERAL by the meaning of View Code Sequence.
    age_years: Patient's Age, else from birth date and study date.
    number_of_study_related_instances: (0020,1208), which some modalities send in the image.
    has_pixels: a pixel data element is there.
    """

    transfer_syntax_uid: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    study_date: str = ""
    accession_number: str = ""
    modality: str = ""
    conversion_type: str = ""
    presentation_intent: str = ""
    manufacturer: str = ""
    manufacturer_model: str = ""
    study_description: str = ""
    series_description: str = ""
    protocol_name: str = ""
    patient_name: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    age_years: float | None = None
    body_part: str = ""
    view_position: str = ""
    laterality: str = ""
    patient_position: str = ""
    patient_orientation: tuple[str, ...] = ()
    pixel_spacing: tuple[str, ...] = ()
    imager_pixel_spacing: tuple[str, ...] = ()
    slice_thickness: str = ""
    image_type: tuple[str, ...] = ()
    photometric: str = ""
    burned_in_annotation: str = ""
    samples_per_pixel: int | None = None
    bits_stored: int | None = None
    rows: int | None = None
    columns: int | None = None
    frames: int | None = None
    series_number: int | None = None
    instance_number: int | None = None
    images_in_acquisition: int | None = None
    number_of_study_related_instances: int | None = None
    has_pixels: bool = False


def read_header(
    source: bytes | BinaryIO, transfer_syntax: str | None = None, max_inflate_bytes: int = MOST_INFLATED_BYTES
) -> Header:
    """Read the attributes of `Header`, stopping before the pixels.

    Args:
        source: a DICOM file or the dataset of a C-STORE, as bytes or as a seekable binary file.
        transfer_syntax: of a dataset that comes without file meta information; None guesses.
        max_inflate_bytes: limit for deflated datasets.

    Raises:
        HeaderError: no DICOM dataset, or cut or malformed before the pixels.
    """
    with open_dataset(source, transfer_syntax, max_inflate_bytes) as dataset:
        return _header(dataset, whole=False)


def examine(
    source: bytes | BinaryIO, transfer_syntax: str | None = None, max_inflate_bytes: int = MOST_INFLATED_BYTES
) -> Header:
    """`read_header` and `check_complete` in one pass over the file: what a receiver asks before it says yes.

    Raises:
        HeaderError: as those two; also "truncated: …" where an image's header is followed by no pixels, which is what
            a cut between two elements leaves.
    """
    with open_dataset(source, transfer_syntax, max_inflate_bytes) as dataset:
        return _examined(dataset)


def examine_stream(
    pieces: Iterable[bytes | memoryview], transfer_syntax: str, max_inflate_bytes: int = MOST_INFLATED_BYTES
) -> Header:
    """`examine` for the bare bytes of a C-STORE while they come: asks for a piece when it needs one.

    Padding behind the last element may be left over. Raises HeaderError as `examine`.
    """
    return _examined(open_stream(pieces, transfer_syntax, max_inflate_bytes))


def _examined(dataset: RawDataset) -> Header:
    header = _header(dataset, whole=True)
    if header.rows and header.columns and header.samples_per_pixel and not header.has_pixels:
        raise HeaderError("truncated: an image without pixel data")
    return header


def check_complete(
    source: bytes | BinaryIO, transfer_syntax: str | None = None, max_inflate_bytes: int = MOST_INFLATED_BYTES
) -> None:
    """Prove from the structure alone that the dataset's last element ends within the data.

    Raises:
        HeaderError: "truncated: …" where bytes are missing (native pixels, fragments, their delimiter, sequences);
            "malformed: …" where the structure cannot be followed.
    """
    with open_dataset(source, transfer_syntax, max_inflate_bytes) as dataset:
        for _ in walk(dataset):
            pass


def read_file(path: Path) -> Header:
    """`read_header` of a file.

    Raises:
        HeaderError: as `read_header`.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        return read_header(file)


def facts(header: Header, calling_ae: str) -> dict[str, Any]:
    """What routing and admission look at, ready for JSON: no name, id or date of a patient in it."""
    return {
        "sop_class_uid": header.sop_class_uid,
        "modality": header.modality,
        "body_part": header.body_part,
        "view_position": header.view_position,
        "photometric": header.photometric,
        "study_description": header.study_description,
        "series_description": header.series_description,
        "protocol_name": header.protocol_name,
        "image_type": list(header.image_type),
        "manufacturer": header.manufacturer,
        "rows": header.rows or 0,
        "columns": header.columns or 0,
        "frames": header.frames or 1,
        "age_years": header.age_years,
        "sex": header.patient_sex,
        "calling_ae": calling_ae,
        "patient_orientation": list(header.patient_orientation),
        "extra": {
            "patient_position": header.patient_position,
            "laterality": header.laterality,
            "conversion_type": header.conversion_type,
            "presentation_intent": header.presentation_intent,
            "burned_in_annotation": header.burned_in_annotation,
            "manufacturer_model": header.manufacturer_model,
            "pixel_spacing_mm": next(iter(header.pixel_spacing or header.imager_pixel_spacing), ""),
            "slice_thickness_mm": header.slice_thickness,
        },
        "series_instance_uid": header.series_instance_uid,
        "series_number": header.series_number,
        "instance_number": header.instance_number,
        "images_in_acquisition": header.images_in_acquisition,
        "number_of_study_related_instances": header.number_of_study_related_instances,
        "has_pixels": header.has_pixels,
    }


_ONLY_FOR_THE_NODE = frozenset(
    {
        "series_instance_uid",
        "series_number",
        "instance_number",
        "images_in_acquisition",
        "number_of_study_related_instances",
        "has_pixels",
    }
)


def header_facts(stored: dict[str, Any]) -> dict[str, Any]:
    """The part of `facts` whose keys are the fields of ``models.contracts.HeaderFacts``; lists become tuples."""
    kept = {key: value for key, value in stored.items() if key not in _ONLY_FOR_THE_NODE}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}


def _header(dataset: RawDataset, whole: bool) -> Header:
    raw: dict[int, bytes] = {}
    view_code: Element | None = None
    has_pixels = False
    for element in walk(dataset, stop_at_pixels=not whole, keep=_WANTED):
        if element.tag in PIXEL_TAGS:
            has_pixels = True
        elif element.tag == _VIEW_CODE_SEQUENCE:
            view_code = element
        elif element.value is not None:
            raw[element.tag] = element.value
    return _assemble(dataset, raw, {} if view_code is None else first_item(dataset, view_code, _VIEW_CODE), has_pixels)


def _assemble(dataset: RawDataset, raw: dict[int, bytes], view_code: dict[int, bytes], has_pixels: bool) -> Header:
    encodings = _encodings(raw.get(_CHARACTER_SET, b""))
    text = {name: _text(raw.get(tag, b""), encodings) for name, tag in _TEXT.items()}
    text["laterality"] = text["laterality"] or _text(raw.get(_IMAGE_LATERALITY, b""), encodings)
    several = {name: _parts(raw.get(tag, b""), encodings) for name, tag in _SEVERAL.items()}
    integers = {name: _text_integer(raw.get(tag, b"")) for name, tag in _TEXT_INTEGERS.items()}
    order = "big" if dataset.big_endian else "little"
    for name, tag in _BINARY_INTEGERS.items():
        integers[name] = _binary_integer(raw.get(tag, b""), order)
    age = _age_years(_text(raw.get(_PATIENT_AGE, b""), encodings), text["patient_birth_date"], text["study_date"])
    known: dict[str, Any] = {**text, **several, **integers}
    return Header(
        transfer_syntax_uid=dataset.transfer_syntax,
        view_position=_view(_text(raw.get(_VIEW_POSITION, b""), encodings), view_code, encodings),
        age_years=age,
        has_pixels=has_pixels,
        **known,
    )


def _encodings(raw: bytes) -> list[str]:
    """Python codecs of Specific Character Set (PS3.3 C.12.1.1.2); an unknown one reads as Latin-1, losing no byte."""
    names = [part.strip() for part in raw.decode("ascii", "replace").split("\\")]
    return [python_encoding.get(name, "latin_1") for name in names] or ["latin_1"]


def _text(raw: bytes, encodings: list[str]) -> str:
    text = _decoded(raw, encodings).strip("\0 \r\n\t")
    return text if text.isprintable() else _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _decoded(raw: bytes, encodings: list[str]) -> str:
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    try:
        return decode_extended(raw, encodings, PN_DELIMS)
    except (UnicodeError, LookupError, Warning):
        return raw.decode("latin_1")


def _parts(raw: bytes, encodings: list[str]) -> tuple[str, ...]:
    text = _text(raw, encodings)
    return tuple(part.strip() for part in text.split("\\")) if text else ()


def _text_integer(raw: bytes) -> int | None:
    match = re.fullmatch(rb"[\s\0]*([+-]?[0-9]{1,12})[\s\0]*", raw)
    return int(match[1]) if match else None


def _binary_integer(raw: bytes, order: Any) -> int | None:
    return int.from_bytes(raw, order) if len(raw) in (2, 4) else None


def _view(view_position: str, view_code: dict[int, bytes], encodings: list[str]) -> str:
    if view_position:
        return view_position
    meaning = re.sub(r"[^a-z]", "", _text(view_code.get(_CODE_MEANING, b""), encodings).lower())
    return _VIEWS_BY_MEANING.get(meaning, "")


def _age_years(age: str, birth_date: str, study_date: str) -> float | None:
    match = re.fullmatch(r"([0-9]{1,3})([DWMY])", age)
    if match:
        return round(int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]], 3)
    born, studied = _date(birth_date), _date(study_date)
    if born is None or studied is None or studied < born:
        return None
    return round((studied - born).days / 365.25, 3)


def _date(text: str) -> date | None:
    match = re.fullmatch(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})", text)
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        # Not a day of any calendar: as good as absent.
        return None
