"""What the bundle `cxr-pneumonia` says of itself: manifest, notice and model card, figures filled in from the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from models.manifest import Platt
from models.training.calibrate import Thresholds


def _text(name: str) -> str:
    return (Path(__file__).parent / "texts" / f"cxr_pneumonia_{name}").read_text(encoding="utf-8")


NOTICE = _text("notice.txt")
LIMITS = tuple(_text("limits.txt").splitlines())
INTENDED_USE = (
    "Research and demonstration: ordering a reading list of frontal chest radiographs by suspicion of pneumonia. Every "
    "result is to be checked by a physician; an image without a finding is no clearance."
)
REGULATORY_STATUS = "not a medical device; research use"
CHANGES = {
    "1.0.0": "One run.",
    "1.1.0": "The mean of three runs, in the same recipe and split, for weights that hang less on a seed. "
    "Cross-validation is the same to three places; the test part was looked at a second time. A reference for drift.",
}
VERSION = list(CHANGES)[-1]
LICENCE = "Apache-2.0 (weights); the training images keep their own licences, see NOTICE"

_ADMISSION: dict[str, Any] = {
    # CR, DX for presentation, Secondary Capture (scanned film and exports). DX for processing is no picture yet.
    "sop_classes": ["1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7"],
    "modalities": ["CR", "DX"],
    "body_parts": ["CHEST", "THORAX"],
    "body_part_pattern": r"\b(chest|thorax|cxr|lungs?|poumons?|torax)\b",
    "views": ["AP", "PA"],
    "view_missing_pattern": r"\b(ap|pa|a\.p\.|p\.a\.|frontal|postero-?anterior|antero-?posterior)\b",
    "reject_pattern": r"\b(lat|lateral|latéral|seitlich|decub(itus)?|oblique|phantom|qa|qc|test pattern)\b",
    "photometric": ["MONOCHROME1", "MONOCHROME2"],
    "min_rows": 128,
    "min_columns": 128,
    "max_frames": 1,
    "min_age_years": None,
}


@dataclass(frozen=True)
class Facts:
    """What is settled before the test part is looked at. side: of the input, in pixels."""

    side: int
    preprocessing: Sequence[Mapping[str, Any]]
    platt: Platt
    thresholds: Thresholds
    training: Mapping[str, Any]


Rates = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Sensitivity and specificity, each with value, low and high."""


