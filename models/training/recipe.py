"""How a network learns: the sections [training] and [augment] of a plan."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.manifest import Part

Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
HalfWidth = Annotated[float, Field(ge=0, lt=1)]


class Phase(Part):
    """epochs: 0 leaves the phase out. warmup: the share of its steps in which the rate rises to ``learning_rate``.

    schedule: ``cosine`` falls to zero over the phase, ``constant`` does not.
    """

    epochs: int = Field(ge=0, le=10_000)
    learning_rate: Rate
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, le=0.5)


class FineTune(Phase):
    """unfreeze_from: the first layer that is trained, by its name or as a share of the depth; 0 trains every layer."""

    epochs: int = Field(default=10, ge=0, le=10_000)
    learning_rate: Rate = 1e-4
    unfreeze_from: str | Share = 0.5


class Head(Phase):
    """Only the linear layer (and a series' attention), on a body that stays as it is."""

    epochs: int = Field(default=3, ge=0, le=10_000)
    learning_rate: Rate = 1e-3


class Optimiser(Part):
    """clip: the largest global norm of the gradient; 0 for no limit."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    clip: float = Field(default=1.0, ge=0)


class LossPlan(Part):
    """Which loss, see :mod:`models.training.losses`. Parameters of other losses are refused.

    label_smoothing: towards one half, or for classes towards all of them.
    positive_power: weighted-bce; a positive weighs (negatives / positives) ** this.
    gamma: focal. gamma_positive, gamma_negative, clip: asymmetric.
    margin: ldam-drw, of the rarest label, in logits. deferred: the share of fine-tuning after which it re-weights.
    """

    name: Literal["bce", "weighted-bce", "focal", "asymmetric", "ldam-drw", "softmax-ce"] = "bce"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    positive_power: float = Field(default=0.5, ge=0, le=1)
    gamma: float = Field(default=2.0, ge=0)
    gamma_positive: float = Field(default=0.0, ge=0)
    gamma_negative: float = Field(default=4.0, ge=0)
    clip: float = Field(default=0.05, ge=0, lt=0.5)
    margin: float = Field(default=1.0, ge=0)
    deferred: Share = 0.5

    @model_validator(mode="after")
    def _only_its_own(self) -> LossPlan:
        own = {
            "bce": {"label_smoothing"},
            "weighted-bce": {"label_smoothing", "positive_power"},
            "focal": {"label_smoothing", "gamma"},
            "asymmetric": {"gamma_positive", "gamma_negative", "clip"},
            "ldam-drw": {"margin", "deferred"},
            "softmax-ce": {"label_smoothing"},
        }[self.name]
        if odd := sorted(self.model_fields_set - own - {"name"}):
            raise ValueError(f"{self.name} does not take {', '.join(odd)}")
        return self


class EarlyStopping(Part):
    """The epoch of fine-tuning that is best on validation is kept. patience: epochs without gain; 0 never stops."""

    monitor: Literal["auroc", "loss"] = "auroc"
    patience: int = Field(default=0, ge=0)


class Training(Part):
    """batch: images a step sees at once on all devices together. accumulate: how many such batches make one step.

    sampling: ``sources`` draws images with replacement, a source in proportion to (its size) ** source_power and each
        pattern of labels within it evenly; ``shuffle`` sees every image once an epoch.
    batch_norm: ``frozen`` keeps the statistics of the start weights, ``trained`` needs batches of some size.
    refit_penalty: after each phase the head is fitted in closed form with this ridge penalty
        (`models.training.refit`); 0 leaves it as the epochs made it. For labels, not classes, of single images.
    members: networks of successive seeds, whose mean of all weights is kept, with a head fitted to it (Wortsman et al.,
        ICML 2022); judge it by cross-validation, for it is not sure that they stay in one valley.
    ema: decay of the running average of the weights, which is what is kept; 0 for none.
    mixed_precision: half precision on a GPU; without one it is refused.
    checkpoint_steps: a broken run goes on from the last multiple of this.
    """

    head: Head = Head()
    finetune: FineTune = FineTune()
    batch: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimiser: Optimiser = Optimiser()
    loss: LossPlan = LossPlan()
    sampling: Literal["sources", "shuffle"] = "sources"
    source_power: float = Field(default=0.5, ge=0, le=1)
    batch_norm: Literal["frozen", "trained"] = "frozen"
    refit_penalty: float = Field(default=0.0, ge=0)
    members: int = Field(default=1, ge=1, le=16)
    ema: float = Field(default=0.99, ge=0, lt=1)
    early_stopping: EarlyStopping = EarlyStopping()
    seed: int = Field(default=1, ge=0, lt=2**31)
    mixed_precision: bool = False
    checkpoint_steps: int = Field(default=200, ge=1)

    @model_validator(mode="after")
    def _trains_something(self) -> Training:
        if self.head.epochs + self.finetune.epochs == 0 and not self.refit_penalty:
            raise ValueError("no phase has an epoch, and no head is fitted")
        if self.members > 1 and not self.refit_penalty:
            raise ValueError("the mean of several members needs a head of its own: set refit_penalty")
        return self


class Augment(Part):
    """Half-widths of uniform draws, Keras layers on grey planes in [0, 1].

    rotation_degrees; zoom, shift, contrast, brightness: shares; gamma: in log units. erase: probability of a grey
    rectangle; blur: probability of a slight Gaussian blur. mixup, cutmix: their alpha, 0 for none; a batch is given to
    one of the two. horizontal_flip is off unless asked for: a body has sides.
    """

    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    zoom: HalfWidth = 0.1
    shift: HalfWidth = 0.05
    contrast: HalfWidth = 0.2
    brightness: HalfWidth = 0.1
    gamma: HalfWidth = 0.2
    erase: Share = 0.0
    blur: Share = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    mixup: float = Field(default=0.0, ge=0, le=10)
    cutmix: float = Field(default=0.0, ge=0, le=10)


NO_AUGMENTATION = Augment(rotation_degrees=0, zoom=0, shift=0, contrast=0, brightness=0, gamma=0)
