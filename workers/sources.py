"""The header of a stored image, as the reports need it: a flat data set of short values, without pixels.

Of two thousand attributes reports need some thirty, none of them a sequence (`workers.results`). What is left out can
neither nest, nor fill memory, nor mislead a parser.
"""

from __future__ import annotations

import struct
import warnings
from io import BytesIO

from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset

from node.dataset_source import RawDataset
from node.dataset_walk import PIXEL_TAGS, UNDEFINED_LENGTH, walk
from node.header import Header

_LONGEST_VALUE_BYTES = 1 << 12
_MOST_BYTES = 1 << 20

# What reading a malformed data set makes pydicom raise, as met with the damaged files of its own test suite and others.
_UNREADABLE = (
    BytesLengthException,
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def flat_elements(source: RawDataset) -> bytes:
    """The elements before the pixels as they stand in the file, without sequences and what is long.

    Raises HeaderError where the data set cannot be followed.
    """
    kept = bytearray()
    for element in walk(source, stop_at_pixels=True):
        length = element.end - element.start
        # In implicit VR a short sequence of defined length stays: to pydicom it is a value until somebody asks for it.
        is_flat = element.length != UNDEFINED_LENGTH and element.vr != "SQ" and element.tag not in PIXEL_TAGS
        if is_flat and element.length <= _LONGEST_VALUE_BYTES and len(kept) + length <= _MOST_BYTES:
            kept += source.read(element.start, length)
    return bytes(kept)


def source_header(flat: bytes, *, implicit_vr: bool, big_endian: bool, known: Header) -> Dataset:
    """`flat_elements` as a data set; where pydicom cannot read it, the identifiers of `known` alone.

    known: what the node's own reader found; it reads less and therefore stumbles less.
    """
    with warnings.catch_warnings():
        # They quote the offending value, which may be a patient's.
        warnings.simplefilter("ignore")
        try:
            return read_dataset(BytesIO(flat), implicit_vr, not big_endian)
        except _UNREADABLE:
            return identifiers(known)


def identifiers(known: Header) -> Dataset:
    """A data set of what names an image, and nothing else."""
    header = Dataset()
    header.SOPClassUID = known.sop_class_uid
    header.SOPInstanceUID = known.sop_instance_uid
    header.StudyInstanceUID = known.study_instance_uid
    header.SeriesInstanceUID = known.series_instance_uid
    header.Modality = known.modality
    return header
