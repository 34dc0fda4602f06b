"""Packing a bundle's folder for others, and unpacking what others have packed.

The order is the point: a zip's bytes are hashed while they are copied to where nobody else writes, the signature is
held against that hash, and only then is the copy opened as a zip.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.errors import ArchiveError, BundleError, RuntimeUnavailable, SignatureError
from models.packaging import archive, signature
from models.packaging.container import Limits
from models.registry import Bundle, load_bundle

_CHUNK = 1024**2


@dataclass(frozen=True)
class Packed:
    """sha256: hex, of the zip. signed_by: a key's id, "" where nobody signed."""

    path: Path
    sha256: str
    signed_by: str


@dataclass(frozen=True)
class Unpacked:
    """A verified bundle in the folder named after its digest, and who vouched for the zip it came in."""

    bundle: Bundle
    archive_sha256: str
    signed_by: str


def pack(folder: Path, out: Path, key: Ed25519PrivateKey | None = None, limits: Limits | None = None) -> Packed:
    """Zip a bundle to ``out`` and, with a key, sign it beside. The same bundle gives the same bytes.

    Raises BundleError where the folder is no whole bundle or holds what `unpack` would refuse, RuntimeUnavailable where
    the disk does not take it.
    """
    limits = limits or Limits()
    bundle = load_bundle(folder)
    archive.check_files(folder, bundle.manifest, limits)
    beside = signature.path_of(out)
    with _scratch(out.parent) as scratch:
        whole = scratch / "bundle.zip"
        with whole.open("w+b") as stream:
            archive.write(folder, bundle.manifest, stream)
        sha256 = _sha256(whole)
        with whole.open("rb") as stream:
            archive.extract(stream, scratch / "again", limits)
        # An old signature beside a new zip would be refused, but say nothing of why.
        beside.unlink(missing_ok=True)
        whole.replace(out)
        if key is None:
            return Packed(out, sha256, "")
        signed = signature.sign(sha256, key)
        beside.write_bytes(signed.to_bytes())
    return Packed(out, sha256, signed.key_id)


def unpack(
    packed: Path,
    store: Path,
    trusted: Mapping[str, Ed25519PublicKey],
    *,
    allow_unsigned: bool = False,
    limits: Limits | None = None,
) -> Unpacked:
    """Verify a zip and put its bundle, durably, below ``store``. What is refused leaves nothing there.

    trusted: public keys by id. allow_unsigned: take a zip without a signature; one with a wrong signature never.
    Raises SignatureError, ArchiveError or another BundleError, RuntimeUnavailable where the disk does not take it.
    """
    limits = limits or Limits()
    with _scratch(store) as scratch:
        copy = scratch / "bundle.zip"
        sha256 = _copied(packed, copy, limits)
        signed_by = _vouched(packed, sha256, trusted, allow_unsigned=allow_unsigned)
        with copy.open("rb") as stream:
            manifest = archive.extract(stream, scratch / "bundle", limits)
        archive.check_files(scratch / "bundle", manifest, limits)
        bundle = load_bundle(scratch / "bundle")
        return Unpacked(_settled(scratch / "bundle", store / bundle.identity.bundle_digest), sha256, signed_by)


def _vouched(packed: Path, sha256: str, trusted: Mapping[str, Ed25519PublicKey], *, allow_unsigned: bool) -> str:
    found = signature.read(signature.path_of(packed))
    if found is not None:
        return signature.verify(found, sha256, trusted)
    if not allow_unsigned:
        raise SignatureError(f"{packed.name} is not signed: there is no {signature.path_of(packed).name} beside it")
    return ""


def _copied(packed: Path, copy: Path, limits: Limits) -> str:
    digest, left = hashlib.sha256(), limits.archive_bytes
    try:
        with packed.open("rb") as source, copy.open("xb") as out:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ArchiveError(f"{packed.name} is larger than {limits.archive_bytes} bytes")
                digest.update(chunk)
                out.write(chunk)
    except FileNotFoundError as error:
        raise ArchiveError(f"there is no file {packed}") from error
    return digest.hexdigest()


def _settled(folder: Path, target: Path) -> Bundle:
    """Rename a verified folder to its place; a whole bundle that is there already stays."""
    if target.exists():
        try:
            return load_bundle(target)
        except BundleError:
            shutil.rmtree(target)
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    folder.rename(target)
    _sync(target.parent)
    return load_bundle(target)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A private folder beside the target, gone at the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder, ignore_cleanup_errors=True) as made:
            yield Path(made)
    except OSError as error:
        raise RuntimeUnavailable(f"{folder} does not take a bundle ({error.strerror}); check its disk") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
