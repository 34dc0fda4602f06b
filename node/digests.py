"""Digests of files that lie in the data folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

Algorithm = Literal["blake3", "sha256"]

_MAKERS: dict[Algorithm, Callable[[], Any]] = {"blake3": blake3, "sha256": hashlib.sha256}
# Behind preamble and prefix stands the length of the meta information (PS3.10 7.1): an element of 12 bytes.
_LENGTH_AT, _META_BEGINS = 140, 144


def digest_of(path: Path, algorithm: Algorithm, *, whole: bool) -> str:
    """In hexadecimal digits, of the file, or of the data set behind its meta information. Raises OSError."""
    with path.open("rb") as file:
        if not whole:
            head = file.read(_META_BEGINS)
            file.seek(_META_BEGINS + int.from_bytes(head[_LENGTH_AT:], "little"))
        digest: str = hashlib.file_digest(file, _MAKERS[algorithm]).hexdigest()
    return digest
