"""How each shipped bundle was made; every recipe has ``make(paths)``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RECIPES: dict[str, str] = {"cxr-pneumonia": "models.recipes.cxr_pneumonia"}
"""Name of a bundle to the module that makes it. Importing this package loads no TensorFlow."""


@dataclass(frozen=True)
class Paths:
    """data: labels.csv and images. weights: ImageNet weights. out: the bundle. runs: finished parts of training."""

    data: Path
    weights: Path
    out: Path
    runs: Path
