"""What may pass for a UID; of the standard library only, so that whoever asks pays for no more."""

from __future__ import annotations

import re


def valid_uid(uid: str) -> bool:
    """Digits and single dots, at most 64 characters (PS3.5 section 9.1, but for leading zeros, which occur)."""
    return len(uid) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid) is not None
