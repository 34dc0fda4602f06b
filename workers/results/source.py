"""A source's attributes, read from raw bytes: an odd value reads as absent, and none of it can raise or warn."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.charset import convert_encodings, encode_string
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from db.errors import UnreadableError
from node.uids import valid_uid

_ORIENTATION = re.compile(r"[AFHLPR]{1,3}|LE|RT|CR|CD|[DVM]")
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

# Classes of one frame by definition: a reference to them names no frame, whatever Number of Frames says.
_SINGLE_FRAME = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "2", "4", "6.1", "7", "128")
)


@dataclass(frozen=True)
class Source:
    """One source image. Text is "" and numbers are 0 where absent or illegal.

    orientation: Patient Orientation as sent, or derived from Image Orientation (Patient); () where neither is usable.
    lossy: (ratio, method) per compression step, empty unless the image was compressed with loss.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    modality: str
    body_part: str
    laterality: str
    orientation: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    is_lossy: bool
    lossy_ratios: tuple[str, ...]
    lossy_methods: tuple[str, ...]


def read_source(header: Dataset) -> Source:
    """Read what results say of a source.

    Raises:
        UnreadableError: one of the four UIDs that a reference is made of is missing or no UID.
    """
    laterality = _code(header, 0x00200060) or _code(header, 0x00200062)
    sop_class = _uid(header, 0x00080016, "SOP Class UID")
    return Source(
        sop_class_uid=sop_class,
        sop_instance_uid=_uid(header, 0x00080018, "SOP Instance UID"),
        study_uid=_uid(header, 0x0020000D, "Study Instance UID"),
        series_uid=_uid(header, 0x0020000E, "Series Instance UID"),
        modality=_code(header, 0x00080060),
        body_part=_code(header, 0x00180015),
        laterality=laterality if laterality in {"L", "R"} else "",
        orientation=_orientation(header),
        rows=_integer(header, 0x00280010),
        columns=_integer(header, 0x00280011),
        frames=1 if sop_class in _SINGLE_FRAME else _integer(header, 0x00280008) or 1,
        is_lossy=_code(header, 0x00282110) == "01",
        lossy_ratios=tuple(p for p in _parts(header, 0x00282112) if len(p) <= 16 and _DECIMAL.fullmatch(p)),
        lossy_methods=tuple(p for p in _parts(header, 0x00282114) if _CODE.fullmatch(p)),
    )


def raw_bytes(header: Dataset, tag: int) -> bytes:
    """An element's value as it stands in the file, with its padding; b"" where absent or no text."""
    if tag not in header:
        return b""
    element: RawDataElement | DataElement = header.get_item(tag)
    if isinstance(element, RawDataElement):
        return element.value or b""
    value = element.value
    if isinstance(value, PersonName):
        kept = getattr(value, "original_string", b"")
        return kept if isinstance(kept, bytes) else _encoded(str(value), header)
    if element.VR == "SQ" or value is None:
        return b""
    if isinstance(value, bytes):
        return value
    several = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return _encoded("\\".join(str(part) for part in several), header)


def character_sets(header: Dataset) -> tuple[str, ...]:
    """Specific Character Set, one text per value, unchecked."""
    raw = raw_bytes(header, 0x00080005).decode("ascii", "replace").strip(" \0")
    return tuple(part.strip(" \0") for part in raw.split("\\")) if raw else ()


def _encoded(text: str, header: Dataset) -> bytes:
    if text.isascii():
        return text.encode("ascii")
    try:
        return bytes(encode_string(text, convert_encodings(list(character_sets(header)) or ["ISO_IR 192"])))
    except (UnicodeError, LookupError, ValueError, Warning):
        # A decoded value that its own character set cannot hold; UTF-8 is recognised when the object is made.
        return text.encode("utf-8")


def _parts(header: Dataset, tag: int) -> tuple[str, ...]:
    text = raw_bytes(header, tag).decode("ascii", "replace")
    return tuple(part.strip(" \0") for part in text.split("\\")) if text.strip(" \0") else ()


def _code(header: Dataset, tag: int) -> str:
    parts = _parts(header, tag)
    return parts[0] if len(parts) == 1 and _CODE.fullmatch(parts[0]) else ""


def _uid(header: Dataset, tag: int, name: str) -> str:
    parts = _parts(header, tag)
    if len(parts) != 1 or not valid_uid(parts[0]):
        raise UnreadableError(f"a source has no usable {name}")
    return parts[0]


def _integer(header: Dataset, tag: int) -> int:
    """Of VR US or IS, whichever the tag has."""
    if tag not in header:
        return 0
    element: RawDataElement | DataElement = header.get_item(tag)
    if not isinstance(element, RawDataElement):
        return element.value if isinstance(element.value, int) else 0
    raw = element.value or b""
    if tag == 0x00280008:
        text = raw.decode("ascii", "replace").strip(" \0")
        return int(text) if re.fullmatch(r"\d{1,9}", text) else 0
    return int.from_bytes(raw, "little" if element.is_little_endian else "big") if len(raw) in (2, 4) else 0


def _orientation(header: Dataset) -> tuple[str, ...]:
    sent = _parts(header, 0x00200020)
    if len(sent) == 2 and all(_ORIENTATION.fullmatch(part) for part in sent):
        return sent
    cosines = _parts(header, 0x00200037)
    if len(cosines) != 6 or not all(_DECIMAL.fullmatch(part) for part in cosines):
        return ()
    numbers = [float(part) for part in cosines]
    letters = (_letters(numbers[:3]), _letters(numbers[3:]))
    return letters if all(letters) else ()


def _letters(direction: list[float]) -> str:
    """Anatomical direction by falling share (PS3.3 C.7.6.1.1.1); shares below a twentieth are left out."""
    named = [("L", "R"), ("P", "A"), ("H", "F")]
    shares = sorted(
        ((abs(d), pair[0] if d > 0 else pair[1]) for d, pair in zip(direction, named, strict=True)), reverse=True
    )
    return "".join(letter for share, letter in shares if share > 0.05)
