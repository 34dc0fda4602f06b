"""Passwords: Argon2id as RFC 9106 section 4 recommends for machines with little memory to spare (64 MiB, 3 passes)."""

from __future__ import annotations

import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from db.errors import RefusedError

LEAST_CHARACTERS = 12
MOST_BYTES = 1024
_AT_ONCE = 2

_hasher = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=4)
# 64 MiB each: many log-ins at once must not fill the memory that receiving needs.
_turn = threading.BoundedSemaphore(_AT_ONCE)
# Of no password: checked where there is no account, so that a wrong name takes as long as a wrong password.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$cmFkbm9kZS1ub2JvZHkhIQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def check_policy(password: str, name: str) -> None:
    """Raise RefusedError for a password that is too easily guessed. Length counts, not its mixture (NIST 800-63B)."""
    if len(password) < LEAST_CHARACTERS:
        raise RefusedError(f"the password is too short: it needs at least {LEAST_CHARACTERS} characters")
    if len(password.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise RefusedError(f"the password is too long: at most {MOST_BYTES} bytes")
    if len(set(password)) < 5 or name.casefold() in password.casefold() or "radnode" in password.casefold():
        raise RefusedError("the password is too easily guessed: it repeats itself, or holds the account's name")


def hash_password(password: str) -> str:
    """The password's Argon2id hash, with its parameters and salt."""
    with _turn:
        return _hasher.hash(password)


def verify(password_hash: str, password: str) -> bool:
    """Whether a password fits. "" for the hash is an account without one: never, and as slowly as any other."""
    if len(password.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        return False
    with _turn:
        try:
            return _hasher.verify(password_hash or _NOBODY, password) and password_hash != ""
        except (VerifyMismatchError, InvalidHashError, VerificationError):
            return False


def outdated(password_hash: str) -> bool:
    """Whether it was made with weaker parameters than today's: hash again at the next right password."""
    return _hasher.check_needs_rehash(password_hash)
