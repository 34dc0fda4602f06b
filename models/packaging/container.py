"""What a zip may look like before anything of it is inflated.

Python's zipfile is lenient: it takes bytes before the zip, comments, overlapping members and archives whose directory
is larger than their content. What `archive.write` makes has none of that, so none of it is accepted.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from models.errors import ArchiveError

_END = struct.Struct("<4s4H2LH")
"""End of central directory record (APPNOTE 4.3.16)."""
_ZIP64_LOCATOR = b"PK\x06\x07"
_LOCATOR_BYTES = 20
_LOCAL_HEADER_BYTES = 30

# Data descriptor, UTF-8 names, and the two bits in which deflate says how hard it tried (APPNOTE 4.4.4).
_FLAGS = 0x0808 | 0x0006
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,2}")


@dataclass(frozen=True)
class Limits:
    """archive, total: bytes of the zip, and of all its members inflated. manifest: bytes of `model.json`.

    ratio: inflated to deflated bytes of one member, looked at from ``ratio_from`` inflated bytes on.
    """

    archive_bytes: int = 2 * 1024**3
    total_bytes: int = 4 * 1024**3
    manifest_bytes: int = 8 * 1024**2
    members: int = 64
    directory_bytes: int = 256 * 1024
    ratio: int = 200
    ratio_from: int = 4 * 1024**2


def check_end(stream: BinaryIO, limits: Limits) -> None:
    """Hold the archive's last bytes against its size before its directory is read. Raises ArchiveError."""
    size = stream.seek(0, os.SEEK_END)
    if not _END.size <= size <= limits.archive_bytes:
        raise ArchiveError(f"the zip has {size} bytes; at most {limits.archive_bytes} are taken")
    start = size - _END.size
    stream.seek(max(0, start - _LOCATOR_BYTES))
    tail = stream.read()
    magic, disk, first, here, entries, length, offset, comment = _END.unpack(tail[-_END.size :])
    if magic != b"PK\x05\x06" or comment or disk or first or here != entries:
        raise ArchiveError("the file does not end as a zip of a bundle does")
    if tail[: -_END.size].startswith(_ZIP64_LOCATOR) or entries > limits.members or length > limits.directory_bytes:
        raise ArchiveError(f"the zip has too many members; at most {limits.members} are taken")
    if offset + length != start:
        raise ArchiveError("the zip has bytes that belong to none of its members")
    stream.seek(0)


def check_members(members: Sequence[zipfile.ZipInfo], directory_at: int, limits: Limits) -> None:
    """Names, kinds, sizes and places of all members. Raises ArchiveError; repeats no name that is not a plain one."""
    names = [member.filename for member in members]
    for member in members:
        if _NAME.fullmatch(member.orig_filename) is None or member.orig_filename != member.filename:
            raise ArchiveError("a member of the zip has a name that no bundle's file has")
        _check_kind(member)
    folded = [name.casefold() for name in names]
    if len(set(folded)) != len(folded):
        raise ArchiveError("the zip holds one name twice")
    if any(other.startswith(f"{name}/") for name in folded for other in folded):
        raise ArchiveError("a member of the zip is both a file and a folder")
    inflated_sizes_allowed(members, "the zip", limits)
    _check_places(members, directory_at)


def _check_kind(member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.is_dir() or kind not in (0, stat.S_IFREG):
        raise ArchiveError(f"{member.filename} in the zip is no regular file")
    if member.flag_bits & ~_FLAGS:
        raise ArchiveError(f"{member.filename} in the zip is encrypted, or uses what bundles do not use")
    if member.compress_type not in _METHODS:
        raise ArchiveError(f"{member.filename} in the zip is compressed in an unknown way")


def inflated_sizes_allowed(members: Sequence[zipfile.ZipInfo], name: str, limits: Limits) -> None:
    """Raise ArchiveError where the members together, or one against what it is inflated from, are too large."""
    if sum(member.file_size for member in members) > limits.total_bytes:
        raise ArchiveError(f"{name} would inflate to more than {limits.total_bytes} bytes")
    for member in members:
        if member.file_size >= limits.ratio_from and member.file_size > limits.ratio * max(1, member.compress_size):
            raise ArchiveError(f"{name} would inflate to more than {limits.ratio} times its size")


def _check_places(members: Sequence[zipfile.ZipInfo], directory_at: int) -> None:
    """No member lies inside another: that is how a small zip inflates to a huge one with modest ratios."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise ArchiveError("members of the zip overlap")
        end = member.header_offset + _LOCAL_HEADER_BYTES + len(member.filename) + member.compress_size
    if end > directory_at:
        raise ArchiveError("members of the zip overlap")
