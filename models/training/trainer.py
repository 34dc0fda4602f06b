"""The two phases of a plan, with checkpoints: the head alone, then the upper part of the body with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.backbones.weights import assign, weights_of
from models.contracts import FloatArray
from models.errors import DatasetError
from models.evaluation.metrics import auroc
from models.training import checkpoint
from models.training.augmentation import Augmentation
from models.training.checkpoint import State
from models.training.feed import Examples, feed, order, steps_of
from models.training.losses import LossFunction, build_loss, counts_of
from models.training.network import Trained
from models.training.plan import Plan
from models.training.recipe import FineTune, Phase
from models.training.refit import refit
from models.training.step import Average, Stepper, build_optimiser

PHASES = ("head", "finetune")
CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. validation: mean AUROC over the labels, and loss, of the weights that would be kept.

    seconds: that training and judging took; of an epoch taken up in its middle, those of the rest.
    """

    phase: str
    number: int
    loss: float
    validation_loss: float
    validation_auroc: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Watch:
    """Called while a run goes. step: (phase, steps done, steps of the phase, loss). epoch: at the end of each."""

    step: Callable[[str, int, int, float], None] = lambda *_: None
    epoch: Callable[[Epoch], None] = lambda _: None


@dataclass(frozen=True)
class _Running:
    """What one phase runs with. steps: of an epoch."""

    number: int
    phase: Phase
    steps: int
    step: Stepper
    optimiser: Any
    average: Average


