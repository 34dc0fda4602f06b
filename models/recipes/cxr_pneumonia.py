"""The bundle `cxr-pneumonia`: pneumonia against normal on frontal chest radiographs.

Made again by ``radnode train cxr-pneumonia``. The recipe was chosen by cross-validation over the training part; nothing
of the test part is looked at before the weights, the calibration and the thresholds are fixed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import backbones
from models.contracts import FloatArray, Presence
from models.datasets.images import load_planes, read_grey, split_steps
from models.datasets.labels import LabelledImage, read_labels
from models.datasets.splits import Split, split_by_patient
from models.errors import DatasetError
from models.evaluation.drift_reference import drift_reference
from models.evaluation.metrics import auroc, bootstrap
from models.evaluation.report import as_json, columns_of, report
from models.evaluation.robustness import sensitivity_to_changes
from models.evaluation.scoring import Scored, score_images
from models.evaluation.shortcuts import source_from_features, source_from_score
from models.manifest import Platt
from models.preprocess import Steps, apply, grey_from_uint8, parse_steps
from models.recipes import Paths
from models.recipes.cxr_pneumonia_texts import NOTICE, Facts, document, model_card
from models.registry import load_bundle
from models.runner import load_runner
from models.training.bundle import write_golden, write_manifest
from models.training.calibrate import Thresholds, balanced_weights, choose_thresholds, fit_platt
from models.training.config import TrainingConfig
from models.training.loop import Examples, Network
from models.training.members import Plan, Pool, cross_validate, frozen_baseline, trained

LABEL = "pneumonia"
SOURCES = ("kermany224", "nih_cxr14")
VIEWS = ("AP", "PA")
SPLIT_SALT = "cxr-pneumonia-2"
IMAGENET = "efficientnet_lite0_imagenet_keras_layout_fp16.npz"
ARCHITECTURE = "efficientnet_lite0"


@dataclass(frozen=True)
class Settings:
    """What may be changed without it being another model. side: of the input, in pixels, a multiple of 32."""

    side: int = 288
    config: TrainingConfig = field(default_factory=TrainingConfig)
    seeds: tuple[int, ...] = (7, 8, 9)
    folds: int = 3

    @property
    def preprocessing(self) -> list[dict[str, Any]]:
        """The manifest's steps. The stretch after the window brings differently windowed files onto one contrast."""
        return [
            {"step": "window", "mode": "file"},
            {"step": "invert"},
            {"step": "normalise", "low_percentile": 1.0, "high_percentile": 99.0},
            {"step": "resize_pad", "rows": self.side, "columns": self.side, "resample": "bilinear"},
            {"step": "channels", "count": 3},
            {"step": "scale", "convention": "efficientnet_lite"},
        ]


# Shown by the demo: their patients may not have taught the model anything.
DEMO_FILES = (
    "kermany224/train_person690_bacteria_2587.jpg", "kermany224/train_IM-0216-0001.jpg",
    *(
        f"nih_cxr14/{name}.jpg"
        for name in (
            "00002058_013", "00003490_008", "00002239_004", "00002863_003",
            "00007629_002", "00001054_002", "00010222_019", "00011237_006",
        )
    ),
)  # fmt: skip


