"""A small training plan, changed at will, and a data set that a small network can learn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PLAN: dict[str, Any] = {
    "data": {"kind": "labels-csv", "images": ".", "options": {"file": "labels.csv", "exclusive": False}},
    "split": {"train": 0.5, "validation": 0.25, "test": 0.25, "salt": "small"},
    "input": {"side": 32},
    "network": {"backbone": "efficientnet_lite0", "dropout": 0.2},
    "training": {
        "seed": 3,
        "batch": 8,
        "ema": 0.5,
        "checkpoint_steps": 2,
        "head": {"epochs": 1, "learning_rate": 1e-2},
        "finetune": {"epochs": 2, "learning_rate": 1e-3, "unfreeze_from": 0.5},
    },
    "augment": {"mixup": 0.4, "cutmix": 1.0, "blur": 0.3, "erase": 0.3, "horizontal_flip": True},
    "bundle": {
        "id": "small",
        "name": "Small",
        "manufacturer": "tests",
        "licence": "none",
        "notice": "Drawn for a test.",
        "intended_use": "tests",
        "limits": ["drawn pictures"],
        "labels": [
            {
                "key": "pneumonia",
                "display": "Pneumonia",
                "code": {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"},
            }
        ],
        "admission": {
            "sop_classes": ["1.2.840.10008.5.1.4.1.1.1"],
            "modalities": ["CR"],
            "body_parts": ["CHEST"],
            "body_part_pattern": "chest",
            "views": ["AP"],
            "view_missing_pattern": "ap",
            "reject_pattern": "lateral",
            "photometric": ["MONOCHROME2"],
        },
    },
}


def changed(change: Mapping[str, Any]) -> dict[str, Any]:
    """PLAN with ``change`` laid over it, table by table."""

    def over(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        merged = dict(base)
        for key, value in new.items():
            held = merged.get(key)
            nested = isinstance(held, dict) and isinstance(value, Mapping) and value
            merged[key] = over(held, value) if nested else value
        return merged

    return over(PLAN, change)


def written(folder: Path, change: Mapping[str, Any]) -> Path:
    """The changed plan as a TOML file in ``folder``."""
    path = folder / "plan.toml"
    path.write_text("".join(f"{key} = {inline(value)}\n" for key, value in changed(change).items()))
    return path


def inline(value: Any) -> str:
    """A value as TOML's inline notation."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return json.dumps(value)


def draw_set(folder: Path, labels: tuple[str, ...] = ("normal", "pneumonia"), patients: int = 16) -> None:
    """Pictures whose middle is the brighter the later their label stands; one picture a patient."""
    random = np.random.default_rng(5)
    lines = ["file,source,patient,label"]
    for place, label in enumerate(labels):
        for number in range(patients):
            picture = random.integers(60, 120, (40, 36))
            picture[10:30, 8:28] = 30 + place * 200 // max(1, len(labels) - 1) + random.integers(0, 20)
            Image.fromarray(picture.astype(np.uint8)).save(folder / f"{label}_{number}.png")
            lines.append(f"{label}_{number}.png,drawn,{label}{number},{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
