"""A trained network becomes a bundle: weights, calibration, thresholds, gate, test vectors; then it is measured by the
code that serves, as `radnode evaluate` would, and gets its report and its card.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models import backbones
from models.contracts import FloatArray
from models.datasets.pixels import Images
from models.datasets.samples import SampleSet
from models.evaluation.card import model_card
from models.evaluation.html import render
from models.evaluation.pictures import Picture
from models.gate import FittedGate, fit_gate, write_gate
from models.manifest import MANIFEST, Calibration, Manifest, digest_of
from models.preprocess import apply, grey_from_uint8
from models.training.bundle import EVALUATION, REPORT, write_golden, write_manifest
from models.training.feed import Examples
from models.training.judge import Point, calibrate, chances, choose_point, rates
from models.training.measure import Measured, measure, summary, without_files
from models.training.network import Trained
from models.training.plan import Plan

BUNDLES = "bundles"
CARD = "MODEL_CARD.md"
_RULE_NAMES = {
    "youden": "highest Youden index on validation",
    "sensitivity": "sensitivity of at least {:g} on validation",
    "specificity": "specificity of at least {:g} on validation",
}
_UNKNOWN = {"value": 0.0, "low": 0.0, "high": 1.0}


@dataclass(frozen=True)
class Parts:
    """The three parts; ``test`` may be empty (None)."""

    training: Examples
    validation: Examples
    test: Examples | None


@dataclass(frozen=True)
class Unseen:
    """What the finished bundle is measured on, through the serving path: the test part, or validation where there is
    none. images: where their files lie. each: called after every image, with (done, all)."""

    part: str
    samples: SampleSet
    images: Images
    each: Callable[[int, int], object] = lambda *_: None


@dataclass(frozen=True)
class TrainedPlan:
    """network: with the weights that are kept. record: what a manifest tells of the training."""

    network: Trained
    parts: Parts
    unseen: Unseen
    record: dict[str, Any]
    exclusive: bool


@dataclass(frozen=True)
class _Judged:
    """rates: label to its rates on validation. record: what the manifest tells of calibration and gate."""

    calibration: Calibration
    points: dict[str, Point]
    rates: dict[str, dict[str, Any]]
    record: dict[str, Any]
    gate: FittedGate | None


def complete(plan: Plan, done: TrainedPlan, run: Path) -> Manifest:
    """Write the bundle's folder below ``run``, whole or not at all, and beside it the evaluation's JSON, page and card;
    what is there is replaced.

    The bundle holds the same without names of files, and its page without pictures: a bundle leaves the house.
    Raises DatasetError where a label cannot be calibrated.
    """
    network, unseen = done.network, done.unseen
    target = run / BUNDLES / plan.bundle.id
    folder = target.with_name(f".{target.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    backbones.save_weights(network.model, folder / "weights.npz")
    # In half precision, as they will be read: figures are of these and not of better ones.
    backbones.load_weights(network.model, folder / "weights.npz")
    judged = _judge(plan, done)
    _write_golden(plan, network, folder / "golden.npz")
    if judged.gate is not None:
        write_gate(folder / "ood.npz", judged.gate.gate)
    (folder / "NOTICE").write_text(plan.bundle.notice.rstrip() + "\n", encoding="utf-8")
    # What serves is built in single precision, whatever trained.
    keras.mixed_precision.set_global_policy("float32")
    write_manifest(folder, _document(plan, done, judged, None))
    measured = measure(folder, unseen.samples, unseen.images, unseen.each, chosen_here=unseen.part != "test")
    document = _document(plan, done, judged, measured)
    points = document["operating_points"]
    anonymous = measured.of_bundle(points)
    _write_report(folder, document, None if anonymous is None else without_files(anonymous))
    manifest = write_manifest(folder, document)
    shutil.rmtree(target, ignore_errors=True)
    folder.replace(target)
    _write_report(run, document, measured.of_bundle(points, digest_of(target / MANIFEST)), measured.pictures)
    return manifest


def _write_report(
    folder: Path, document: Mapping[str, Any], found: Mapping[str, Any] | None, pictures: Sequence[Picture] = ()
) -> None:
    """JSON, page and card; the card alone where nothing could be measured."""
    for name in (EVALUATION, REPORT):
        (folder / name).unlink(missing_ok=True)
    if found is not None:
        (folder / EVALUATION).write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (folder / REPORT).write_text(render(found, pictures), encoding="utf-8")
    (folder / CARD).write_text(model_card(document, found), encoding="utf-8")


def _judge(plan: Plan, done: TrainedPlan) -> _Judged:
    labels, network, parts, exclusive = plan.bundle.keys, done.network, done.parts, done.exclusive
    validation = parts.validation
    logits, held_out = network.predict(validation.read, len(validation))
    calibrated = calibrate(logits, validation, labels, exclusive=exclusive)
    scores = chances(logits, calibrated.calibration, labels, exclusive=exclusive)
    points, on_validation = {}, {}
    for column, label in enumerate(labels):
        known = validation.mask[:, column] > 0
        truth, chance = validation.values[known, column], scores[known, column]
        points[label] = choose_point(truth, chance, plan.bundle.operating)
        on_validation[label] = rates(truth, chance, validation.patients[known], points[label].threshold)
    record: dict[str, Any] = {"calibration": dict(calibrated.record)}
    gate = None
    if plan.bundle.gate_quantile:
        _, features = network.predict(parts.training.read, len(parts.training))
        gate = fit_gate(features, held_out, quantile=plan.bundle.gate_quantile)
        record["gate"] = {"validation_refused": _refused(gate, held_out)}
        if parts.test is not None:
            _, features = network.predict(parts.test.read, len(parts.test))
            record["gate"]["test_refused"] = _refused(gate, features)
    return _Judged(calibrated.calibration, points, on_validation, record, gate)


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


def _document(plan: Plan, done: TrainedPlan, judged: _Judged, found: Measured | None) -> dict[str, Any]:
    """The manifest without its files. found: what was measured; None before."""
    bundle, side = plan.bundle, plan.input.side
    grid = done.network.model.outputs[0].shape[-3:-1]
    architecture: dict[str, Any] = {
        "name": plan.network.backbone,
        "input_shape": [side, side, 3],
        "head": "gap_dense",
        "outputs": len(bundle.labels),
    }
    if plan.input.slices:
        architecture |= {"slices": plan.input.slices, "pooling": "attention"}
    evaluation = {} if found is None else {**judged.record, **_evaluation(done.unseen.part, found)}
    measured = {} if found is None or found.document is None else found.document["mean_of_sources"]["labels"]
    return {
        "schema": "radnode.bundle/1",
        **bundle.model_dump(
            mode="json",
            include={
                "id", "name", "version", "manufacturer", "licence", "intended_use", "regulatory_status", "limits",
                "authors", "contraindications", "references", "changelog", "labels", "admission",
            },
        ),
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "architecture": architecture,
        "exclusive": done.exclusive,
        "series": None if plan.input.series_rules is None else plan.input.series_rules.model_dump(mode="json"),
        "preprocessing": [step.model_dump(mode="json", exclude_none=True) for step in plan.steps],
        "calibration": judged.calibration.model_dump(mode="json", exclude_none=True),
        "operating_points": [
            _operating_point(plan, label, judged.points[label], measured.get(label, {}), judged.rates[label])
            for label in bundle.keys
        ],
        "ood": None if judged.gate is None else judged.gate.section(),
        "explanation": {"method": "grad-cam", "grid": [int(grid[0]), int(grid[1])]},
        "runtime": {"cpu": "litert", "gpu": "keras"},
        "training": dict(done.record),
        "evaluation": evaluation,
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


def _evaluation(part: str, measured: Measured) -> dict[str, Any]:
    if measured.document is None:
        return {"not_measured": measured.why}
    return {part: summary(measured.document)}


def _known(figure: Mapping[str, Any] | None, fallback: Mapping[str, Any]) -> dict[str, float]:
    """The measured rate, that of validation where the part measured has no such image."""
    chosen = fallback if figure is None or figure["value"] is None else figure
    given = {key: value for key, value in chosen.items() if value is not None}
    return {**_UNKNOWN, **given}
