"""Our own words, made to fit the character set and the VR they are written in."""

from __future__ import annotations

import re
import unicodedata

from node import identity

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_DASHES, _SINGLE, _DOUBLE = "\u2010\u2011\u2012\u2013\u2014\u2212", "\u2018\u2019", "\u201c\u201d"
_OTHER = {"\u2026": "...", "ß": "ss"}
_PLAIN = str.maketrans(dict.fromkeys(_DASHES, "-") | dict.fromkeys(_SINGLE, "'") | dict.fromkeys(_DOUBLE, '"') | _OTHER)

DISCLAIMER = identity.DISCLAIMER


def fold(text: str, limit: int, unicode: bool) -> str:
    """``text`` without control characters, at most ``limit`` characters, in ASCII unless ``unicode``; never empty."""
    clean = _CONTROL.sub(" ", text)
    if not unicode and not clean.isascii():
        plain = unicodedata.normalize("NFKD", clean.translate(_PLAIN))
        clean = "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode("ascii")
    return clean.strip()[:limit].strip() or "unknown"


def long_string(text: str, unicode: bool) -> str:
    """Of VR LO: the backslash separates values there (PS3.5 section 6.2)."""
    return fold(text.replace("\\", "/"), 64, unicode)
