"""From a plan to a bundle: read, split, load, train (or go on), judge, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import structlog
import tensorflow as tf

from models import backbones
from models.datasets import planes as plane_cache
from models.datasets.images import split_steps
from models.datasets.pixels import Images
from models.datasets.planes import Planes
from models.datasets.samples import Problem, Sample, SampleSet
from models.datasets.splits import SplitSets
from models.datasets.splits import split as split_patients
from models.datasets.targets import matrix
from models.errors import DatasetError, RuntimeUnavailable
from models.gate import require_enough
from models.training.complete import BUNDLES, Parts, TrainedPlan, Unseen, complete
from models.training.data import read_data
from models.training.feed import Examples
from models.training.loop import set_mean_weights
from models.training.network import Trained, batches_of, build
from models.training.plan import AS_WRITTEN, Changes, Folders, Plan, StartWeights, read_plan
from models.training.refit import refit
from models.training.run_folder import RunFolder, environment, identity_of, split_record
from models.training.step import strategy_for
from models.training.trainer import Epoch, Trainer, Watch

log = structlog.get_logger(__name__)
WEIGHTS = "weights.npz"


@dataclass(frozen=True)
class Progress:
    """For people who wait. images, judged: (done, all), of reading and of measuring. problems: of the data, before
    anything is trained. step: (phase, done, all, loss). epoch: at the end of each."""

    images: Callable[[int, int], None] = lambda *_: None
    judged: Callable[[int, int], None] = lambda *_: None
    problems: Callable[[Sequence[Problem]], None] = lambda _: None
    step: Callable[[str, int, int, float], None] = lambda *_: None
    epoch: Callable[[Epoch], None] = lambda _: None


Divide = Callable[[SampleSet], SplitSets]


@dataclass(frozen=True)
class _Read:
    found: SampleSet
    split: SplitSets
    parts: Parts
    problems: tuple[Problem, ...]


def run_plan(
    config: Path,
    out: Path,
    folders: Folders,
    *,
    changes: Changes = AS_WRITTEN,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train what ``config`` says in the folder ``out``, or go on with the run that is there; the bundle's folder.

    changes: to the plan. cache: of planes; None keeps them in ``out``.

    Raises:
        DatasetError: the plan, the labels, the split or a label's calibration; ``out`` holds another run.
        BundleError: start weights that are not those of the plan.
        RuntimeUnavailable: a folder that cannot be written, or a GPU that is not there.
    """
    plan, text = read_plan(config, changes)
    done = train_plan(plan, text, out, folders, cache=cache, progress=progress)
    backbones.save_weights(done.network.model, out / WEIGHTS, "float32")
    complete(plan, done, out)
    return out / BUNDLES / plan.bundle.id


def train_plan(
    plan: Plan,
    text: str,
    out: Path,
    folders: Folders,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    divide: Divide | None = None,
) -> TrainedPlan:
    """The network of a plan, trained or taken up from ``out``. text: the plan as `read_plan` gives it, for the run's
    copy. divide: other than by the plan's [split].

    Raises as :func:`run_plan`.
    """
    progress = progress or Progress()
    _deterministic(plan)
    folder = RunFolder(out)
    read = _read(plan, folders, cache or out / "planes", progress, divide)
    folder.describe(plan, text, read.split, read.problems)
    progress.problems(read.problems)

    def member(number: int) -> Trained:
        mine = plan.model_copy(
            update={"training": plan.training.model_copy(update={"seed": plan.training.seed + number})}
        )
        run = folder if plan.training.members == 1 else RunFolder(out / f"member-{number + 1}")
        return _trained(mine, folders, read, run, progress)

    networks = [member(number) for number in range(plan.training.members)]
    network = networks[0]
    if len(networks) > 1:
        set_mean_weights(network.model, [one.model for one in networks])
        refit(network, read.parts.training, plan)
    unseen = _unseen(plan, folders, read, progress)
    return TrainedPlan(network, read.parts, unseen, _record(plan, read), read.found.exclusive)


def _unseen(plan: Plan, folders: Folders, read: _Read, progress: Progress) -> Unseen:
    part, samples = ("test", read.split.test) if read.split.test else ("validation", read.split.validation)
    found = replace(read.found, name=f"{read.found.name}, {part} part", samples=tuple(samples), problems=())
    return Unseen(part, found, Images(folders.data / plan.data.images), progress.judged)


