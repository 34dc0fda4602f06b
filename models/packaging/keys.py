"""Ed25519 keys (RFC 8032) in PEM files: the one that signs, kept by whoever releases models, and those trusted here.

A key's id is the beginning of the SHA-256 of its raw public bytes: it finds the key, it proves nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from models.errors import SigningKeyError

PUBLIC_SUFFIX, PRIVATE_SUFFIX = ".pub", ".key"
_ID_LENGTH = 16


def key_id(public: Ed25519PublicKey) -> str:
    """16 hexadecimal digits."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:_ID_LENGTH]


def generate(folder: Path, name: str, passphrase: bytes | None = None) -> tuple[Path, Path, str]:
    """A new pair in ``folder``: (private file, public file, key id). Never replaces a file; raises SigningKeyError."""
    private = Ed25519PrivateKey.generate()
    locked: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    paths = folder / f"{name}{PRIVATE_SUFFIX}", folder / f"{name}{PUBLIC_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data, mode in ((paths[0], secret, 0o600), (paths[1], public, 0o644)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(data)
    except OSError as error:
        raise SigningKeyError(f"no key pair {name} was made in {folder} ({error.strerror})") from error
    return (*paths, key_id(private.public_key()))


def read_private(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Raises SigningKeyError, whose message holds nothing of the key."""
    try:
        key = load_pem_private_key(_read(path), passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path.name} is no private key in PEM, or its passphrase is another") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{path.name} is no Ed25519 key; `radnode models keygen` makes one")
    return key


def read_public(path: Path) -> Ed25519PublicKey:
    """Raises SigningKeyError."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path.name} is no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningKeyError(f"{path.name} is no Ed25519 key")
    return key


def trusted(folder: Path) -> dict[str, Ed25519PublicKey]:
    """The keys in ``folder`` by id; none where there is no such folder.

    Raises SigningKeyError for a file that is no key, or that anybody on this machine could replace.
    """
    found = {}
    for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}")):
        for place in (folder, path):
            if place.stat().st_mode & stat.S_IWOTH:
                raise SigningKeyError(f"everybody may write to {place}; take that right away before trusting its keys")
        key = read_public(path)
        found[key_id(key)] = key
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningKeyError(f"the key {path} cannot be read ({error.strerror})") from error
