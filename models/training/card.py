"""The model card of a bundle that `radnode train` made, as Markdown, out of the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_FIGURES = ("auroc", "auprc", "sensitivity", "specificity", "brier", "ece")


def model_card(document: Mapping[str, Any]) -> str:
    """document: the manifest, with or without its files (Mitchell et al., FAT* 2019, names the sections)."""
    architecture, training = document["architecture"], document["training"]
    lines = [
        f"# {document['name']} {document['version']}",
        "",
        document["intended_use"],
        "",
        f"Status: {document['regulatory_status']}. Licence: {document['licence']}.",
        f"Made by {document['manufacturer']}, {document['created']}.",
        *_section("Limits", document["limits"]),
        *_section("Not to be used for", document["contraindications"]),
        "",
        "## Network",
        "",
        f"{architecture['name']}, input {' x '.join(map(str, architecture['input_shape']))}"
        + (f", {architecture['slices']} slices" if "slices" in architecture else "")
        + f"; started from {training['start']}.",
        "",
        "## Data",
        "",
        f"Data set {training['data']['name']} ({training['data']['kind']}), split by patient.",
        f"SHA-256 of the split: `{training['split']['sha256']}`.",
        "",
        *_data(training["split"]),
        "",
        "## How it decides",
        "",
        f"Probabilities are calibrated on validation ({document['calibration']['method']}) and hold at its prevalence.",
        "",
        "| label | present from | rule |",
        "|---|---|---|",
        *(f"| {p['label']} | {p['threshold']:g} | {p['name']} |" for p in document["operating_points"]),
    ]
    for part in ("test", "validation"):
        if part in document["evaluation"]:
            lines += ["", f"## Figures on the {part} part", "", *_figures(document["evaluation"][part])]
    lines += _gate(document)
    lines += _section("References", document["references"])
    return "\n".join(lines) + "\n"


def _section(title: str, texts: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {text}" for text in texts)] if texts else []


def _data(split: Mapping[str, Any]) -> list[str]:
    lines = ["| part | source | images | patients | positive |", "|---|---|---|---|---|"]
    for part in ("train", "validation", "test"):
        for source, found in split[part].items():
            positive = ", ".join(f"{label} {count}" for label, count in found["positive"].items())
            lines.append(f"| {part} | {source} | {found['images']} | {found['patients']} | {positive} |")
    return lines


def _figures(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{found['images']} images of {found['patients']} patients; {found['interval']}."]
    if "accuracy" in found:
        lines.append(f"Accuracy over the classes: {_shown(found['accuracy'])}.")
    lines += ["", *_table(found)]
    for source, part in found.get("sources", {}).items():
        lines += ["", f"Source {source} ({part['images']} images):", "", *_table(part)]
    return lines


def _table(part: Mapping[str, Any]) -> list[str]:
    lines = [f"| label | images | positive | {' | '.join(_FIGURES)} |", "|---" * (len(_FIGURES) + 3) + "|"]
    for label, one in part["labels"].items():
        cells = " | ".join(_shown(one[name]) if name in one else "-" for name in _FIGURES)
        lines.append(f"| {label} | {one['images']} | {one['positive']} | {cells} |")
    return lines


def _gate(document: Mapping[str, Any]) -> list[str]:
    if document["ood"] is None:
        return []
    shares = ", ".join(
        f"{share:.1%} of {part.removesuffix('_refused')}" for part, share in document["evaluation"]["gate"].items()
    )
    return ["", "## Images unlike the training images", "", f"They are refused by their distance; so were {shares}."]


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
