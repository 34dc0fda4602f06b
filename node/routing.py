"""Which route an image takes, and why. Pure: header facts and rules in, an explanation out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from node.rules import LONGEST_TEXT, Match, Route

# The header facts a list condition looks at, and those a pattern does.
_LISTS = {
    "modality": "modality",
    "sop_class": "sop_class_uid",
    "body_part": "body_part",
    "view": "view_position",
    "calling_ae": "calling_ae",
}
_PATTERNS = ("study_description", "series_description", "protocol_name")
# What a value may look like to be repeated in a reason; all else is a peer's free text and may name a patient.
_CODE = re.compile(r"[A-Za-z0-9 _]{1,16}")
_SHOWN = {"sop_class": re.compile(r"[0-9.]{1,64}"), "calling_ae": re.compile(r"[!-~ ]{1,16}")}

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One condition: what it asked, whether it held, and what was there."""

    condition: str
    held: bool
    detail: str


@dataclass(frozen=True)
class RouteOutcome:
    """One route held against one image."""

    route: str
    matched: bool
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        checks = [{"condition": c.condition, "held": c.held, "detail": c.detail} for c in self.checks]
        return {"route": self.route, "matched": self.matched, "checks": checks}


def try_route(route: Route, facts: Facts) -> RouteOutcome:
    """Every condition of a route, also after one has failed: the reader wants to see all of them."""
    checks = tuple(_conditions(route.match, facts))
    return RouteOutcome(route.name, all(check.held for check in checks), checks)


def choose(routes: Sequence[Route], facts: Facts, match: Literal["first", "all"]) -> list[tuple[Route, RouteOutcome]]:
    """The routes an image takes: the first that matches, or all that do."""
    chosen = []
    for route in routes:
        outcome = try_route(route, facts)
        if outcome.matched:
            chosen.append((route, outcome))
            if match == "first":
                break
    return chosen


def why_not(routes: Sequence[Route], facts: Facts) -> str:
    """One line on why no route took the image: the first failed condition of each."""
    reasons = []
    for route in routes:
        failed = next((c for c in try_route(route, facts).checks if not c.held), None)
        if failed is not None:
            reasons.append(f"{route.name}: {failed.detail}")
    return "no route matched (" + "; ".join(reasons) + ")" if reasons else "no routes are configured"


def rules_digest(routes: Sequence[Route]) -> str:
    """SHA-256 of the rules: the version a decision was made with."""
    document = [route.model_dump(mode="json") for route in routes]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _conditions(match: Match, facts: Facts) -> list[Check]:
    checks = []
    for condition, key in _LISTS.items():
        wanted: tuple[str, ...] = getattr(match, condition)
        if wanted:
            checks.append(_in_list(condition, wanted, str(facts.get(key, ""))))
    for condition in _PATTERNS:
        pattern: str | None = getattr(match, condition)
        if pattern is not None:
            checks.append(_pattern(condition, pattern, str(facts.get(condition, ""))))
    if match.min_age_years is not None or match.max_age_years is not None:
        checks.append(_age(match, facts.get("age_years")))
    return checks


def _in_list(condition: str, wanted: tuple[str, ...], value: str) -> Check:
    held = any(_same(entry, value) for entry in wanted)
    shown = ", ".join(entry or "(absent)" for entry in wanted)
    relation = "is" if held else "is not"
    return Check(condition, held, f"{condition} {_quote(condition, value)} {relation} one of {shown}")


def _same(entry: str, value: str) -> bool:
    entry, value = entry.casefold(), value.strip().casefold()
    return value.startswith(entry[:-1]) if entry.endswith("*") else value == entry


def _pattern(condition: str, pattern: str, value: str) -> Check:
    held = re.search(pattern, value[:LONGEST_TEXT], re.IGNORECASE) is not None
    relation = "matches" if held else "does not match"
    # The text itself stays out: descriptions are typed by people and may name a patient.
    return Check(condition, held, f"{condition} ({len(value)} characters) {relation} {pattern}")


def _age(match: Match, age: Any) -> Check:
    low, high = match.min_age_years, match.max_age_years
    wanted = f"{'' if low is None else low} to {'' if high is None else high} years"
    if not isinstance(age, int | float):
        return Check("age", False, f"age is unknown, wanted {wanted}")
    held = (low is None or age >= low) and (high is None or age <= high)
    return Check("age", held, f"age {'lies' if held else 'does not lie'} within {wanted}")


def _quote(condition: str, value: str) -> str:
    if not value:
        return "(absent)"
    return f'"{value}"' if _SHOWN.get(condition, _CODE).fullmatch(value) else "(not a code)"
