"""Content items of a structured report (PS3.3 C.17.3) as bytes: Explicit VR Little Endian, every length defined.

Written by hand because a report is made of some two hundred small data sets, of which a library makes two hundred
objects: that took longer than the network. The tests build every report a second time with highdicom, which checks it
against the templates, and hold the bytes against these.

Text is UTF-8, of which ASCII is a part: whoever calls has folded it to what the object's character set holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from pydicom.valuerep import DS

from node.dataset_source import LONG_VRS

CONTAINS, MODIFIES, OBSERVES, SELECTED_FROM = "CONTAINS", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "SELECTED FROM"

_SHORT, _LONG, _ITEM = struct.Struct("<HH2sH"), struct.Struct("<HH2sxxL"), struct.Struct("<HHL")
_MOST_SHORT_BYTES = 0xFFFF
_LONGEST_CODE = 16

_CODE_VALUE, _LONG_CODE_VALUE, _URN_CODE_VALUE = 0x00080100, 0x00080119, 0x00080120
_SCHEME, _MEANING, _MAPPING_RESOURCE = 0x00080102, 0x00080104, 0x00080105
_REFERENCED_CLASS, _REFERENCED_INSTANCE, _REFERENCED_FRAMES = 0x00081150, 0x00081155, 0x00081160
_REFERENCED_SOPS, _UNITS, _TEMPLATE_ID = 0x00081199, 0x004008EA, 0x0040DB00
_RELATIONSHIP, _VALUE_TYPE, _CONCEPT_NAME, _CONTINUITY = 0x0040A010, 0x0040A040, 0x0040A043, 0x0040A050
_UID, _TEXT, _FLOAT, _CONCEPT_CODE = 0x0040A124, 0x0040A160, 0x0040A161, 0x0040A168
_MEASURED_VALUES, _NUMBER, _TEMPLATES, CONTENT = 0x0040A300, 0x0040A30A, 0x0040A504, 0x0040A730
_GRAPHIC_DATA, _GRAPHIC_TYPE = 0x00700022, 0x00700023


def sequence(items: Iterable[bytes]) -> bytes:
    """The value of a sequence of these data sets."""
    return b"".join(_ITEM.pack(0xFFFE, 0xE000, len(one)) + one for one in items)


def container(
    name: Code, children: Sequence[bytes], *, relation: str = CONTAINS, continuous: bool = False, template: str = ""
) -> bytes:
    """template: Template Identifier of PS3.16, where the container is the root of one."""
    elements = [_string(_CONTINUITY, b"CS", "CONTINUOUS" if continuous else "SEPARATE")]
    if template:
        named = _data_set([_string(_MAPPING_RESOURCE, b"CS", "DCMR"), _string(_TEMPLATE_ID, b"CS", template)])
        elements.append(_element(_TEMPLATES, b"SQ", sequence([named])))
    if children:
        elements.append(_element(CONTENT, b"SQ", sequence(children)))
    return _item("CONTAINER", name, relation, elements)


def code(name: Code, value: Code, relation: str = CONTAINS) -> bytes:
    return _item("CODE", name, relation, [_coded(_CONCEPT_CODE, value)])


def text(name: Code, value: str, relation: str = CONTAINS) -> bytes:
    return _item("TEXT", name, relation, [_string(_TEXT, b"UT", value)])


def uid(name: Code, value: str, relation: str) -> bytes:
    return _item("UIDREF", name, relation, [_string(_UID, b"UI", value)])


def number(name: Code, value: float, units: Code) -> bytes:
    """As decimal text and, exactly, as a double."""
    measured = _data_set(
        [
            _coded(_UNITS, units),
            _element(_FLOAT, b"FD", struct.pack("<d", value)),
            _string(_NUMBER, b"DS", str(DS(value, auto_format=True))),
        ]
    )
    return _item("NUM", name, CONTAINS, [_element(_MEASURED_VALUES, b"SQ", sequence([measured]))])


def image(
    name: Code | None,
    sop_class_uid: str,
    sop_instance_uid: str,
    frames: Sequence[int] | None = None,
    relation: str = CONTAINS,
) -> bytes:
    """frames: those that are meant, from 1; None for the whole image. name: None where its template takes none."""
    reference = [
        _string(_REFERENCED_CLASS, b"UI", sop_class_uid),
        _string(_REFERENCED_INSTANCE, b"UI", sop_instance_uid),
    ]
    if frames is not None:
        reference.append(_string(_REFERENCED_FRAMES, b"IS", "\\".join(map(str, frames))))
    return _item("IMAGE", name, relation, [_element(_REFERENCED_SOPS, b"SQ", sequence([_data_set(reference)]))])


def composite(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Any object that is no image, by reference, without a purpose."""
    reference = _data_set(
        [_string(_REFERENCED_CLASS, b"UI", sop_class_uid), _string(_REFERENCED_INSTANCE, b"UI", sop_instance_uid)]
    )
    return _item("COMPOSITE", None, CONTAINS, [_element(_REFERENCED_SOPS, b"SQ", sequence([reference]))])


