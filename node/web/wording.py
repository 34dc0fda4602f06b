"""Times and numbers as people read them. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

# As `node.identity` makes them.
_PROCESS = re.compile(r"[0-9a-f]{16}:([a-z-]+:\d+)")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def moment(value: datetime | None) -> str:
    """`2026-03-01 12:00:05 UTC`; a dash for none."""
    return "\N{EN DASH}" if value is None else value.strftime("%Y-%m-%d %H:%M:%S UTC")


def minute(value: datetime) -> str:
    """`2026-03-01 12:00 UTC`."""
    return value.strftime("%Y-%m-%d %H:%M UTC")


def person_name(value: str) -> str:
    """A value of VR PN (PS3.5 section 6.2.1) in reading order: `Doe^Jane^^Dr` is `Doe, Jane, Dr`.

    Each group (alphabetic, ideographic, phonetic) keeps its place, parted by a slash.
    """
    groups = [", ".join(part.strip() for part in group.split("^") if part.strip()) for group in value.split("=")]
    return " / ".join(group for group in groups if group)


def duration(seconds: float) -> str:
    """The two largest units: `2 d 3 h`, `1 h 5 min`, `40 s`."""
    whole = max(0, int(seconds))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def seconds(value: float) -> str:
    """As measured: `0.42 s`, `12 s`; from two minutes on as `duration` says it."""
    if value >= 2 * _MINUTE_S:
        return duration(value)
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def size(count_bytes: float) -> str:
    """`12 GiB`, `640 MiB`."""
    if count_bytes >= 1024**3:
        return f"{count_bytes / 1024**3:.{1 if count_bytes < 10 * 1024**3 else 0}f} GiB"
    return f"{count_bytes / 1024**2:.0f} MiB"


def probability(value: float) -> str:
    """Two decimals, but never the certainty of 0.00 or 1.00."""
    if value > 0.99:
        return "> 0.99"
    return "< 0.01" if value < 0.01 else f"{value:.2f}"


def plain(value: Any) -> str:
    """What an audit entry holds, without brackets: `a: 1, 2; b: yes`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(one) for one in value)
    return str(value)


def process(actor: str) -> str:
    """The name of one of the node's processes without that of the node: `infer:4711`; of a person as it is."""
    found = _PROCESS.fullmatch(actor)
    return found[1] if found else actor


def iso(value: datetime | None) -> str | None:
    """RFC 3339, in UTC."""
    return None if value is None else value.isoformat()
