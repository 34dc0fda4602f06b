"""Numbers for the operations page. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from db.operations import Turnaround
from node.settings import Peer

QUANTILES = (0.5, 0.95, 0.99)
STAGES = {
    "wait": "waiting for a worker",
    "read": "being read",
    "whole": "from routing to the result",
    "sent": "from routing to the peer's answer",
}


@dataclass(frozen=True)
class Spread:
    """Seconds at the `QUANTILES` of what was measured so often."""

    count: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Silence:
    """A peer that is expected to send. age_s: since its latest image; None where it never sent one."""

    peer: str
    ae_title: str
    age_s: float | None
    limit_s: float

    @property
    def silent(self) -> bool:
        return self.age_s is None or self.age_s > self.limit_s


def waited_s(since: datetime | None, now: datetime) -> float:
    """Seconds that something waits; 0 for nothing, and under a clock that was set back."""
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of at least one value: one that was measured, none in between."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spreads(took: Sequence[Turnaround]) -> dict[str, Spread]:
    """By stage; stages without a measurement are left out."""
    by_stage = {
        "wait": [one.wait_s for one in took],
        "read": [one.read_s for one in took],
        "whole": [one.whole_s for one in took],
        "sent": [one.sent_s for one in took if one.sent_s is not None],
    }
    return {
        stage: Spread(len(values), tuple(quantile(values, share) for share in QUANTILES))
        for stage, values in by_stage.items()
        if values
    }


def silences(peers: Mapping[str, Peer], last: Mapping[str, datetime], now: datetime) -> list[Silence]:
    """For each peer with `silent_after_min`, how long ago it sent something; `last` by AE title."""
    found = []
    for name, peer in peers.items():
        if peer.silent_after_min is not None:
            at = last.get(peer.ae_title.strip())
            age_s = None if at is None else max(0.0, (now - at).total_seconds())
            found.append(Silence(name, peer.ae_title, age_s, peer.silent_after_min * 60.0))
    return found
