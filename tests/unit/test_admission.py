from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.admission import admit
from models.contracts import HeaderFacts
from models.manifest import AdmissionRules
from models.registry import load_bundle
from tests.support import bundles

CHEST = HeaderFacts(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    modality="DX",
    body_part="CHEST",
    view_position="PA",
    photometric="MONOCHROME2",
    rows=2500,
    columns=2048,
    age_years=54,
)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> AdmissionRules:
    folder: Path = tmp_path_factory.mktemp("admission") / "bundle"
    return load_bundle(bundles.hollow_bundle(folder)).manifest.admission


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"view_position": "ap"},
        {"age_years": None},
        {"body_part": "", "study_description": "Chest in two planes"},
        {"view_position": "", "series_description": "CHEST PA"},
        {"body_part": "", "view_position": "", "protocol_name": "Thorax frontal"},
        {"view_position": "", "extra": {"patient_position": "PA"}},
    ],
)
def test_frontal_chest_is_admitted(rules: AdmissionRules, change: dict[str, object]) -> None:
    assert admit(rules, replace(CHEST, **change)).admitted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"view_position": "LL"}, "lateral view (ViewPosition LL)"),
        ({"view_position": ""}, "view not stated"),
        ({"view_position": "", "extra": {"patient_position": "XX"}}, "view not stated"),
        ({"view_position": "LL", "extra": {"patient_position": "PA"}}, "lateral view (ViewPosition LL)"),
        ({"body_part": "HAND"}, "body part HAND"),
        ({"body_part": ""}, "body part not stated"),
        ({"modality": "CT"}, "modality CT"),
        ({"modality": ""}, "modality (absent)"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"}, "SOP class"),
        ({"series_description": "Chest LATERAL"}, "description excludes it"),
        ({"photometric": "RGB"}, "photometric interpretation RGB"),
        ({"frames": 3}, "3 frames"),
        ({"rows": 64}, "64 x 2048 pixels"),
        ({"age_years": 7}, "younger than 18 years"),
    ],
)
def test_anything_else_is_refused_with_a_reason(rules: AdmissionRules, change: dict[str, object], reason: str) -> None:
    decided = admit(rules, replace(CHEST, **change))  # type: ignore[arg-type]
    assert not decided.admitted
    assert reason in decided.reason


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"pixel_spacing_mm": "0.39"}, "admitted"),
        ({"pixel_spacing_mm": "0.41"}, "pixel spacing 0.41 mm, at most 0.4 mm is read"),
        ({"slice_thickness_mm": "5"}, "slice thickness 5 mm, at most 3 mm is read"),
        *(
            ({"pixel_spacing_mm": odd, "slice_thickness_mm": odd}, "admitted")
            for odd in ("", "nan", "inf", "-7", "Doe^J")
        ),
    ],
)
def test_what_is_too_coarse_is_refused_where_it_is_stated(
    rules: AdmissionRules, extra: dict[str, str], reason: str
) -> None:
    fine = rules.model_copy(update={"max_pixel_spacing_mm": 0.4, "max_slice_thickness_mm": 3.0})
    assert admit(fine, replace(CHEST, extra=extra)).reason == reason
    assert admit(rules, replace(CHEST, extra=extra)).admitted


@pytest.mark.parametrize("name", ["study_description", "series_description", "protocol_name", "body_part", "modality"])
def test_reasons_never_repeat_what_people_typed(rules: AdmissionRules, name: str) -> None:
    typed = "lateral phantom, Doe^Jane, born 1970-01-01"
    assert "Jane" not in admit(rules, replace(CHEST, **{name: typed})).reason  # type: ignore[arg-type]
