"""Cross-validation of a plan: every patient is held out once, by a network that never saw them.

For sets too small for a test part of their own. The figures are of the plan, not of one bundle: each fold trains a
network of its own, on less than the bundle will be trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models import backbones
from models.datasets.samples import SampleSet
from models.datasets.splits import SplitSets, folds, split
from models.errors import DatasetError
from models.evaluation.figures import as_json, rounded
from models.evaluation.metrics import (
    Metric,
    Numbers,
    auroc,
    average_precision,
    bootstrap,
    brier,
    confusion,
)
from models.training.feed import Examples
from models.training.general import WEIGHTS, Progress, train_plan
from models.training.judge import calibrate, chances, choose_point
from models.training.network import Trained
from models.training.plan import AS_WRITTEN, Changes, Folders, Plan, read_plan
from models.training.run_folder import RunFolder

FIGURES = "cross_validation.json"


@dataclass(frozen=True)
class _HeldOut:
    """scores: probabilities (n, labels). present: 1 where a score reaches its fold's threshold. Others: Examples."""

    scores: Numbers
    present: Numbers
    values: Numbers
    mask: Numbers
    patients: NDArray[np.str_]
    sources: NDArray[np.str_]
    fold: NDArray[np.int64]


def cross_validate(
    config: Path,
    out: Path,
    folders: Folders,
    count: int,
    *,
    changes: Changes = AS_WRITTEN,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train ``count`` networks below ``out`` (fold-1 …), or go on where that broke off; the file of the figures.

    Each fold calibrates and stops by a validation part that is drawn from its own training patients by the plan's
    fractions. Official parts are ignored, and no bundle is made.

    Raises as `models.training.general.run_plan`, and DatasetError for more folds than patients.
    """
    # Once: hours later the file may be another, and the folds are of one plan.
    plan, text = read_plan(config, changes)
    found = []
    for number in range(count):
        run = out / f"fold-{number + 1}"
        done = train_plan(
            plan,
            text,
            run,
            folders,
            cache=cache or out / "planes",
            progress=progress,
            divide=_fold(plan, number, count),
        )
        if done.parts.test is None:
            raise DatasetError(f"fold {number + 1} has no usable image; take fewer folds")
        # In half precision, as a bundle would hold them.
        backbones.save_weights(done.network.model, run / WEIGHTS)
        backbones.load_weights(done.network.model, run / WEIGHTS)
        found.append(
            _judged(plan, done.network, done.parts.validation, done.parts.test, number, exclusive=done.exclusive)
        )
        exclusive = done.exclusive
        keras.backend.clear_session()
    document = {"folds": count, **_figures(plan, _joined(found), exclusive=exclusive)}
    RunFolder(out).write_json(FIGURES, document)
    return out / FIGURES


def _fold(plan: Plan, number: int, count: int) -> Callable[[SampleSet], SplitSets]:
    def divide(found: SampleSet) -> SplitSets:
        training, held_out = folds(found.samples, count, plan.split.salt)[number]
        share = plan.split.train / (plan.split.train + plan.split.validation)
        inner = split(training, {"train": share, "validation": 1 - share}, plan.split.salt, honour_official=False)
        files = json.dumps([inner.digest, *sorted(sample.file for sample in held_out)])
        return replace(inner, test=held_out, digest=hashlib.sha256(files.encode()).hexdigest())

    return divide


def _judged(
    plan: Plan, network: Trained, validation: Examples, test: Examples, number: int, *, exclusive: bool
) -> _HeldOut:
    labels = plan.bundle.keys
    logits, _ = network.predict(validation.read, len(validation))
    calibration = calibrate(logits, validation, labels, exclusive=exclusive).calibration
    known = chances(logits, calibration, labels, exclusive=exclusive)
    logits, _ = network.predict(test.read, len(test))
    scores = chances(logits, calibration, labels, exclusive=exclusive)
    present = np.zeros_like(scores)
    for column in range(len(labels)):
        here = validation.mask[:, column] > 0
        point = choose_point(validation.values[here, column], known[here, column], plan.bundle.operating)
        present[:, column] = scores[:, column] >= point.threshold
    fold = np.full(len(test), number, dtype=np.int64)
    return _HeldOut(scores, present, test.values, test.mask, test.patients, test.sources, fold)


def _joined(parts: list[_HeldOut]) -> _HeldOut:
    names = ("scores", "present", "values", "mask", "patients", "sources", "fold")
    return _HeldOut(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _figures(plan: Plan, found: _HeldOut, *, exclusive: bool) -> dict[str, Any]:
    """All folds together, and each source where there are several."""
    document = _part(plan, found, np.ones(len(found.fold), bool), exclusive=exclusive)
    sources = np.unique(found.sources)
    if len(sources) > 1:
        document["sources"] = {
            str(source): _part(plan, found, found.sources == source, exclusive=exclusive) for source in sources
        }
    return document | {"interval": "95 % percentile, bootstrap over patients"}


def _part(plan: Plan, found: _HeldOut, here: NDArray[np.bool_], *, exclusive: bool) -> dict[str, Any]:
    labels = {label: _label(found, column, here) for column, label in enumerate(plan.bundle.keys)}
    document: dict[str, Any] = {
        "images": int(here.sum()),
        "patients": len(np.unique(found.patients[here])),
        "labels": labels,
    }
    if exclusive:
        right = (found.scores[here].argmax(axis=1) == found.values[here].argmax(axis=1)).astype(np.float64)
        document["accuracy"] = as_json(bootstrap(lambda one, _: float(one.mean()), right, right, found.patients[here]))
    return document


def _label(found: _HeldOut, column: int, here: NDArray[np.bool_]) -> dict[str, Any]:
    known = here & (found.mask[:, column] > 0)
    truth, who = found.values[known, column], found.patients[known]
    by_score: dict[str, Metric] = {"auroc": auroc, "auprc": average_precision, "brier": brier}
    by_decision: dict[str, Metric] = {
        "sensitivity": lambda t, p: confusion(t, p, 0.5).sensitivity,
        "specificity": lambda t, p: confusion(t, p, 0.5).specificity,
        "accuracy": lambda t, p: confusion(t, p, 0.5).accuracy,
    }
    figures = {
        name: as_json(bootstrap(metric, truth, values[known, column], who))
        for values, metrics in ((found.scores, by_score), (found.present, by_decision))
        for name, metric in metrics.items()
    }
    # Ranked within each fold only: differences between the folds' calibrations cannot lower it.
    areas = [
        auroc(found.values[inside, column], found.scores[inside, column])
        for number in np.unique(found.fold)
        if (inside := known & (found.fold == number)).any()
    ]
    return {
        "images": int(known.sum()),
        "positive": int(truth.sum()),
        **figures,
        "auroc_by_fold": [rounded(area) for area in areas],
    }
