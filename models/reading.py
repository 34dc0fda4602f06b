"""One image through one model: preprocess, run once, calibrate, decide, explain."""

from __future__ import annotations

import numpy as np

from models import explain
from models.calibration import presence, probabilities
from models.contracts import CodedConcept, Explanation, Finding, FloatArray, GreyImage, Presence, Reading
from models.errors import NoReadingError
from models.gate import require_in_distribution
from models.manifest import Code, Label
from models.preprocess import prepare
from models.registry import Bundle
from models.runner import Forward, Runner


def read_image(bundle: Bundle, runner: Runner, image: GreyImage) -> Reading:
    """All findings of one image; maps only for labels above their operating point.

    Raises PreprocessError where the image cannot become the model's input, NoReadingError where the network gives no
    finite number, NotInDistribution where the image is unlike those the model was made for.
    """
    prepared = prepare(bundle.manifest.preprocessing, image)
    forward = runner.run(prepared.input.array[np.newaxis])
    if not (np.isfinite(forward.logits).all() and np.isfinite(forward.features).all()):
        raise NoReadingError(f"model {bundle.manifest.id} gave no finite number for this image")
    require_in_distribution(bundle, forward.features)
    manifest, logits = bundle.manifest, [float(logit) for logit in forward.logits[0]]
    values = probabilities(
        manifest.calibration, [label.key for label in manifest.labels], logits, exclusive=manifest.exclusive
    )
    findings = tuple(
        _finding(bundle, label, logit, value)
        for label, logit, value in zip(manifest.labels, logits, values, strict=True)
    )
    maps = _maps(forward, runner.head)
    explanations: tuple[Explanation, ...] = tuple(
        explain.explanation(finding.key, grid, prepared.input.placement)
        for finding, grid in zip(findings, maps, strict=True)
        if finding.presence is Presence.PRESENT
    )
    return Reading(findings, explanations, prepared.notes)


def _maps(forward: Forward, head: FloatArray | None) -> FloatArray:
    if forward.gradients is not None:
        return explain.gradient_maps(forward.features[0], forward.gradients[0])
    if head is None:
        raise NoReadingError("the runtime gave neither a linear head nor gradients; its maps cannot be drawn")
    return explain.closed_form_maps(forward.features[0], head)


def _finding(bundle: Bundle, label: Label, logit: float, value: float) -> Finding:
    point = next(p for p in bundle.manifest.operating_points if p.label == label.key)
    return Finding(
        key=label.key,
        display=label.display,
        code=_concept(label.code),
        site=None if label.site is None else _concept(label.site),
        logit=logit,
        probability=value,
        threshold=point.threshold,
        operating_point=point.name,
        presence=presence(point, value),
        priority=point.priority,
        calibrated=bundle.manifest.calibration is not None,
    )


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)
