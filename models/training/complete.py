"""A trained network becomes a bundle: weights, calibration, thresholds, figures, gate, test vectors, card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from models import backbones
from models.contracts import FloatArray
from models.gate import FittedGate, fit_gate, write_gate
from models.manifest import Calibration, Manifest
from models.preprocess import apply, grey_from_uint8
from models.training.bundle import write_golden, write_manifest
from models.training.card import model_card
from models.training.feed import Examples
from models.training.judge import Point, calibrate, chances, choose_point, figures
from models.training.network import Trained
from models.training.plan import Plan

_RULE_NAMES = {
    "youden": "highest Youden index on validation",
    "sensitivity": "sensitivity of at least {:g} on validation",
    "specificity": "specificity of at least {:g} on validation",
}


@dataclass(frozen=True)
class Parts:
    """The three parts; ``test`` may be empty (None)."""

    training: Examples
    validation: Examples
    test: Examples | None


@dataclass(frozen=True)
class _Judged:
    calibration: Calibration
    points: dict[str, Point]
    evaluation: dict[str, Any]
    gate: FittedGate | None


def complete(
    plan: Plan, network: Trained, parts: Parts, record: Mapping[str, Any], target: Path, *, exclusive: bool
) -> Manifest:
    """Write the bundle's folder ``target``, whole or not at all; what is there is replaced.

    record: what the manifest tells of the training. Raises DatasetError where a label cannot be calibrated.
    """
    folder = target.with_name(f".{target.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    backbones.save_weights(network.model, folder / "weights.npz")
    # In half precision, as they will be read: figures are of these and not of better ones.
    backbones.load_weights(network.model, folder / "weights.npz")
    judged = _judge(plan, network, parts, exclusive=exclusive)
    _write_golden(plan, network, folder / "golden.npz")
    if judged.gate is not None:
        write_gate(folder / "ood.npz", judged.gate.gate)
    (folder / "NOTICE").write_text(plan.bundle.notice.rstrip() + "\n", encoding="utf-8")
    document = _document(plan, network, judged, record, exclusive=exclusive)
    (folder / "MODEL_CARD.md").write_text(model_card(document), encoding="utf-8")
    manifest = write_manifest(folder, document)
    shutil.rmtree(target, ignore_errors=True)
    folder.replace(target)
    return manifest


def _judge(plan: Plan, network: Trained, parts: Parts, *, exclusive: bool) -> _Judged:
    labels, validation = plan.bundle.keys, parts.validation
    logits, held_out = network.predict(validation.read, len(validation))
    calibration = calibrate(logits, validation, labels, exclusive=exclusive)
    scores = chances(logits, calibration, labels, exclusive=exclusive)
    points = {}
    for column, label in enumerate(labels):
        known = validation.mask[:, column] > 0
        points[label] = choose_point(validation.values[known, column], scores[known, column], plan.bundle.operating)
    evaluation = {"validation": figures(validation, scores, points, exclusive=exclusive)}
    gate = None
    if plan.bundle.gate_quantile:
        _, features = network.predict(parts.training.read, len(parts.training))
        gate = fit_gate(features, held_out, quantile=plan.bundle.gate_quantile)
        evaluation["gate"] = {"validation_refused": _refused(gate, held_out)}
    if parts.test is not None:
        logits, features = network.predict(parts.test.read, len(parts.test))
        scores = chances(logits, calibration, labels, exclusive=exclusive)
        evaluation["test"] = figures(parts.test, scores, points, exclusive=exclusive)
        if gate is not None:
            evaluation["gate"]["test_refused"] = _refused(gate, features)
    return _Judged(calibration, points, evaluation, gate)


def _refused(gate: FittedGate, features: FloatArray) -> float:
    return round(float(np.mean(gate.gate.scores(features) > gate.threshold)), 4)


def _write_golden(plan: Plan, network: Trained, path: Path) -> None:
    """Two drawn pictures: a bundle leaves the house, and no patient's image goes with it."""
    rows, columns = np.mgrid[0:160, 0:128]
    rings = 127.5 + 90 * np.sin(np.hypot(rows - 80, columns - 64) / 6) + 37 * np.cos(rows * columns / 900)
    raw = np.clip(rings, 0, 255).astype(np.uint8)
    raw_input = apply(plan.steps, grey_from_uint8(raw)).array
    upside_down = apply(plan.steps, grey_from_uint8(raw[::-1].copy())).array
    inputs = np.stack([raw_input, upside_down]).astype(np.float16).astype(np.float32)
    series = None
    if plan.input.slices:
        # Two series of four slices: one that changes at every slice, one of blocks.
        inputs = np.concatenate([inputs, np.roll(inputs, plan.input.side // 7, axis=1)])
        numbers = np.arange(plan.input.slices)
        series = np.stack([numbers % len(inputs), numbers * len(inputs) // plan.input.slices])
    logits = network.model(inputs if series is None else inputs[series], training=False)[-1].numpy()
    write_golden(path, inputs, logits, raw=raw, raw_input=raw_input, series=series)


def _document(
    plan: Plan, network: Trained, judged: _Judged, record: Mapping[str, Any], *, exclusive: bool
) -> dict[str, Any]:
    """The manifest without its files."""
    bundle, side = plan.bundle, plan.input.side
    grid = network.model.outputs[0].shape[-3:-1]
    architecture: dict[str, Any] = {
        "name": plan.network.backbone,
        "input_shape": [side, side, 3],
        "head": "gap_dense",
        "outputs": len(bundle.labels),
    }
    if plan.input.slices:
        architecture |= {"slices": plan.input.slices, "pooling": "attention"}
    measured = judged.evaluation.get("test", judged.evaluation["validation"])["labels"]
    fallback = judged.evaluation["validation"]["labels"]
    return {
        "schema": "radnode.bundle/1",
        **bundle.model_dump(
            mode="json",
            include={
                "id", "name", "version", "manufacturer", "licence", "intended_use", "regulatory_status", "limits",
                "contraindications", "references", "changelog", "labels", "admission",
            },
        ),
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "architecture": architecture,
        "exclusive": exclusive,
        "series": None if plan.input.series_rules is None else plan.input.series_rules.model_dump(mode="json"),
        "preprocessing": [step.model_dump(mode="json", exclude_none=True) for step in plan.steps],
        "calibration": judged.calibration.model_dump(mode="json", exclude_none=True),
        "operating_points": [
            _operating_point(plan, label, judged.points[label], measured[label], fallback[label])
            for label in bundle.keys
        ],
        "ood": None if judged.gate is None else judged.gate.section(),
        "explanation": {"method": "grad-cam", "grid": [int(grid[0]), int(grid[1])]},
        "runtime": {"cpu": "litert", "gpu": "keras"},
        "training": dict(record),
        "evaluation": judged.evaluation,
    }  # fmt: skip


def _operating_point(
    plan: Plan, label: str, point: Point, measured: Mapping[str, Any], fallback: Mapping[str, Any]
) -> dict[str, Any]:
    rule = plan.bundle.operating
    band = {} if point.grey is None else {"undetermined_low": point.grey, "undetermined_high": point.threshold}
    return {
        "label": label,
        "name": _RULE_NAMES[rule.rule].format(rule.at_least),
        "threshold": point.threshold,
        **band,
        "priority": "urgent" if label in plan.bundle.urgent else "routine",
        **{rate: _known(measured.get(rate), fallback[rate]) for rate in ("sensitivity", "specificity")},
    }


def _known(figure: Mapping[str, Any] | None, fallback: Mapping[str, Any]) -> dict[str, float]:
    """The test part's rate, that of validation where the test part has no such image."""
    chosen = fallback if figure is None or figure["value"] is None else figure
    value = chosen["value"]
    return {
        "value": value,
        "low": 0.0 if chosen["low"] is None else chosen["low"],
        "high": 1.0 if chosen["high"] is None else chosen["high"],
    }