def document(facts: Facts, evaluation: Mapping[str, Any], rates: Rates) -> dict[str, Any]:
    """The manifest without its files."""
    thresholds, side = facts.thresholds, facts.side
    band: dict[str, Any] = {}
    if thresholds.undetermined is not None:
        band = {"undetermined_low": thresholds.undetermined, "undetermined_high": thresholds.present}
    return {
        "schema": "radnode.bundle/1",
        "id": "cxr-pneumonia",
        "name": "Chest radiograph pneumonia",
        "version": VERSION,
        "manufacturer": "radnode",
        "created": "2026-11-25T00:00:00Z",
        "licence": LICENCE,
        "intended_use": INTENDED_USE,
        "regulatory_status": REGULATORY_STATUS,
        "limits": list(LIMITS),
        "changelog": [{"version": version, "text": text} for version, text in CHANGES.items()],
        "architecture": {
            "name": "efficientnet_lite0",
            "input_shape": [side, side, 3],
            "head": "gap_dense",
            "outputs": 1,
        },
        "labels": [
            {
                "key": "pneumonia",
                "display": "Pneumonia",
                "code": {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"},
                "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
                "code_verified": True,
            }
        ],
        "admission": _ADMISSION,
        "preprocessing": [dict(step) for step in facts.preprocessing],
        "calibration": {
            "method": "platt",
            "labels": {
                "pneumonia": {"slope": round(facts.platt.slope, 6), "intercept": round(facts.platt.intercept, 6)}
            },
        },
        "operating_points": [
            {
                "label": "pneumonia",
                "name": "highest mean Youden index",
                "threshold": thresholds.present,
                **band,
                "priority": "urgent",
                "sensitivity": dict(rates[0]),
                "specificity": dict(rates[1]),
            }
        ],
        "explanation": {"method": "grad-cam", "grid": [side // 32, side // 32]},
        "runtime": {"cpu": "litert", "gpu": "keras"},
        "training": dict(facts.training),
        "evaluation": dict(evaluation),
    }


def model_card(facts: Facts, evaluation: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    training, platt, thresholds = facts.training, facts.platt, facts.thresholds
    values = {
        "version": VERSION,
        "intended_use": INTENDED_USE,
        "limits": "\n".join(f"- {limit}" for limit in LIMITS),
        "data": _data_table(training["split"]),
        "split_sha256": training["split"]["sha256"],
        "epochs": training["config"]["epochs"],
        "learning_rate": f"{training['config']['learning_rate']:g}",
        "label_smoothing": f"{training['config']['label_smoothing']:g}",
        "frozen_through": training["config"]["frozen_through"],
        "seeds": _seeds(training["seeds"]),
        "folds": training["folds"],
        "side": facts.side,
        "grid": facts.side // 32,
        "slope": f"{platt.slope:.4f}",
        "intercept": f"{platt.intercept:+.4f}",
        "threshold": f"{thresholds.present:.3f}",
        "band": _band(thresholds),
        "figures": _figures_table(evaluation["test"]),
        "validation": _figures_table(evaluation["cross_validation"]),
        "resamples": evaluation["test"]["resamples"],
        "frozen": _frozen(evaluation["cross_validation"]["auroc_of_frozen_features"]),
        "subgroups": _subgroups_table(evaluation["cross_validation"]),
        "shortcuts": _shortcuts(evaluation["shortcuts"]),
        "robustness": _robustness_table(evaluation["robustness_test"]),
    }
    return Template(_text("card.md")).substitute(values)


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"One run (seed {seeds[0]})"
    return f"Shipped is the mean of the weights of {len(seeds)} runs (seeds {', '.join(map(str, seeds))})"


def _frozen(found: Mapping[str, Any]) -> str:
    return "; ".join(f"{source} {_shown(figure)}" for source, figure in found.items())


def _data_table(split: Mapping[str, Any]) -> str:
    lines = ["| part | source | patients | normal | pneumonia |", "|---|---|---|---|---|"]
    for part in ("train", "test"):
        for source, n in split[part].items():
            lines.append(f"| {part} | {source} | {n['patients']} | {n['normal']} | {n['pneumonia']} |")
    return "\n".join(lines)


def _band(thresholds: Thresholds) -> str:
    if thresholds.undetermined is None:
        return ""
    return f"; from {thresholds.undetermined:.3f} to there *undetermined*, where the mean sensitivity reaches 0.95"


_FIGURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv_at_prevalence_0.05": "PPV at 5 %",
    "ppv_at_prevalence_0.2": "PPV at 20 %",
    "brier": "Brier score",
    "ece": "calibration error (15 bins of equal mass)",
}


def _figures_table(part: Mapping[str, Any]) -> str:
    sources = part["sources"]
    lines = [f"| | {' | '.join(sources)} | mean of sources |", "|---" * (len(sources) + 2) + "|"]
    counts = [f"{one['images']} / {one['patients']} / {one['positive_images']}" for one in sources.values()]
    lines.append(f"| images / patients / positive images | {' | '.join(counts)} | |")
    for key, name in _FIGURES.items():
        cells = [_shown(one[key]) for one in sources.values()]
        mean = part["mean_of_sources"].get(key)
        lines.append(f"| {name} | {' | '.join(cells)} | {_shown(mean) if mean else ''} |")
    return "\n".join(lines)


def _subgroups_table(part: Mapping[str, Any]) -> str:
    lines = ["| source | group | images | AUROC | sensitivity | specificity |", "|---|---|---|---|---|---|"]
    for source, one in part["sources"].items():
        for group, found in one["subgroups"].items():
            cells = " | ".join(_shown(found[key]) for key in ("auroc", "sensitivity", "specificity"))
            lines.append(f"| {source} | {group} | {found['images']} | {cells} |")
    return "\n".join(lines)


def _shortcuts(found: Mapping[str, Any]) -> str:
    by_label = "; ".join(f"{value:.3f} on {name}" for name, value in found["source_from_score_auroc_test"].items())
    probe = found["source_from_features_auroc_test"]
    return (
        f"A linear probe on the network's features tells the source of a test image with AUROC {probe:.3f}: the "
        "collections differ visibly (children and adults, at the least), as any two do. In the data the source says "
        "nothing of the label, and no figure here is pooled over sources. The score alone tells the source with AUROC "
        f"{by_label} (test part; 0.5 would be none), which measures how far one threshold means different things "
        "in the two populations."
    )


def _robustness_table(found: Mapping[str, Any]) -> str:
    sources = list(next(iter(found.values()))["auroc"])
    lines = [f"| change | {' | '.join(f'AUROC {s}' for s in sources)} | mean difference in probability |"]
    lines.append("|---" * (len(sources) + 2) + "|")
    for name, one in found.items():
        cells = " | ".join(f"{one['auroc'][source]:.3f}" for source in sources)
        lines.append(f"| {name} | {cells} | {one['mean_absolute_difference']:.3f} |")
    return "\n".join(lines)


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