def polyline(name: Code, points: NDArray[np.float32], selected_from: bytes) -> bytes:
    """points: float32 (points, 2) of (column, row). selected_from: the image item that they lie in."""
    elements = [
        _element(CONTENT, b"SQ", sequence([selected_from])),
        _element(_GRAPHIC_DATA, b"FL", points.astype("<f4").tobytes()),
        _string(_GRAPHIC_TYPE, b"CS", "POLYLINE"),
    ]
    return _item("SCOORD", name, CONTAINS, elements)


def _item(value_type: str, name: Code | None, relation: str, elements: list[bytes]) -> bytes:
    described = [_string(_RELATIONSHIP, b"CS", relation), _string(_VALUE_TYPE, b"CS", value_type)]
    named = [] if name is None else [_coded(_CONCEPT_NAME, name)]
    return _data_set([*described, *named, *elements])


def _coded(tag: int, concept: Code) -> bytes:
    return _code_sequence(tag, concept.value, concept.scheme_designator, concept.meaning)


# By its words, as two Codes of different meaning are equal to pydicom.
@lru_cache(maxsize=1024)
def _code_sequence(tag: int, value: str, scheme: str, meaning: str) -> bytes:
    """A code sequence of one item (PS3.3 section 8.1): long values and URNs have attributes of their own."""
    if len(value) <= _LONGEST_CODE:
        coded = _string(_CODE_VALUE, b"SH", value)
    elif value.startswith("urn") or "://" in value:
        coded = _string(_URN_CODE_VALUE, b"UR", value)
    else:
        coded = _string(_LONG_CODE_VALUE, b"UC", value)
    elements = [coded, _string(_SCHEME, b"SH", scheme), _string(_MEANING, b"LO", meaning)]
    return _element(tag, b"SQ", sequence([_data_set(elements)]))


def _data_set(elements: list[bytes]) -> bytes:
    """In the order of their tags (PS3.5 section 7.1)."""
    ordered = sorted(elements, key=_tag)
    return b"".join(ordered)


def _tag(element: bytes) -> bytes:
    return element[1::-1] + element[3:1:-1]


def _string(tag: int, vr: bytes, value: str) -> bytes:
    # What no character set holds (half of a surrogate pair) is shown as a question mark.
    encoded = value.encode("utf-8", "replace")
    return _element(tag, vr, encoded + (b"\0" if vr == b"UI" else b" ") * (len(encoded) % 2))


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    group, number_in_group = tag >> 16, tag & 0xFFFF
    if vr in LONG_VRS:
        return _LONG.pack(group, number_in_group, vr, len(value)) + value
    if len(value) > _MOST_SHORT_BYTES:
        # PS3.5 section 6.2.2, note 2: a value too long for its VR's length field is written as unknown.
        return _LONG.pack(group, number_in_group, b"UN", len(value)) + value
    return _SHORT.pack(group, number_in_group, vr, len(value)) + value
