"""One image through one model: preprocess, run once, calibrate, decide, explain."""

from __future__ import annotations

import numpy as np

from models import explain
from models.calibration import presence, probability
from models.contracts import CodedConcept, Explanation, Finding, FloatArray, GreyImage, Presence, Reading
from models.errors import NoReadingError
from models.manifest import Code, Label
from models.preprocess import prepare
from models.registry import Bundle
from models.runner import Forward, Runner


def read_image(bundle: Bundle, runner: Runner, image: GreyImage) -> Reading:
    """All findings of one image; maps only for labels above their operating point.

    Raises PreprocessError where the image cannot become the model's input, NoReadingError where the network gives no
    finite number.
    """
    prepared = prepare(bundle.manifest.preprocessing, image)
    forward = runner.run(prepared.input.array[np.newaxis])
    if not (np.isfinite(forward.logits).all() and np.isfinite(forward.features).all()):
        raise NoReadingError(f"model {bundle.manifest.id} gave no finite number for this image")
    findings = tuple(
        _finding(bundle, label, float(logit))
        for label, logit in zip(bundle.manifest.labels, forward.logits[0], strict=True)
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


def _finding(bundle: Bundle, label: Label, logit: float) -> Finding:
    point = next(p for p in bundle.manifest.operating_points if p.label == label.key)
    value = probability(bundle.manifest.calibration, label.key, logit)
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
