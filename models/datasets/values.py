"""Single cells of label files: ages, sexes and findings in the spellings that public data sets use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from models.datasets.samples import NEGATIVE, PARTS, POSITIVE, UNCERTAIN, UNKNOWN

OLDEST_YEARS = 120
_AGE = re.compile(r"(\d{1,4}(?:\.\d+)?)\s*([DWMY]?)", re.IGNORECASE | re.ASCII)
# PS3.5 6.2, value representation AS.
_UNITS_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}

NO_AGE = "the age is no number of years; taken as unknown"
ABSURD_AGE = f"the age is above {OLDEST_YEARS} years; taken as unknown"

_TARGETS: Mapping[str, float] = {
    "1": POSITIVE,
    "1.0": POSITIVE,
    "true": POSITIVE,
    "yes": POSITIVE,
    "0": NEGATIVE,
    "0.0": NEGATIVE,
    "false": NEGATIVE,
    "no": NEGATIVE,
    "-1": UNCERTAIN,
    "-1.0": UNCERTAIN,
    "": UNKNOWN,
    "nan": UNKNOWN,
    "na": UNKNOWN,
    "n/a": UNKNOWN,
    "null": UNKNOWN,
}


def age(text: str) -> tuple[float | None, str]:
    """Years, and what is wrong with the text ("" when nothing): '058Y', '58', '58.0', '010M'; '' is just unknown."""
    if not text:
        return None, ""
    match = _AGE.fullmatch(text)
    if match is None:
        return None, NO_AGE
    years = float(match.group(1)) / _UNITS_PER_YEAR[match.group(2).upper()]
    return (None, ABSURD_AGE) if years > OLDEST_YEARS else (years, "")


def sex(text: str) -> str:
    """'M', 'F', 'O', or '' for anything else."""
    return _SEXES.get(text.casefold(), "")


def target(text: str) -> float | None:
    """A finding's cell as POSITIVE, NEGATIVE, UNCERTAIN or UNKNOWN; None for anything else."""
    return _TARGETS.get(text.casefold())


_OTHER_NAMES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}
KNOWN_PARTS = ", ".join((*PARTS, *_OTHER_NAMES))


def part(text: str) -> str | None:
    """A cell of an official split: one of PARTS, "" where it says nothing, None for anything else."""
    if is_unknown(text):
        return ""
    name = _OTHER_NAMES.get(text.casefold(), text.casefold())
    return name if name in PARTS else None


def is_unknown(text: str) -> bool:
    """Whether a class's cell says nothing: empty, nan, null."""
    value = _TARGETS.get(text.casefold(), NEGATIVE)
    return value != value  # noqa: PLR0124
