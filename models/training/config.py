"""How a training run goes; one frozen value, stored with the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """Two phases: the head on frozen features, then the whole network at a low rate with frozen batch norm.

    source_power: images of a source are drawn in proportion to (their number) ** source_power, so that a large source
    does not drown a small one; labels are drawn evenly within a source, so that the source does not tell the label.
    ema_decay: of the averaged weights that are judged and shipped.
    keep: the averaged weights of the epoch that validates best, or those of the last one; "last" where the number of
    epochs comes from cross-validation, so that a small validation part is left for calibration alone.
    Augmentation limits are half-widths of uniform draws: rotation in degrees, shift in fractions of the side, the
    others relative to 1 (zoom, contrast), in log units (aspect, gamma) or in grey levels of [0, 1] (brightness).
    """

    seed: int = 7
    batch_size: int = 32
    head_epochs: int = 30
    epochs: int = 12
    learning_rate: float = 4e-4
    head_learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    warmup_steps: int = 40
    ema_decay: float = 0.985
    label_smoothing: float = 0.05
    source_power: float = 0.5
    rotation_degrees: float = 10.0
    zoom: float = 0.12
    aspect: float = 0.1
    shift: float = 0.06
    brightness: float = 0.1
    contrast: float = 0.15
    gamma: float = 0.2
    erase_probability: float = 0.25
    keep: Literal["best", "last"] = "last"