def _trained(plan: Plan, folders: Folders, read: _Read, folder: RunFolder, progress: Progress) -> Trained:
    """One network, trained or taken up from the folder's checkpoint."""
    strategy = strategy_for(plan.training)
    network = _network(plan, folders, strategy)

    def epoch(found: Epoch) -> None:
        folder.epoch(found)
        progress.epoch(found)

    trainer = Trainer(
        plan,
        network,
        read.parts.training,
        read.parts.validation,
        exclusive=read.found.exclusive,
        folder=folder.path,
        identity=identity_of(plan, read.split.digest, _start(plan)),
        strategy=strategy,
        watch=Watch(progress.step, epoch),
    )
    if trainer.resume():
        log.info("run_taken_up", phase=trainer.state.phase, epoch=trainer.state.epoch, step=trainer.state.step)
    folder.begin(trainer.state.phase, trainer.state.epoch)
    trainer.run()
    return network


def _deterministic(plan: Plan) -> None:
    keras.utils.set_random_seed(plan.training.seed)
    tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy("mixed_float16" if plan.training.mixed_precision else "float32")


def _network(plan: Plan, folders: Folders, strategy: tf.distribute.Strategy) -> Trained:
    # Seeded once more: how many draws reading took must not decide the head's first weights.
    keras.utils.set_random_seed(plan.training.seed)
    with strategy.scope():
        model = build(plan, folders.weights)
    _, tail = split_steps(plan.steps)
    return Trained(model, tail, plan.input.slices)


def _read(plan: Plan, folders: Folders, cache: Path, progress: Progress, divide: Divide | None) -> _Read:
    found = read_data(plan, folders)
    if divide is None:
        split = split_patients(found.samples, plan.split.fractions, plan.split.salt, plan.split.official)
    else:
        split = divide(found)
    images = Images(folders.data / plan.data.images)
    plane_steps, _ = split_steps(plan.steps)
    planes = plane_cache.load(
        [*split.train, *split.validation, *split.test],
        images,
        plane_steps,
        cache,
        progress=progress.images,
        max_bad_fraction=plan.data.most_bad,
    )
    training, validation, test = (_examples(plan, planes, part) for part in (split.train, split.validation, split.test))
    if training is None or validation is None:
        raise DatasetError("no usable image is left in training or in validation")
    _both_kinds(validation, plan)
    if plan.bundle.gate_quantile and divide is None:
        # Before training too; networks of a cross-validation get no gate.
        require_enough(min(len(training), len(validation)))
    parts = Parts(training, validation, test)
    return _Read(found, split, parts, (*found.problems, *split.problems, *planes.problems))


def _examples(plan: Plan, planes: Planes, wanted: Sequence[Sample]) -> Examples | None:
    place = {sample.file: index for index, sample in enumerate(planes.samples)}
    samples = [sample for sample in wanted if sample.file in place]
    if not samples:
        return None
    index = np.array([place[sample.file] for sample in samples], dtype=np.int64)
    targets = matrix(samples, plan.bundle.keys, plan.data.uncertain, plan.data.smooth)
    read = batches_of(planes, plan.input.slices)
    return Examples(
        read=lambda chosen: read(index[chosen]),
        values=targets.values,
        mask=targets.mask,
        patients=np.array([f"{sample.source}|{sample.patient}" for sample in samples]),
        sources=np.array([sample.source for sample in samples]),
    )


def _both_kinds(validation: Examples, plan: Plan) -> None:
    """Before hours of training, not after: without both, no threshold can be chosen."""
    positive = ((validation.values > 0.5) & (validation.mask > 0)).sum(axis=0)
    negative = ((validation.values <= 0.5) & (validation.mask > 0)).sum(axis=0)
    for label, some, others in zip(plan.bundle.keys, positive, negative, strict=True):
        if not some or not others:
            raise DatasetError(
                f"validation has {some} images with {label} and {others} without; both are needed to calibrate it"
            )


def _start(plan: Plan) -> str:
    weights = plan.network.weights
    return weights.sha256 if isinstance(weights, StartWeights) else weights


def _record(plan: Plan, read: _Read) -> dict[str, Any]:
    start = _start(plan)
    return {
        "made_by": "radnode train",
        "start": {"none": "random weights", "imagenet": "ImageNet weights of Keras"}.get(start, f"weights {start}"),
        "data": {
            "name": read.found.name,
            "kind": ", ".join(dict.fromkeys(one.kind for one in plan.data.every_set)),
            "uncertain": plan.data.uncertain,
        },
        "split": {"salt": plan.split.salt, **split_record(read.split)},
        "plan": plan.model_dump(mode="json", include={"input", "network", "training", "augment"}),
        "environment": environment(),
    }


def default_folders(config: Path, data: Path | None, weights: Path | None) -> Folders:
    """The folders a command was given, else the plan's own. Raises RuntimeUnavailable for a missing one."""
    folders = Folders(data=data or config.resolve().parent, weights=weights or config.resolve().parent)
    for folder in (folders.data, folders.weights):
        if not folder.is_dir():
            raise RuntimeUnavailable(f"there is no folder {folder.name}")
    return folders
