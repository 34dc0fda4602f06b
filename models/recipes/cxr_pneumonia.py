"""Makes the bundle `cxr-pneumonia` from labelled chest radiographs and ImageNet weights.

    python -m models.recipes.cxr_pneumonia --data ../shared/data/cxr \
        --weights ../shared/data/weights/efficientnet_lite0_imagenet_keras_layout_fp16.npz --out models/bundles/cxr-pneumonia

Only images whose licence lets the weights be shipped take part: Kermany 2018 (CC BY 4.0, children) and NIH ChestX-ray14
(free use with attribution, adults). COVID-19 images are left out: nearly all come from one collection, so a network
learns the collection.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import tensorflow as tf

from models import backbones
from models.backbones.efficientnet_lite import load_imagenet
from models.datasets.labels import LabelledImage, read_labels
from models.datasets.splits import Split, split_by_patient
from models.evaluation.report import Scored, fit_platt, names, report, threshold_for_sensitivity
from models.evaluation.score import NEGATIVE, open_grey
from models.manifest import MANIFEST, digest_of
from models.preprocess import apply, parse_steps
from models.recipes.cxr_pneumonia_texts import ADMISSION, LIMITS, card, notice
from models.training.config import TrainingConfig
from models.training.loop import Examples, History, predict, train

log = structlog.get_logger(__name__)
LABEL = "pneumonia"
SOURCES = ("kermany224", "nih_cxr14")
SIZE = 224
STEPS: list[dict[str, object]] = [
    {"step": "window", "mode": "file"},
    {"step": "invert"},
    {"step": "normalise", "low_percentile": 1.0, "high_percentile": 99.0},
    {"step": "resize_pad", "rows": SIZE, "columns": SIZE},
    {"step": "channels", "count": 3},
    {"step": "scale", "convention": "efficientnet_lite"},
]
SENSITIVITY = 0.90
GREY_BAND_SENSITIVITY = 0.95
CONFIG = TrainingConfig(epochs=8, learning_rate=3e-4)
# Patients whose images serve as the demonstration and the tests' DICOM files must be strangers to the model.
ALWAYS_TEST_FILES = (
    "nih_cxr14/00001054_002.jpg", "nih_cxr14/00002058_013.jpg", "nih_cxr14/00002239_004.jpg",
    "nih_cxr14/00002863_003.jpg", "nih_cxr14/00003490_008.jpg", "nih_cxr14/00007629_002.jpg",
    "nih_cxr14/00010222_019.jpg", "nih_cxr14/00011237_006.jpg",
)  # fmt: skip


def main() -> None:
    """Train, calibrate, choose the operating point, measure once on the test patients, write the bundle."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    split = draw_split(read_labels(arguments.data / "labels.csv"))
    model, history = _train(split, arguments.data, arguments.weights)
    write_bundle(arguments.out, model, split, arguments.data, history)


def draw_split(rows: list[LabelledImage]) -> Split:
    """Frontal images of the two sources, split by patient."""
    usable = [r for r in rows if r.source in SOURCES and r.label in (NEGATIVE, LABEL) and r.view in ("AP", "PA")]
    strangers = {r.patient for r in usable if r.file in ALWAYS_TEST_FILES}
    return split_by_patient(usable, validation=0.15, test=0.15, salt="cxr-pneumonia-1", always_test=strangers)


def _train(split: Split, data: Path, weights: Path) -> tuple[Any, History]:
    tf.keras.utils.set_random_seed(CONFIG.seed)
    model = backbones.build("efficientnet_lite0", (SIZE, SIZE, 3), 1)
    load_imagenet(model, weights)
    training, validation = examples(split.train, data), examples(split.validation, data)
    log.info("training", images=len(training.images), validation=len(validation.images))
    return model, train(model, to_input, training, validation, CONFIG)


def examples(rows: tuple[LabelledImage, ...], data: Path) -> Examples:
    """Images as the serving path prepares them, brought back to [0, 1] so that augmentation can work on them."""
    steps = parse_steps(STEPS)
    planes = [(apply(steps, open_grey(data / r.file)).array[..., 0] * 128 + 127) / 255 for r in rows]
    return Examples(
        images=np.stack(planes).astype(np.float16),
        labels=np.array([r.label == LABEL for r in rows], dtype=np.float32),
        sources=names([r.source for r in rows]),
    )


def to_input(planes: Any) -> Any:
    """The last two preprocessing steps, for augmented planes."""
    return tf.repeat((planes * 255.0 - 127.0) / 128.0, 3, axis=-1)


