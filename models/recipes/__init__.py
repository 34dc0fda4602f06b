"""How bundles are made: shipped ones by a module with ``make(paths)``, others by plans that `radnode train` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RECIPES: dict[str, str] = {"cxr-pneumonia": "models.recipes.cxr_pneumonia"}
"""Name of a bundle to the module that makes it. Importing this package loads no TensorFlow."""

PLANS: tuple[str, ...] = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))
"""Names of the plans beside this file."""


@dataclass(frozen=True)
class Paths:
    """data: labels.csv and images. weights: ImageNet weights. out: the bundle. runs: finished parts of training."""

    data: Path
    weights: Path
    out: Path
    runs: Path


def plan_of(name: str) -> Path:
    """The TOML file of one of PLANS."""
    return Path(__file__).parent / f"{name}.toml"
