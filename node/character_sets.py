"""Text in DICOM's character sets (PS3.5 6.1), where pydicom alone does not do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydicom.charset import decode_bytes

# pydicom takes it for one that Python's codec strips by itself, and leaves it in the text.
_GB2312_IN_G1 = "\x1b$)A"


def decode_extended(raw: bytes, encodings: Sequence[str], delimiters: Collection[int]) -> str:
    """Bytes with code extensions (ISO 2022) as text. encodings: Python's names, as pydicom maps them.

    Raises what pydicom raises, and warns as it does, where the bytes are in none of them.
    """
    return decode_bytes(raw, encodings, set(delimiters)).replace(_GB2312_IN_G1, "")
