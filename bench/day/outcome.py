"""What a day was, as measured."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Done:
    """A job that a worker had, in seconds since the day began. received_s: its study's last image. sent_s: when its
    last object was at the PACS; None of one that was superseded, as more images of its study came."""

    kind: str
    priority: str
    received_s: float
    created_s: float
    started_s: float
    finished_s: float
    sent_s: float | None


@dataclass
class Outcome:
    """A day as it was. spans: (made, at the PACS) of each delivery. cpu_s: by part of the node. writes: rows written
    and WAL bytes of the record. lag_s: how late studies were sent, against the plan. outage_s: from and to."""

    workers: int
    seconds: float
    jobs: list[Done] = field(default_factory=list)
    deliveries: list[tuple[float, float]] = field(default_factory=list)
    instances: int = 0
    received_bytes: int = 0
    cpu_s: dict[str, float] = field(default_factory=dict)
    writes: dict[str, float] = field(default_factory=dict)
    lag_s: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    outage_s: tuple[float, float] = (0.0, 0.0)
    drained_s: float = 0.0
