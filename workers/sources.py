"""The header of a stored image, as the reports need it: a data set without pixels."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from node.header import Header

# What reading a malformed data set makes pydicom raise, as met with the damaged files of its own test suite and others.
_UNREADABLE = (
    InvalidDicomError,
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


def read_source_header(path: Path, known: Header | None = None) -> Dataset:
    """A file's data set up to the pixels; where pydicom cannot read it, the identifiers of `known` alone.

    known: what the node's own reader found; it reads less and therefore stumbles less.
    Raises OSError where the file cannot be opened, and what pydicom raises where `known` is None.
    """
    with warnings.catch_warnings():
        # They quote the offending value, which may be a patient's.
        warnings.simplefilter("ignore")
        try:
            return dcmread(path, stop_before_pixels=True, force=True)
        except _UNREADABLE:
            if known is None:
                raise
            return _identifiers(known)


def _identifiers(known: Header) -> Dataset:
    header = Dataset()
    header.SOPClassUID = known.sop_class_uid
    header.SOPInstanceUID = known.sop_instance_uid
    header.StudyInstanceUID = known.study_instance_uid
    header.SeriesInstanceUID = known.series_instance_uid
    header.Modality = known.modality
    return header
