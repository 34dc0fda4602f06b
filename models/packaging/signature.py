"""Who vouches for a bundle's zip: a file beside it, `NAME.zip.sig`.

Signed is the SHA-256 of the zip's bytes behind a fixed text, so that a signature made for anything else with the same
key means nothing here. There is one way to write a signature down, hence no byte of the file can be changed unnoticed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.errors import SignatureError
from models.packaging.keys import key_id

SUFFIX = ".sig"
SCHEMA = "radnode.signature/1"
_CONTEXT = b"radnode bundle signature 1\0"
_LARGEST = 4096


@dataclass(frozen=True)
class Signature:
    """sha256: hex, of the zip. value: 64 bytes (RFC 8032)."""

    key_id: str
    sha256: str
    value: bytes

    def to_bytes(self) -> bytes:
        """The file's content, always the same for the same signature."""
        document = {
            "schema": SCHEMA,
            "algorithm": "ed25519",
            "key_id": self.key_id,
            "sha256": self.sha256,
            "signature": base64.b64encode(self.value).decode("ascii"),
        }
        return (json.dumps(document, indent=2) + "\n").encode("ascii")


def path_of(archive: Path) -> Path:
    """Where the signature of a zip lies."""
    return archive.with_name(archive.name + SUFFIX)


def sign(sha256: str, key: Ed25519PrivateKey) -> Signature:
    """sha256: hex, of the zip's bytes."""
    return Signature(key_id(key.public_key()), sha256, key.sign(_message(sha256)))


def read(path: Path) -> Signature | None:
    """None where there is no such file. Raises SignatureError for one that is malformed."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SignatureError(f"the signature {path.name} cannot be read ({error.strerror})") from error
    try:
        document = json.loads(data)
        value = base64.b64decode(document["signature"], validate=True)
        found = Signature(str(document["key_id"]), str(document["sha256"]), value)
        canonical = found.to_bytes()
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise SignatureError(f"{path.name} is no signature of a bundle") from error
    if canonical != data:
        raise SignatureError(f"{path.name} is no signature of a bundle, or was changed")
    return found


def verify(found: Signature, sha256: str, trusted: Mapping[str, Ed25519PublicKey]) -> str:
    """The id of the trusted key that vouches for the zip with this SHA-256 (hex). Raises SignatureError."""
    if found.sha256 != sha256:
        raise SignatureError("the zip is not the one that was signed; get it again from where it comes from")
    key = trusted.get(found.key_id)
    if key is None:
        # The id comes from the file; only its letters and digits are repeated.
        shown = found.key_id if found.key_id.isalnum() else "(malformed)"
        raise SignatureError(
            f"signed with the key {shown[:32]}, which is not trusted here; if it should be, put its public key into "
            "the folder of trusted keys"
        )
    try:
        key.verify(found.value, _message(sha256))
    except InvalidSignature as error:
        raise SignatureError("the signature was not made with the key it names") from error
    return found.key_id


def _message(sha256: str) -> bytes:
    return _CONTEXT + bytes.fromhex(sha256)
