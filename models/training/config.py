"""How a training run goes; one frozen value, stored with the run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """Head on frozen features, then the upper blocks at a low rate with frozen batch norm, then the head once more.

    frozen_through: the last layer that keeps its start weights; what lies below knows edges and textures, and some
    hundred images teach it nothing better. Empty: everything is trained.
    head_penalty: of the logistic regression of the head, see :func:`models.training.head.fit_head`.
    source_power: images of a source are drawn in proportion to (their number) ** source_power, so that a large source
    does not drown a small one; labels are drawn evenly within a source, so that the source does not tell the label.
    ema_decay: of the averaged weights, which are the result.
    Augmentation limits are half-widths of uniform draws: rotation in degrees, shift in fractions of the side, the
    others relative to 1 (zoom, contrast), in log units (aspect, gamma) or in grey levels of [0, 1] (brightness).
    """

    seed: int = 7
    batch_size: int = 32
    epochs: int = 5
    frozen_through: str = "block4_add"
    learning_rate: float = 1.5e-4
    weight_decay: float = 1e-2
    warmup_steps: int = 20
    ema_decay: float = 0.98
    label_smoothing: float = 0.05
    head_penalty: float = 300.0
    source_power: float = 0.5
    rotation_degrees: float = 12.0
    zoom: float = 0.15
    aspect: float = 0.1
    shift: float = 0.06
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.25
    erase_probability: float = 0.25
