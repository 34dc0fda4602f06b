"""What the web side asks of the model bundles on disk. It must not import the framework, so an entry point names who
answers; what is answered are plain values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from db.model_versions import ModelVersionView
from node.settings import Settings

GROUP, NAME = "radnode.model_desks", "bundles"
Figure = tuple[float, float, float]


@dataclass(frozen=True)
class Point:
    """An operating point. Figures are (value, low, high) of 0 to 1, the latter two the 95 % interval."""

    label: str
    display: str
    name: str
    threshold: float
    sensitivity: Figure
    specificity: Figure


@dataclass(frozen=True)
class SourceFigures:
    """How the bundle did on one source of its own test data. auroc: None where the source has one class only."""

    source: str
    images: int
    auroc: Figure | None


@dataclass(frozen=True)
class BundleCard:
    """A bundle as it says of itself. reads: its id's jobs go to it. problem: why it cannot be used, "" where it can.

    reference: what its scores and inputs were like when it was made, {} where it holds none; see `node.web.drift`.
    """

    id: str
    version: str
    digest: str = ""
    origin: str = ""
    name: str = ""
    reads: bool = False
    problem: str = ""
    intended_use: str = ""
    regulatory_status: str = ""
    licence: str = ""
    architecture: str = ""
    limits: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    figures: tuple[SourceFigures, ...] = ()
    card: str = ""
    reference: dict[str, Any] = field(default_factory=dict)


class Desk(Protocol):
    """Who knows the bundles."""

    def cards(self, settings: Settings, versions: Sequence[ModelVersionView]) -> list[BundleCard]:
        """Every bundle in the node's folders, then every installed version, in this order."""

    def require_usable(self, settings: Settings, version: ModelVersionView) -> None:
        """Whole on disk and vouched for. Raises PermanentError or RefusedError."""

    def require_fallback(self, settings: Settings, model_id: str) -> None:
        """A bundle of that id lies in one of the folders. Raises PermanentError."""


@cache
def desk() -> Desk:
    """The one that is installed."""
    (entry,) = entry_points(group=GROUP, name=NAME)
    return cast("Desk", entry.load())


def point_of(cards: Sequence[BundleCard], model: str, version: str, label: str) -> Point | None:
    """The operating point a version had for a label; None where that version is no longer here."""
    of_version = (card for card in cards if (card.id, card.version) == (model, version))
    return next((point for card in of_version for point in card.points if point.label == label), None)
