"""Training runs that can be taken up again: one folder per network, and cross-validation over patients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from models import backbones
from models.backbones.efficientnet_lite import load_imagenet
from models.datasets.images import Tail
from models.datasets.labels import LabelledImage
from models.datasets.splits import folds_by_patient
from models.evaluation.metrics import auroc, bootstrap
from models.evaluation.report import as_json
from models.training.config import TrainingConfig
from models.training.loop import Examples, Network, mean_auroc, set_mean_weights, train

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """What every network of one recipe shares. imagenet: npz of the start weights; runs: where run folders go."""

    architecture: str
    input_shape: tuple[int, int, int]
    tail: Tail
    imagenet: Path
    runs: Path


@dataclass(frozen=True)
class Pool:
    """Loaded images: rows[i] belongs to examples' i-th image."""

    rows: tuple[LabelledImage, ...]
    examples: Examples

    def take(self, rows: Sequence[LabelledImage]) -> Examples:
        """The examples of some of the rows."""
        wanted = {row.file for row in rows}
        chosen = np.array([index for index, row in enumerate(self.rows) if row.file in wanted])
        whole = self.examples
        return Examples(whole.images[chosen], whole.labels[chosen], whole.sources[chosen])


def fresh(plan: Plan) -> Network:
    """A network with ImageNet weights and an untrained head of one output."""
    model = backbones.build(plan.architecture, plan.input_shape, 1)
    load_imagenet(model, plan.imagenet)
    return Network(model, plan.tail)


def member(
    plan: Plan, name: str, data: tuple[Examples, Examples], config: TrainingConfig, split_digest: str
) -> Network:
    """A trained network: from its run folder when that holds the same configuration and split, else trained now."""
    folder = plan.runs / name
    identity = {"config": asdict(config), "split": split_digest, "architecture": plan.architecture}
    network = fresh(plan)
    if _stored(folder) == identity:
        log.info("run_found", run=name)
        backbones.load_weights(network.model, folder / "weights.npz")
        return network
    history = train(network, *data, config)
    folder.mkdir(parents=True, exist_ok=True)
    backbones.save_weights(network.model, folder / "weights.npz")
    (folder / "history.json").write_text(json.dumps(asdict(history), indent=2) + "\n")
    # Last, so that a run that was cut short is not taken for a whole one.
    (folder / "run.json").write_text(json.dumps(identity, indent=2) + "\n")
    return network


def _stored(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def greedy_soup(
    plan: Plan, data: tuple[Examples, Examples], config: TrainingConfig, seeds: Sequence[int], split: str
) -> tuple[Network, dict[str, Any]]:
    """One network from one run per seed: the best by validation, averaged with others only while that helps.

    A uniform mean of runs that went into different valleys is worse than each of them (seen here: mean validation AUROC
    0.947 against 0.966 to 0.976); the greedy rule of Wortsman et al. (ICML 2022) can never be worse on validation.

    Returns the network and a record: which were kept, and the validation score of every run and mixture tried.
    """
    networks = {f"seed{seed}": member(plan, f"seed{seed}", data, replace(config, seed=seed), split) for seed in seeds}
    scores = {name: mean_auroc(network, data[1]) for name, network in networks.items()}
    best, *others = sorted(scores, key=lambda name: -scores[name])
    kept, kept_score = [best], scores[best]
    for name in others:
        mixture = fresh(plan)
        set_mean_weights(mixture.model, [networks[each].model for each in (*kept, name)])
        scores["+".join((*kept, name))] = score = mean_auroc(mixture, data[1])
        if score > kept_score:
            kept, kept_score = [*kept, name], score
    result = fresh(plan)
    set_mean_weights(result.model, [networks[each].model for each in kept])
    rounded = {name: round(score, 4) for name, score in scores.items()}
    log.info("soup", kept=kept, **rounded)
    return result, {"kept": kept, "validation_score": rounded}


def cross_validate(plan: Plan, pool: Pool, config: TrainingConfig, folds: int, salt: str) -> dict[str, Any]:
    """Out-of-fold AUROC per source with a patient-bootstrap interval, for one network per fold."""
    logits = np.full(len(pool.rows), np.nan, dtype=np.float32)
    for fold, (training, held_out) in enumerate(folds_by_patient(pool.rows, folds, salt)):
        network = fresh(plan)
        part = pool.take(held_out)
        train(network, pool.take(training), part, replace(config, seed=config.seed + fold))
        files = {row.file for row in held_out}
        logits[[index for index, row in enumerate(pool.rows) if row.file in files]] = network.logits(part.images)[:, 0]
    patients = np.array([row.patient for row in pool.rows])
    found: dict[str, Any] = {"folds": folds, "images": len(pool.rows), "auroc": {}}
    for source in np.unique(pool.examples.sources):
        here = pool.examples.sources == source
        figure = bootstrap(auroc, pool.examples.labels[here], logits[here], patients[here])
        found["auroc"][str(source)] = as_json(figure)
    return found
