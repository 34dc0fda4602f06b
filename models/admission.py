"""May this model read this image? Pure: header facts in, a decision with its reason out.

Reasons name attributes and short code strings only; what people typed (descriptions) is matched, never repeated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from models.contracts import Admission, HeaderFacts
from models.manifest import AdmissionRules

_LONGEST_TEXT = 64
"""VR LO holds no more (PS3.5 section 6.2); a peer that sends more gets no more of the pattern's time."""


def admit(rules: AdmissionRules, facts: HeaderFacts) -> Admission:
    """The first rule that speaks against the image decides; none does: admitted."""
    for rule in _RULES:
        reason = rule(rules, facts)
        if reason:
            return Admission(False, reason)
    return Admission(True, "admitted")


def _sop_class(rules: AdmissionRules, facts: HeaderFacts) -> str:
    return "" if facts.sop_class_uid in rules.sop_classes else "its SOP class is not one the model reads"


def _modality(rules: AdmissionRules, facts: HeaderFacts) -> str:
    return "" if facts.modality in rules.modalities else f"modality {_shown(facts.modality)} is not one the model reads"


def _described(rules: AdmissionRules, facts: HeaderFacts) -> str:
    return "its description excludes it" if re.search(rules.reject_pattern, _text(facts), re.IGNORECASE) else ""


def _body_part(rules: AdmissionRules, facts: HeaderFacts) -> str:
    if not facts.body_part:
        held = re.search(rules.body_part_pattern, _text(facts), re.IGNORECASE)
        return "" if held else "body part not stated"
    return "" if facts.body_part.upper() in rules.body_parts else f"body part {_shown(facts.body_part)}"


def _view(rules: AdmissionRules, facts: HeaderFacts) -> str:
    # Collections turned into DICOM often name the view in Patient Position (0018,5100), whose own terms AP and PA are
    # none of.
    position = facts.extra.get("patient_position", "").upper()
    view = facts.view_position.upper() or (position if position in ("AP", "PA") else "")
    if not view:
        return "" if re.search(rules.view_missing_pattern, _text(facts), re.IGNORECASE) else "view not stated"
    if view in rules.views:
        return ""
    lateral = view in {"LL", "RL", "LATERAL", "L", "R"}
    return f"lateral view (ViewPosition {_shown(view)})" if lateral else f"view {_shown(view)} is not frontal"


def _position(rules: AdmissionRules, facts: HeaderFacts) -> str:
    position = facts.extra.get("patient_position", "")
    return f"patient position {_shown(position)}" if position in rules.patient_positions_rejected else ""


def _picture(rules: AdmissionRules, facts: HeaderFacts) -> str:
    if facts.photometric not in rules.photometric:
        return f"photometric interpretation {_shown(facts.photometric)}"
    if facts.frames > rules.max_frames:
        return f"{facts.frames} frames, at most {rules.max_frames} are read"
    if facts.rows < rules.min_rows or facts.columns < rules.min_columns:
        return f"{facts.rows} x {facts.columns} pixels, at least {rules.min_rows} x {rules.min_columns} are needed"
    return ""


def _age(rules: AdmissionRules, facts: HeaderFacts) -> str:
    if rules.min_age_years is None or facts.age_years is None or facts.age_years >= rules.min_age_years:
        return ""
    return f"younger than {rules.min_age_years:g} years"


def _coarse(rules: AdmissionRules, facts: HeaderFacts) -> str:
    for most, key, name in (
        (rules.max_pixel_spacing_mm, "pixel_spacing_mm", "pixel spacing"),
        (rules.max_slice_thickness_mm, "slice_thickness_mm", "slice thickness"),
    ):
        stated = _millimetres(facts.extra.get(key, ""))
        if most is not None and stated is not None and stated > most:
            return f"{name} {stated:g} mm, at most {most:g} mm is read"
    return ""


def _millimetres(text: str) -> float | None:
    """None for what is no positive number: a peer may put anything there."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 < found < math.inf else None


_RULES: tuple[Callable[[AdmissionRules, HeaderFacts], str], ...] = (
    _sop_class, _modality, _described, _body_part, _view, _position, _picture, _age, _coarse,
)  # fmt: skip


def _text(facts: HeaderFacts) -> str:
    described = (facts.study_description, facts.series_description, facts.protocol_name)
    return " ".join(text[:_LONGEST_TEXT] for text in described)


def _shown(value: str) -> str:
    """Code strings (VR CS) only: anything else a peer put there is not repeated."""
    if not value:
        return "(absent)"
    return value if re.fullmatch(r"[A-Z0-9 _]{1,16}", value.upper()) else "(not a code)"
