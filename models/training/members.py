"""Training runs that can be taken up again: one folder per network, and cross-validation over patients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from models import backbones
from models.backbones.efficientnet_lite import load_imagenet
from models.contracts import FloatArray
from models.datasets.images import Tail
from models.datasets.labels import LabelledImage
from models.datasets.splits import folds_by_patient
from models.evaluation.metrics import auroc
from models.training.config import TrainingConfig
from models.training.head import fit_head
from models.training.loop import Examples, Network, head_weights, refit_head, set_mean_weights, train

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """What every network of one recipe shares. imagenet: npz of the start weights; runs: where run folders go; seeds:
    of the runs whose weights are averaged."""

    architecture: str
    input_shape: tuple[int, int, int]
    tail: Tail
    imagenet: Path
    runs: Path
    config: TrainingConfig
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """Loaded images: rows[i] belongs to examples' i-th image."""

    rows: tuple[LabelledImage, ...]
    examples: Examples

    def take(self, rows: Sequence[LabelledImage]) -> Examples:
        """The examples of some of the rows."""
        wanted = {row.file for row in rows}
        return self.examples.take([index for index, row in enumerate(self.rows) if row.file in wanted])


def fresh(plan: Plan) -> Network:
    """A network with ImageNet weights and an untrained head of one output."""
    model = backbones.build(plan.architecture, plan.input_shape, 1)
    load_imagenet(model, plan.imagenet)
    return Network(model, plan.tail)


def trained(plan: Plan, pool: Pool, rows: Sequence[LabelledImage], name: str) -> Network:
    """One network from one run per seed: the mean of their weights, with a head fitted to it.

    The runs start from the same weights and move little, so that their mean lies in the same valley; cross-validation
    through this very function shows whether that holds.
    """
    training = pool.take(rows)
    configs = {f"{name}-seed{seed}": replace(plan.config, seed=seed) for seed in plan.seeds}
    runs = [_member(plan, run, training, rows, config) for run, config in configs.items()]
    if len(runs) == 1:
        return runs[0]
    mean = fresh(plan)
    set_mean_weights(mean.model, [run.model for run in runs])
    refit_head(mean, training, plan.config)
    return mean


def _member(
    plan: Plan, name: str, training: Examples, rows: Sequence[LabelledImage], config: TrainingConfig
) -> Network:
    """A trained network: from its run folder when that holds the same configuration and images, else trained now."""
    folder = plan.runs / name
    files = hashlib.sha256("\n".join(sorted(row.file for row in rows)).encode()).hexdigest()
    identity = {
        "config": asdict(config),
        "files": files,
        "architecture": plan.architecture,
        "input_shape": list(plan.input_shape),
    }
    network = fresh(plan)
    if _stored(folder) == identity:
        log.info("run_found", run=name)
    else:
        history = train(network, training, config)
        folder.mkdir(parents=True, exist_ok=True)
        backbones.save_weights(network.model, folder / "weights.npz")
        (folder / "history.json").write_text(json.dumps(asdict(history), indent=2) + "\n")
        # Last, so that a run that was cut short is not taken for a whole one.
        (folder / "run.json").write_text(json.dumps(identity, indent=2) + "\n")
    # Read back in either case: what was stored in half precision is what the next run would find.
    backbones.load_weights(network.model, folder / "weights.npz")
    return network


def _stored(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def cross_validate(plan: Plan, pool: Pool, folds: int, salt: str) -> FloatArray:
    """Logits float32 (n,) of the pool's images, each from a network that was trained without that patient."""
    logits = np.full(len(pool.rows), np.nan, dtype=np.float32)
    for fold, (training, held_out) in enumerate(folds_by_patient(pool.rows, folds, salt)):
        network = trained(plan, pool, training, f"fold{fold}")
        files = {row.file for row in held_out}
        chosen = [index for index, row in enumerate(pool.rows) if row.file in files]
        logits[chosen] = network.logits(pool.examples.images[chosen])[:, 0]
        log.info("fold", number=fold, images=len(chosen), **_auroc_per_source(pool.examples, chosen, logits))
    return logits


def frozen_baseline(plan: Plan, pool: Pool, folds: int, salt: str) -> FloatArray:
    """The same as :func:`cross_validate` for the start weights with a fitted head: what fine-tuning has to beat."""
    features = fresh(plan).pooled(pool.examples.images)
    logits = np.full(len(pool.rows), np.nan, dtype=np.float32)
    place = {row.file: index for index, row in enumerate(pool.rows)}
    for training, held_out in folds_by_patient(pool.rows, folds, salt):
        seen, new = ([place[row.file] for row in rows] for rows in (training, held_out))
        kernel, bias = fit_head(
            features[seen],
            pool.examples.labels[seen],
            head_weights(pool.examples.take(seen), plan.config),
            plan.config.head_penalty,
        )
        logits[new] = features[new] @ kernel[:, 0] + bias[0]
    return logits


def _auroc_per_source(examples: Examples, chosen: Sequence[int], logits: FloatArray) -> dict[str, float]:
    labels, sources, scores = examples.labels[chosen], examples.sources[chosen], logits[chosen]
    return {
        str(source): round(auroc(labels[sources == source], scores[sources == source]), 4)
        for source in np.unique(sources)
    }