def select(rows: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Frontal images of the two sources whose licences allow shipping weights.

    COVID-19 images stay out: nearly all come from other collections, so the collection, not the lung, would be learned.
    """
    chosen = [row for row in rows if row.source in SOURCES and row.label in ("normal", LABEL) and row.view in VIEWS]
    if not chosen:
        raise DatasetError(f"the label file has no frontal image of {' or '.join(SOURCES)}")
    return [replace(row, patient=one_patient(row.patient)) for row in chosen]


def one_patient(patient: str) -> str:
    """Kermany numbers persons anew for bacteria and virus; the same number may be the same child: kept together."""
    return re.sub(r"^(kermany224:person\d+)_(bacteria|virus)$", r"\1", patient)


def split_rows(rows: Sequence[LabelledImage]) -> Split:
    """80 / 20 % of the patients of every source and label for training and test, the demo's patients in the test part.

    There is no validation part: with some hundred patients a source, cross-validation over the training part wastes
    none, and says more than a tenth of them could.
    """
    shown = {row.patient for row in rows if row.file in DEMO_FILES}
    return split_by_patient(rows, validation=0, test=0.2, salt=SPLIT_SALT, always_test=shown)


def make(paths: Paths, settings: Settings | None = None) -> None:
    """Cross-validate and train (or take up finished runs), calibrate, measure, and put the bundle at ``paths.out``.

    Raises DatasetError for data that cannot be used; ``paths.out`` is then as it was.
    """
    settings = settings or Settings()
    split = split_rows(select(read_labels(paths.data / "labels.csv")))
    plane_steps, tail = split_steps(parse_steps(settings.preprocessing))
    shape = (settings.side, settings.side, 3)
    plan = Plan(ARCHITECTURE, shape, tail, paths.weights / IMAGENET, paths.runs, settings.config, settings.seeds)
    pool = _load(split.train, paths.data, plane_steps)
    logits = cross_validate(plan, pool, settings.folds, SPLIT_SALT).astype(np.float64)
    platt, thresholds = _calibrate(logits, pool)
    frozen = frozen_baseline(plan, pool, settings.folds, SPLIT_SALT)
    validated = {
        **report(_scored(pool, logits, platt, thresholds), thresholds.present),
        "auroc_of_frozen_features": _auroc_per_source(pool, frozen),
    }
    network = trained(plan, pool, split.train, "final")
    draft = _Draft(paths, settings, split, _empty(paths.runs / "bundle"))
    backbones.save_weights(network.model, draft.folder / "weights.npz")
    # From here on the network is what the bundle ships: half-precision weights.
    backbones.load_weights(network.model, draft.folder / "weights.npz")
    _write_golden(draft, network)
    unseen = _load(split.test, paths.data, plane_steps)
    seen, new = ((network.pooled(part.examples.images), part.examples.sources) for part in (pool, unseen))
    reference = drift_reference({LABEL: _chances(logits, platt)}, (row.view for row in pool.rows))
    _measure(
        draft,
        platt,
        thresholds,
        {"cross_validation": validated, "reference": reference},
        source_from_features(seen, new),
    )
    shutil.rmtree(paths.out, ignore_errors=True)
    shutil.copytree(draft.folder, paths.out)


@dataclass(frozen=True)
class _Draft:
    """A bundle being put together in a folder of its own, so that nobody loads half of one."""

    paths: Paths
    settings: Settings
    split: Split
    folder: Path


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _load(rows: Sequence[LabelledImage], folder: Path, plane_steps: Steps) -> Pool:
    labels = np.array([row.label == LABEL for row in rows], dtype=np.float32)
    sources = np.array([row.source for row in rows])
    return Pool(tuple(rows), Examples(load_planes(rows, folder, plane_steps), labels, sources))


def _calibrate(logits: NDArray[np.float64], pool: Pool) -> tuple[Platt, Thresholds]:
    """On the logits of cross-validation: none of them comes from a network that knew the patient."""
    labels, sources = pool.examples.labels.astype(np.float64), pool.examples.sources
    platt = fit_platt(logits, labels, balanced_weights(sources, labels))
    chances = _chances(logits, platt)
    return platt, choose_thresholds(labels, chances, sources, band_sensitivity=0.95, band_specificity=0.7)


def _chances(logits: NDArray[np.float64], platt: Platt) -> NDArray[np.float64]:
    chances: NDArray[np.float64] = 1 / (1 + np.exp(-(platt.slope * logits + platt.intercept)))
    return chances


def _scored(pool: Pool, logits: NDArray[np.float64], platt: Platt, thresholds: Thresholds) -> list[Scored]:
    found = []
    for row, logit, chance in zip(pool.rows, logits, _chances(logits, platt), strict=True):
        presence = Presence.PRESENT if chance >= thresholds.present else Presence.ABSENT
        found.append(Scored(row, row.label == LABEL, float(logit), float(chance), presence))
    return found


def _auroc_per_source(pool: Pool, logits: FloatArray) -> dict[str, Any]:
    patients, data, found = np.array([row.patient for row in pool.rows]), pool.examples, {}
    for source in np.unique(data.sources):
        here = data.sources == source
        found[str(source)] = as_json(bootstrap(auroc, data.labels[here], logits[here], patients[here]))
    return found


def _write_golden(draft: _Draft, network: Network) -> None:
    """One CC BY picture of the test part (the first by the hash of its name) and one synthetic gradient."""
    pictures = [row for row in draft.split.test if row.source == "kermany224" and row.label == LABEL]
    row = min(pictures, key=lambda row: hashlib.sha256(row.file.encode()).hexdigest())
    raw = read_grey(draft.paths.data / row.file)
    raw_input = apply(parse_steps(draft.settings.preprocessing), grey_from_uint8(raw)).array
    slope = np.linspace(-1, 1, draft.settings.side, dtype=np.float32)
    gradient = np.repeat((slope[:, np.newaxis] * slope)[..., np.newaxis], 3, axis=2)
    inputs = np.stack([raw_input, gradient]).astype(np.float16).astype(np.float32)
    _, logits = network.model(inputs, training=False)
    write_golden(draft.folder / "golden.npz", inputs, logits.numpy(), raw=raw, raw_input=raw_input)


def _measure(draft: _Draft, platt: Platt, thresholds: Thresholds, known: Mapping[str, Any], probe: float) -> None:
    """Measure through the serving path, with a manifest that lacks only the figures; then write them."""
    facts = Facts(
        draft.settings.side, draft.settings.preprocessing, platt, thresholds, training=_training_record(draft)
    )
    (draft.folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
    unknown = {"value": 0.0, "low": 0.0, "high": 1.0}
    write_manifest(draft.folder, document(facts, {}, (unknown, unknown)))
    bundle = load_bundle(draft.folder)
    runner = load_runner(bundle, "cpu")
    data = draft.paths.data
    tested = score_images(bundle, runner, draft.split.test, data, label=LABEL)
    if tested.unreadable:
        raise DatasetError(f"{len(tested.unreadable)} test images cannot be read; the figures would not be whole")
    figures = report(tested.scored, thresholds.present)
    evaluation = {
        "test": figures,
        **known,
        "shortcuts": {
            "source_from_features_auroc_test": probe,
            "source_from_score_auroc_test": source_from_score(columns_of(tested.scored)),
        },
        "robustness_test": sensitivity_to_changes(bundle, runner, draft.split.test, data, label=LABEL),
    }
    (draft.folder / "MODEL_CARD.md").write_text(model_card(facts, evaluation), encoding="utf-8")
    mean = figures["mean_of_sources"]
    write_manifest(draft.folder, document(facts, evaluation, (mean["sensitivity"], mean["specificity"])))


def _training_record(draft: _Draft) -> dict[str, Any]:
    return {
        "recipe": "models.recipes.cxr_pneumonia",
        "start": f"{IMAGENET} (EfficientNet-Lite0, ImageNet)",
        "seeds": list(draft.settings.seeds),
        "folds": draft.settings.folds,
        "config": asdict(draft.settings.config),
        "split": {"salt": SPLIT_SALT, "sha256": draft.split.digest, **_counts(draft.split)},
    }


def _counts(split: Split) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in (("train", split.train), ("test", split.test)):
        found[name] = {}
        for source in SOURCES:
            rows = [row for row in part if row.source == source]
            found[name][source] = {
                "patients": len({row.patient for row in rows}),
                "normal": sum(row.label == "normal" for row in rows),
                LABEL: sum(row.label == LABEL for row in rows),
            }
    return found