def write_bundle(out: Path, model: Any, split: Split, data: Path, history: History) -> None:
    """Everything of the bundle; figures are those of the weights as stored (float16)."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    backbones.save_weights(model, out / "weights.npz")
    backbones.load_weights(model, out / "weights.npz")
    validation, test = examples(split.validation, data), examples(split.test, data)
    raw = predict(model, to_input, validation.images)[:, 0]
    slope, intercept = fit_platt(validation.labels, raw)
    on_validation = _sigmoid(slope * raw + intercept)
    threshold = round(threshold_for_sensitivity(validation.labels, on_validation, SENSITIVITY), 3)
    low = round(min(threshold, threshold_for_sensitivity(validation.labels, on_validation, GREY_BAND_SENSITIVITY)), 3)
    on_test = _sigmoid(slope * predict(model, to_input, test.images)[:, 0] + intercept)
    judged = {
        "validation": report(_scored(split.validation, on_validation), threshold),
        "test": report(_scored(split.test, on_test), threshold),
    }
    _write_golden(out, model)
    chosen = judged["validation"]["overall"]
    manifest = _manifest(split, history, judged)
    manifest["calibration"] = {"method": "platt", "labels": {LABEL: {"slope": slope, "intercept": intercept}}}
    manifest["operating_points"] = [
        {
            "label": LABEL,
            "name": f"sensitivity {SENSITIVITY:.2f} on validation",
            "threshold": threshold,
            "undetermined_low": low,
            "priority": "urgent",
            "sensitivity": chosen["sensitivity"],
            "specificity": chosen["specificity"],
        }
    ]
    (out / "MODEL_CARD.md").write_text(card(manifest), encoding="utf-8")
    (out / "NOTICE").write_text(notice(), encoding="utf-8")
    _seal(out, manifest)
    log.info("bundle_written", auroc={s: f["auroc"] for s, f in judged["test"]["sources"].items()})


def _scored(rows: tuple[LabelledImage, ...], probabilities: Any) -> Scored:
    return Scored(
        labels=np.array([r.label == LABEL for r in rows], dtype=np.float64),
        probabilities=probabilities,
        patients=names([r.patient for r in rows]),
        sources=names([r.source for r in rows]),
        views=names([r.view for r in rows]),
        sexes=names([r.sex for r in rows]),
    )


def _write_golden(out: Path, model: Any) -> None:
    """Synthetic test vectors: a ramp, and a smooth pattern. No patient is in the golden file."""
    axis = np.linspace(-0.99, 1.0, SIZE, dtype=np.float32)
    ramp = np.broadcast_to(axis[None, :, None], (SIZE, SIZE, 3))
    waves = np.sin(6 * axis)[:, None, None] * np.cos(9 * axis)[None, :, None] * np.ones(3, dtype=np.float32)
    inputs = np.stack([ramp, waves]).astype(np.float16)
    _, logits = model(inputs.astype(np.float32), training=False)
    np.savez_compressed(out / "golden.npz", inputs=inputs, logits=logits.numpy())


def _manifest(split: Split, history: History, judged: dict[str, Any]) -> dict[str, Any]:
    parts = {name: getattr(split, name) for name in ("train", "validation", "test")}
    return {
        "schema": "radnode.bundle/1",
        "id": "cxr-pneumonia",
        "name": "Chest radiograph pneumonia",
        "version": "1.0.0",
        "manufacturer": "radnode",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": "CC-BY-4.0",
        "intended_use": "Research: preliminary marking of frontal chest radiographs that may show pneumonia.",
        "regulatory_status": "not a medical device; research use",
        "limits": list(LIMITS),
        "architecture": {
            "name": "efficientnet_lite0", "input_shape": [SIZE, SIZE, 3], "head": "gap_dense", "outputs": 1,
        },
        "labels": [
            {
                "key": LABEL,
                "display": "Pneumonia",
                "code": {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"},
                "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
                "code_verified": False,
            }
        ],
        "admission": ADMISSION,
        "preprocessing": STEPS,
        "explanation": {"method": "grad-cam", "grid": [7, 7]},
        "runtime": {"cpu": "litert", "gpu": "keras"},
        "training": {
            "sources": list(SOURCES),
            "split_digest": split.digest,
            "images": {name: len(rows) for name, rows in parts.items()},
            "patients": {name: len({r.patient for r in rows}) for name, rows in parts.items()},
            "config": asdict(CONFIG),
            "best_epoch": history.best_epoch,
            "epochs": [{k: round(v, 4) for k, v in epoch.items()} for epoch in history.epochs],
            "start": "EfficientNet-Lite0, ImageNet (Apache-2.0)",
        },
        "evaluation": judged,
    }  # fmt: skip


def _seal(out: Path, manifest: dict[str, Any]) -> None:
    roles = {"weights.npz": "weights", "golden.npz": "golden", "MODEL_CARD.md": "card", "NOTICE": "notice"}
    manifest["files"] = [{"path": p, "role": role, "sha256": digest_of(out / p)} for p, role in roles.items()]
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values.astype(np.float64)))


if __name__ == "__main__":
    main()
