"""Is a study complete? Pure: what is known goes in, a decision with its reason comes out.

No signal proves that a sender is done: the end of an association means nothing to a PACS that opens one per image.
So the node waits for silence, holds what it has against what it was told to expect, and stops waiting at a deadline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from node.rules import LONGEST_TEXT


class Verdict(StrEnum):
    WAIT = "wait"
    COMPLETE = "complete"
    GIVE_UP = "give up"  # the deadline has passed: what is there is read, and the reason says what was missing


@dataclass(frozen=True)
class Policy:
    """How long a route waits, and for what.

    quiet_period_s: seconds without a new image. deadline_s: seconds since the first image of what is pending.
    required_series: patterns that must each match some series description.
    """

    quiet_period_s: float
    deadline_s: float
    min_instances: int = 1
    required_series: tuple[str, ...] = ()
    per_instance: bool = False


@dataclass(frozen=True)
class Progress:
    """What is known of a study.

    instances: everything of the study that came from others.
    images: those of them that the route takes; None means all.
    expected: the number of instances somebody promised, None where nobody did.
    announced: by what peers told that the study is done, where all they name is here; "" else.
    """

    first_received_at: datetime
    last_received_at: datetime
    instances: int
    series_descriptions: tuple[str, ...]
    expected: int | None = None
    images: int | None = None
    announced: str = ""


@dataclass(frozen=True)
class Decision:
    """`check_at` is when it is worth looking again; it means something only while waiting."""

    verdict: Verdict
    reason: str
    check_at: datetime


def decide(policy: Policy, progress: Progress, now: datetime) -> Decision:
    """Judge a study.

    Expected counts and required series hold a quiet study back, but they do not hurry one that still receives: a
    count can be right before the last image is in (senders that repeat) and images beyond it do arrive. What a peer
    tells of a study that is done spares it the silence, and nothing else.
    """
    if policy.per_instance:
        return Decision(Verdict.COMPLETE, "each image is read as it arrives", now)
    quiet_at = progress.last_received_at + timedelta(seconds=policy.quiet_period_s)
    deadline = progress.first_received_at + timedelta(seconds=policy.deadline_s)
    missing = _missing(policy, progress)
    if progress.announced and not missing:
        told = f"{_counted(progress)}, all that {progress.announced} names"
        return Decision(Verdict.COMPLETE, told, now)
    if now < min(quiet_at, deadline):
        return Decision(Verdict.WAIT, "images may still be arriving", min(quiet_at, deadline))
    if now >= deadline and (missing or now < quiet_at):
        why = ", ".join(missing) or "images were still arriving"
        return Decision(Verdict.GIVE_UP, f"deadline of {policy.deadline_s:g} s passed: {why}", now)
    if missing:
        return Decision(Verdict.WAIT, "waiting: " + ", ".join(missing), deadline)
    return Decision(Verdict.COMPLETE, _complete_reason(policy, progress), now)


def _missing(policy: Policy, progress: Progress) -> list[str]:
    missing = []
    if progress.expected is not None and progress.instances < progress.expected:
        missing.append(f"{progress.instances} of {progress.expected} expected images")
    images = progress.instances if progress.images is None else progress.images
    if images < policy.min_instances:
        missing.append(f"{images} of at least {policy.min_instances} images")
    missing.extend(
        f"no series matches {pattern}"
        for pattern in policy.required_series
        if not _any_match(pattern, progress.series_descriptions)
    )
    return missing


def _any_match(pattern: str, descriptions: Sequence[str]) -> bool:
    return any(re.search(pattern, description[:LONGEST_TEXT], re.IGNORECASE) for description in descriptions)


def _counted(progress: Progress) -> str:
    return f"{progress.instances} images" if progress.instances != 1 else "1 image"


def _complete_reason(policy: Policy, progress: Progress) -> str:
    counted = _counted(progress)
    if progress.expected is not None:
        counted += f" of {progress.expected} expected"
    return f"{counted}, quiet for {policy.quiet_period_s:g} s"
