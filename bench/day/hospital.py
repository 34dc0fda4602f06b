"""What a hospital sends in a day: when, of what kind, and how urgent. Pure: the same seed gives the same day.

The shape of the day and the shares are assumptions, no hospital's figures; they are parameters so that a site can put
its own in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

HOURS = 24
DAY_S = 86_400.0


class Kind(StrEnum):
    """CR and CT are read by a model; MR and priors are stored only."""

    CR = "CR"
    CT = "CT"
    MR = "MR"
    PRIOR = "prior"


READ = (Kind.CR, Kind.CT)


@dataclass(frozen=True)
class Profile:
    """hourly: studies an hour, in proportion, by hour of the day. kinds: shares, together 1. stat, urgent: shares of
    the studies by day; at night (before 7 and from 20 on) that of STAT is three times as large. again: share of
    studies that their sender sends a second time, as it does after an answer that it missed."""

    hourly: tuple[float, ...] = (
        *(0.9, 0.7, 0.6, 0.6, 0.7, 1.0, 2.0, 4.5, 8.0, 9.5, 9.5, 8.5),
        *(6.5, 7.5, 8.0, 7.0, 5.5, 4.0, 3.2, 2.8, 2.4, 2.0, 1.6, 1.2),
    )
    kinds: tuple[tuple[Kind, float], ...] = ((Kind.CR, 0.55), (Kind.CT, 0.20), (Kind.MR, 0.10), (Kind.PRIOR, 0.15))
    stat: float = 0.08
    urgent: float = 0.15
    again: float = 0.03


@dataclass(frozen=True)
class Study:
    """at_s: second of the day, 0 to 86400, at which it is sent. priority: as the node's routes name it. again: sent
    twice."""

    number: int
    at_s: float
    kind: Kind
    priority: str
    again: bool = False


def day(studies: int, seed: int = 1, profile: Profile | None = None) -> list[Study]:
    """A day of that many studies, by time: a Poisson process of the profile's rate, given how many come in all."""
    shape = profile or Profile()
    random = np.random.default_rng(seed)
    weights = np.asarray(shape.hourly) / sum(shape.hourly)
    hours = random.choice(HOURS, studies, p=weights)
    times = np.sort((hours + random.random(studies)) * (DAY_S / HOURS))
    names = [kind for kind, _ in shape.kinds]
    kinds = random.choice(len(names), studies, p=[share for _, share in shape.kinds])
    drawn, again = random.random(studies), random.random(studies) < shape.again
    return [
        Study(number, float(at), names[kind], _priority(shape, float(at), float(draw), names[kind]), bool(twice))
        for number, (at, kind, draw, twice) in enumerate(zip(times, kinds, drawn, again, strict=True))
    ]


def _priority(shape: Profile, at_s: float, draw: float, kind: Kind) -> str:
    """A prior is nobody's emergency."""
    hour = at_s / 3600
    stat = shape.stat * (3 if hour < 7 or hour >= 20 else 1)
    if kind is Kind.PRIOR or draw >= stat + shape.urgent:
        return "routine"
    return "stat" if draw < stat else "urgent"
