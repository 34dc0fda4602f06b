"""Random tokens. The record and the log know their digests only."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

KEY_MARK = "rnk"


def new_token() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """SHA-256, hexadecimal. A slow hash would add nothing: the token cannot be guessed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def csrf_of(token: str) -> str:
    """The CSRF token of a session: follows from its token and tells nothing of it, so that nothing need be stored."""
    return hmac.new(token.encode("utf-8", "surrogatepass"), b"radnode csrf", hashlib.sha256).hexdigest()


def same(left: str, right: str) -> bool:
    """Compare without telling by the time how much agrees."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class NewKey:
    """An API key, shown once. prefix: what lists show of it."""

    text: str
    prefix: str

    @classmethod
    def make(cls) -> NewKey:
        prefix = f"{KEY_MARK}_{secrets.token_hex(4)}"
        return cls(f"{prefix}_{new_token()}", prefix)
