"""A bundle as one zip: written so that the same bundle gives the same bytes, read as if an enemy had written it."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from models.errors import ArchiveError, RuntimeUnavailable
from models.manifest import MANIFEST, Manifest, parse_manifest
from models.packaging.arrays import check_arrays
from models.packaging.container import Limits, check_end, check_members

__all__ = ["Limits", "check_files", "extract", "write"]

SUFFIXES: dict[str, frozenset[str]] = {
    "weights": frozenset({".npz"}),
    "golden": frozenset({".npz"}),
    "ood": frozenset({".npz"}),
    "card": frozenset({".md", ".txt", ".html"}),
    "notice": frozenset({"", ".md", ".txt"}),
    "report": frozenset({".json", ".md", ".txt", ".html"}),
}
"""By role. `.h5`, `.keras` and pickles are code in the clothes of data, and have no role."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1024**2
_MODE = 0o644
# Zip times, systems and rights differ between machines; the digest of the same bundle must not.
_UNIX, _REGULAR = 3, 0o100000


def check_files(folder: Path, manifest: Manifest, limits: Limits) -> None:
    """Raise ArchiveError where a listed file is of a kind its role has not, or an npz holds more than numbers."""
    _check_suffixes(manifest)
    for entry in manifest.files:
        if entry.path.endswith(".npz"):
            check_arrays(folder / entry.path, limits)


def write(folder: Path, manifest: Manifest, target: BinaryIO) -> None:
    """Zip a bundle whose files have been checked."""
    with zipfile.ZipFile(target, "w") as zipped:
        for name in [MANIFEST, *sorted(entry.path for entry in manifest.files)]:
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system, member.external_attr = _UNIX, (_REGULAR | _MODE) << 16
            # Arrays are noise to deflate, and stored ones are as easy to judge as can be.
            member.compress_type = zipfile.ZIP_STORED if name.endswith(".npz") else zipfile.ZIP_DEFLATED
            member.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, zipped.open(member, "w") as stream:
                shutil.copyfileobj(source, stream, _CHUNK)


def extract(stream: BinaryIO, folder: Path, limits: Limits) -> Manifest:
    """Write a zip's members below ``folder``, which is not there yet, once all of the zip has been judged.

    Returns its manifest; the files' digests are not yet checked. Raises ArchiveError, ManifestError, or
    RuntimeUnavailable where the disk does not take them.
    """
    check_end(stream, limits)
    try:
        with zipfile.ZipFile(stream) as zipped:
            members = zipped.infolist()
            check_members(members, zipped.start_dir, limits)
            manifest = _manifest(zipped, limits)
            _check_listed(members, manifest)
            _check_suffixes(manifest)
            for member in members:
                with zipped.open(member) as source:
                    _copy(source, folder / member.filename, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError("the zip is damaged") from error
    return manifest


def _manifest(zipped: zipfile.ZipFile, limits: Limits) -> Manifest:
    try:
        member = zipped.getinfo(MANIFEST)
    except KeyError as error:
        raise ArchiveError(f"the zip holds no {MANIFEST}") from error
    if member.file_size > limits.manifest_bytes:
        raise ArchiveError(f"{MANIFEST} in the zip is larger than {limits.manifest_bytes} bytes")
    return parse_manifest(zipped.read(member), "in the zip")


def _check_listed(members: list[zipfile.ZipInfo], manifest: Manifest) -> None:
    held, listed = {member.filename for member in members}, {entry.path for entry in manifest.files} | {MANIFEST}
    if held - listed:
        raise ArchiveError(f"the zip holds {', '.join(sorted(held - listed))}, which its manifest does not list")
    if listed - held:
        raise ArchiveError(f"the zip lacks {', '.join(sorted(listed - held))}")


def _check_suffixes(manifest: Manifest) -> None:
    for entry in manifest.files:
        suffix = PurePosixPath(entry.path).suffix
        if suffix not in SUFFIXES[entry.role]:
            raise ArchiveError(f"a bundle's {entry.role} is no {suffix or 'nameless'} file")


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    """Never more than the ``size`` that was judged, whatever the member inflates to."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            left = size
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ArchiveError(f"{target.name} in the zip is larger than it says")
                out.write(chunk)
    except OSError as error:
        raise RuntimeUnavailable(f"a bundle cannot be unpacked into {target.parent} ({error.strerror})") from error
    if left:
        raise ArchiveError(f"{target.name} in the zip is shorter than it says")
