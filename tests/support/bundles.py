"""Small bundles that are real in everything but what their network has learned."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 64


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def document(folder: Path) -> dict[str, Any]:
    """A manifest for the files in ``folder``."""
    rate = {"value": 0.9, "low": 0.8, "high": 0.95}
    roles = {"weights.npz": "weights", "golden.npz": "golden", "MODEL_CARD.md": "card"}
    return {
        "schema": "radnode.bundle/1",
        "id": "test-model",
        "name": "Test model",
        "version": "1.0.0",
        "manufacturer": "radnode",
        "created": "2026-01-01T00:00:00Z",
        "licence": "Apache-2.0",
        "intended_use": "tests",
        "regulatory_status": "not a medical device",
        "limits": ["knows nothing"],
        "architecture": {
            "name": "efficientnet_lite0",
            "input_shape": [SIDE, SIDE, 3],
            "head": "gap_dense",
            "outputs": 2,
        },
        "files": [{"path": n, "role": r, "sha256": sha256(folder / n)} for n, r in roles.items()],
        "labels": [_label("pneumonia", "233604007", "Pneumonia"), _label("effusion", "60046008", "Pleural effusion")],
        "admission": {
            "sop_classes": ["1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"],
            "modalities": ["CR", "DX"],
            "body_parts": ["CHEST", "THORAX"],
            "body_part_pattern": r"\b(chest|thorax)\b",
            "views": ["AP", "PA"],
            "view_missing_pattern": r"\b(ap|pa|frontal)\b",
            "reject_pattern": r"\b(lateral|phantom|qa)\b",
            "photometric": ["MONOCHROME1", "MONOCHROME2"],
            "min_rows": 128,
            "min_columns": 128,
            "max_frames": 1,
            "min_age_years": 18,
        },
        "preprocessing": [
            {"step": "window", "mode": "file"},
            {"step": "invert"},
            {"step": "resize_pad", "rows": SIDE, "columns": SIDE},
            {"step": "channels", "count": 3},
            {"step": "scale", "convention": "efficientnet_lite"},
        ],
        "calibration": {
            "method": "platt",
            "labels": {"pneumonia": {"slope": 1.0, "intercept": 0.0}, "effusion": {"slope": 2.0, "intercept": -1.0}},
        },
        "operating_points": [
            {
                "label": "pneumonia",
                "name": "balanced",
                "threshold": 0.5,
                "undetermined_low": 0.4,
                "undetermined_high": 0.5,
                "priority": "urgent",
                "sensitivity": rate,
                "specificity": rate,
            },
            {"label": "effusion", "name": "balanced", "threshold": 0.6, "sensitivity": rate, "specificity": rate},
        ],
        "explanation": {"method": "grad-cam", "grid": [2, 2]},
        "runtime": {"cpu": "litert", "gpu": "keras"},
        "training": {"seed": 1},
        "evaluation": {},
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> Path:
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder


def hollow_bundle(folder: Path) -> Path:
    """A bundle that is whole, with arrays that are no network's."""
    folder.mkdir(parents=True)
    weights: dict[str, Any] = {"logits/kernel": np.zeros((1280, 2), np.float16)}
    np.savez(folder / "weights.npz", **weights)
    inputs, logits = np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros((1, 2), np.float32)
    np.savez(folder / "golden.npz", inputs=inputs, logits=logits)
    (folder / "MODEL_CARD.md").write_text("# Test model\n")
    return write_manifest(folder, document(folder))


def working_bundle(folder: Path) -> Path:
    """A bundle whose network runs; its weights are random but seeded. Imports TensorFlow."""
    import keras  # noqa: PLC0415 - slow; only for tests that run a network

    from models import backbones  # noqa: PLC0415

    hollow_bundle(folder)
    keras.utils.set_random_seed(7)
    model = backbones.build("efficientnet_lite0", (SIDE, SIDE, 3), 2)
    backbones.save_weights(model, folder / "weights.npz")
    backbones.load_weights(model, folder / "weights.npz")
    inputs = np.random.default_rng(3).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    _, logits = model(inputs, training=False)
    np.savez(folder / "golden.npz", inputs=inputs, logits=logits.numpy())
    return write_manifest(folder, document(folder))


def comparing_bundle(folder: Path) -> Path:
    """The shipped model, made to compare: of a prior as much is taken off the logit as the model would give it, so that
    it finds what is new. Without a prior it answers what the shipped one does, but for 0.25.
    """
    from models.compile import compiled, target_of  # noqa: PLC0415 - only for tests that run a network
    from models.gate import pooled  # noqa: PLC0415
    from models.registry import SHIPPED, load_bundle  # noqa: PLC0415
    from models.runner import load_runner  # noqa: PLC0415

    shipped = load_bundle(SHIPPED / "cxr-pneumonia")
    shutil.copytree(shipped.folder, folder)
    runner = load_runner(shipped, "cpu")
    assert runner.head is not None
    kernel = -runner.head
    np.savez(folder / "prior.npz", kernel=kernel, absent=np.array([-0.25], np.float32))
    with np.load(folder / "golden.npz") as golden:
        arrays: dict[str, Any] = {name: golden[name] for name in golden.files}
    inputs = arrays["inputs"].astype(np.float32)
    passes = [runner.run(one[np.newaxis]) for one in inputs]
    logits = np.concatenate([one.logits for one in passes])
    features = np.concatenate([pooled(one.features) for one in passes])
    arrays |= {"prior_inputs": inputs[::-1], "prior_logits": logits + features[::-1] @ kernel}
    np.savez(folder / "golden.npz", **arrays)
    manifest = json.loads((folder / "model.json").read_text())
    manifest["id"] = "test-comparing"
    manifest["files"].append({"path": "prior.npz", "role": "prior"})
    for entry in manifest["files"]:
        entry["sha256"] = sha256(folder / entry["path"])
    manifest["priors"] = {"max": 1, "modality": ["CR", "DX"], "body_part": ["CHEST"], "within_days": 3650}
    write_manifest(folder, manifest)
    # The same network: what it was compiled to for this machine is as good for this one.
    shutil.copy(compiled(shipped), target_of(load_bundle(folder)))
    return folder


def _label(key: str, code: str, meaning: str) -> dict[str, Any]:
    return {
        "key": key,
        "display": meaning,
        "code": {"value": code, "scheme": "SCT", "meaning": meaning},
        "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
        "code_verified": True,
    }