class Trainer:
    """Trains in place. ``folder``: where the checkpoint goes; ``identity``: of the run, see State."""

    def __init__(
        self,
        plan: Plan,
        network: Trained,
        training: Examples,
        validation: Examples,
        *,
        exclusive: bool,
        folder: Path,
        identity: str,
        strategy: tf.distribute.Strategy,
        watch: Watch,
    ) -> None:
        self.plan, self.network, self.training, self.validation = plan, network, training, validation
        self.exclusive, self.path, self.strategy, self.watch = exclusive, folder / CHECKPOINT, strategy, watch
        if plan.training.refit_penalty and (exclusive or plan.input.slices):
            raise DatasetError("refit_penalty is for labels of single images, not for classes or series; leave it out")
        counts = counts_of(training.values, training.mask)
        self.loss: LossFunction = build_loss(plan.training.loss, counts, exclusive=exclusive)
        self.augmentation = Augmentation(plan.augment, plan.training.seed)
        self.state = State(identity)
        self._best: dict[str, NDArray[Any]] = {}
        self._held: checkpoint.Arrays = {}

    def resume(self) -> bool:
        """Take up the folder's checkpoint, if it has one. Raises DatasetError for another run's."""
        found = checkpoint.load(self.path, self.state.identity)
        if found is None:
            return False
        self.state, self._held = found
        model = _under(self._held, "model/")
        assign(weights_of(self.network.model), model, CHECKPOINT)
        for variable, value in zip(self._generators(), _numbered(self._held, "random/"), strict=True):
            variable.assign(value)
        self._best = _under(self._held, "best/")
        return True

    def run(self) -> None:
        """To the end of both phases; the network then holds the weights that are kept."""
        for number, phase in enumerate((self.plan.training.head, self.plan.training.finetune)):
            if self.state.phase == number:
                if phase.epochs:
                    self._phase(number, phase)
                # After the last epoch of either phase, so that a checkpoint of the next one holds it already; a second
                # phase without an epoch leaves the body as the first one fitted it.
                if self.plan.training.refit_penalty and (phase.epochs or number == 0):
                    refit(self.network, self.training, self.plan)
                self.state.phase, self.state.epoch, self.state.step = number + 1, 0, 0
                self._save([], [])

    def _phase(self, number: int, phase: Phase) -> None:
        training = self.plan.training
        depth = phase.unfreeze_from if isinstance(phase, FineTune) else None
        fresh = isinstance(phase, FineTune) and training.batch_norm == "trained"
        changing = self.network.freeze(depth, train_batch_norm=fresh)
        with self.strategy.scope():
            optimiser = build_optimiser(training.optimiser, self.network.model.trainable_variables)
            average = Average(changing, training.ema)
            step = Stepper(
                self.network,
                optimiser=optimiser,
                loss=self.loss,
                augmentation=self.augmentation,
                training=training,
                strategy=self.strategy,
            )
        self._refill(optimiser, average)
        running = _Running(number, phase, steps_of(self.training, training), step, optimiser, average)
        for epoch in range(self.state.epoch, phase.epochs):
            begun = time.monotonic()
            self._epoch(running, epoch)
            self._judge(running, epoch, begun)
            self._save(optimiser.variables, average.values)
            patience = training.early_stopping.patience
            if isinstance(phase, FineTune) and patience and self.state.stale >= patience:
                break
        average.swap()
        if self._best:
            assign(weights_of(self.network.model), self._best, CHECKPOINT)
            self._best = {}

    def _epoch(self, running: _Running, epoch: int) -> None:
        number, phase, steps = running.number, running.phase, running.steps
        indices = order(self.training, self.plan.training, number, epoch)
        total, every = steps * phase.epochs, self.plan.training.checkpoint_steps
        deferred_from = self.plan.training.loss.deferred * total if isinstance(phase, FineTune) else math.inf
        for planes, values, mask in feed(self.training, indices[self.state.step :]) if self.state.step < steps else ():
            done = epoch * steps + self.state.step
            rate = learning_rate(phase, done, total)
            loss = running.step(planes, values, mask, rate=rate, deferred=done >= deferred_from)
            if not math.isfinite(loss):
                raise DatasetError("the loss is no number any more; lower the learning rate")
            running.average.follow(done + 1)
            self.state.step += 1
            self.state.loss += loss
            self.watch.step(PHASES[number], done + 1, total, loss)
            if self.state.step % every == 0 and self.state.step < steps:
                self._save(running.optimiser.variables, running.average.values)

    def _judge(self, running: _Running, epoch: int, begun: float) -> None:
        phase, steps, average = running.phase, running.steps, running.average
        average.swap()
        logits, _ = self.network.predict(self.validation.read, len(self.validation))
        loss, area = validation_figures(self.loss, logits, self.validation)
        stopping = self.plan.training.early_stopping
        value = area if stopping.monitor == "auroc" else -loss
        if isinstance(phase, FineTune) and stopping.patience:
            if self.state.best is None or value > self.state.best:
                self.state.best, self.state.best_epoch, self.state.stale = value, epoch, 0
                self._best = {key: variable.numpy() for key, variable in weights_of(self.network.model).items()}
            else:
                self.state.stale += 1
        average.swap()
        rate = learning_rate(phase, (epoch + 1) * steps - 1, steps * phase.epochs)
        seconds = time.monotonic() - begun
        self.watch.epoch(Epoch(PHASES[running.number], epoch, self.state.loss / steps, loss, area, rate, seconds))
        self.state.epoch, self.state.step, self.state.loss = epoch + 1, 0, 0.0

    def _generators(self) -> list[Any]:
        own = [variable.value for variable in self.network.model.variables if "seed" in variable.path]
        return [*self.augmentation.variables, *own]

    def _save(self, optimiser: Sequence[Any], average: Sequence[Any]) -> None:
        arrays = {f"model/{key}": variable.numpy() for key, variable in weights_of(self.network.model).items()}
        arrays |= {f"best/{key}": value for key, value in self._best.items()}
        groups = {"random": self._generators(), "optimiser": optimiser, "average": average}
        for name, variables in groups.items():
            arrays |= {f"{name}/{index}": np.asarray(variable) for index, variable in enumerate(variables)}
        checkpoint.save(self.path, self.state, arrays)

    def _refill(self, optimiser: Any, average: Average) -> None:
        """Optimiser and average as the checkpoint had them; nothing to do where the phase begins."""
        stored = _numbered(self._held, "optimiser/")
        if stored:
            for variable, value in zip(optimiser.variables, stored, strict=True):
                variable.assign(value)
            for variable, value in zip(average.values, _numbered(self._held, "average/"), strict=True):
                variable.assign(value)
        self._held = {}


def learning_rate(phase: Phase, done: int, total: int) -> float:
    """Linear warm-up, then a constant or a cosine that reaches zero at ``total`` steps."""
    warmup = int(phase.warmup * total)
    if done < warmup:
        return phase.learning_rate * (done + 1) / warmup
    if phase.schedule == "constant":
        return phase.learning_rate
    return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))


def validation_figures(loss: LossFunction, logits: FloatArray, examples: Examples) -> tuple[float, float]:
    """Mean loss, and mean AUROC of the labels that have both kinds of images (NaN without any)."""
    total, terms = loss(tf.constant(logits), tf.constant(examples.values), tf.constant(examples.mask), tf.constant(0.0))
    areas = []
    for column in range(logits.shape[1]):
        known = examples.mask[:, column] > 0
        areas.append(auroc(examples.values[known, column], logits[known, column]))
    finite = [area for area in areas if math.isfinite(area)]
    return float(total) / max(1.0, float(terms)), float(np.mean(finite)) if finite else math.nan


def _under(arrays: checkpoint.Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _numbered(arrays: checkpoint.Arrays, prefix: str) -> list[NDArray[Any]]:
    found = _under(arrays, prefix)
    return [found[str(index)] for index in range(len(found))]
