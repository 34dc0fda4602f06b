"""A model card (Mitchell 2019) from a bundle's manifest and its evaluation, for any bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.datasets.samples import PARTS
from models.evaluation.html import CLASS_FIGURES, FIRST, name_of

_CALIBRATIONS = {
    "platt": "slope and intercept per label (Platt 1999)",
    "temperature": "one temperature for all logits (Guo 2017)",
}


def model_card(
    document: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None, *, notes: Sequence[tuple[str, str]] = ()
) -> str:
    """Markdown. Everything foreign in it is escaped.

    document: the manifest as JSON values; its `files` may be missing, as the card is one of them.
    evaluation: the document of :func:`models.evaluation.document.evaluate`; None before it is measured.
    notes: further sections, (title, Markdown).
    """
    parts = [
        f"# Model card: {text(document['name'])} (`{document['id']}` {document['version']})",
        f"**{text(document['regulatory_status'])}.** {text(document['intended_use'])}",
        _listed("Not to be used for", document.get("contraindications", ())),
        _listed("Limits", document["limits"]),
        "## Model\n\n" + _model(document),
        "## Training\n\n" + (_record(document["training"]) or "Nothing is recorded."),
        _calibration(document.get("evaluation", {})),
        "## Operating points\n\nFrozen in the bundle.\n\n" + _points(document),
        *(() if evaluation is None else _measured(evaluation)),
        *(f"## {text(title)}\n\n{body}" for title, body in notes),
        _listed("References", document.get("references", ())),
        _listed("Changes", [f"{one['version']}: {one['text']}" for one in document.get("changelog", ())]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def text(value: object) -> str:
    """Foreign text in a line or a table's cell: on one line, and never markup."""
    flat = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in flat)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are taken as they are."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _listed(title: str, entries: Iterable[object]) -> str:
    lines = "\n".join(f"- {text(entry)}" for entry in entries)
    return f"## {title}\n\n{lines}" if lines else ""


def _model(document: Mapping[str, Any]) -> str:
    network, calibration = document["architecture"], document.get("calibration")
    labels = ", ".join(
        f"{text(one['display'])} ({text(one['code']['scheme'])} {text(one['code']['value'])})"
        for one in document["labels"]
    )
    how = "exactly one holds for an image" if document.get("exclusive") else "any number may hold for an image"
    said = "none; probabilities are bare scores" if calibration is None else _CALIBRATIONS[calibration["method"]]
    gate, maps = document.get("ood"), document["explanation"]
    grid = " x ".join(map(str, maps["grid"]))
    lines = [
        f"- Network: `{network['name']}`, input {' x '.join(map(str, network['input_shape']))}",
        f"- Labels, of which {how}: {labels}",
        f"- Calibration: {said}",
        f"- Explanation: {maps['method']} on a grid of {grid}; where the network looked, no outline of a lesion",
        f"- Licence: {text(document['licence'])}",
    ]
    if gate:
        lines.append(f"- Gate: images beyond {gate['threshold']:g} ({gate['method']} distance) are not read")
    return "\n".join(lines)


def _record(record: Mapping[str, Any]) -> str:
    """Whatever a trainer recorded: the split as a table, simple values as they are, nested ones as JSON."""
    lines, split = [], record.get("split")
    tabled = isinstance(split, Mapping) and all(_counted(split.get(part)) for part in PARTS)
    for key, value in record.items():
        if tabled and key == "split":
            continue
        shown = (
            text(value) if isinstance(value, str | int | float | bool) else f"`{json.dumps(value).replace('`', '')}`"
        )
        lines.append(f"- {text(key.replace('_', ' '))}: {shown}")
    said = "\n".join(lines)
    return said if not tabled or split is None else f"{said}\n\n{_split(split)}"


def _counted(part: object) -> bool:
    """Whether it says by source how many images, patients and positive ones there are."""
    return isinstance(part, Mapping) and all(
        isinstance(one, Mapping) and {"images", "patients", "positive"} <= set(one) for one in part.values()
    )


def _split(split: Mapping[str, Any]) -> str:
    rows = [
        [
            part,
            text(source),
            str(one["images"]),
            str(one["patients"]),
            ", ".join(f"{text(label)} {count}" for label, count in one["positive"].items()),
        ]
        for part in PARTS
        for source, one in split[part].items()
    ]
    told = table(("part", "source", "images", "patients", "positive"), rows)
    return f"Split by patient; SHA-256 of who is where `{split['sha256']}`.\n\n{told}"


def _calibration(evaluation: Mapping[str, Any]) -> str:
    found = evaluation.get("calibration")
    if not isinstance(found, Mapping):
        return ""
    if not all(map(_cross_validated, found.values())):
        # Another trainer's record, told as it stands.
        return f"## Calibration\n\n{_record(found)}"
    rows = []
    for label, one in found.items():
        loss, error = one["cross_validated_log_loss"], one["cross_validated_ece"]
        method = one["method"]
        rows.append(
            [
                text(label),
                "left as they are" if method == "none" else method,
                f"{one['images']} of {one['patients']}",
                f"{loss['none']:.3f}, {loss[method]:.3f}",
                f"{error['none']:.3f}, {error[method]:.3f}",
            ]
        )
    columns = ("label", "scores are", "images of patients", "log loss without, with", "calibration error without, with")
    about = (
        "Chosen by cross-validation within the validation part, folds without a common patient; scores that no method "
        "improved there are left alone."
    )
    return f"## Calibration\n\n{about}\n\n{table(columns, rows)}"


def _cross_validated(one: object) -> bool:
    """Whether it says what `radnode train` says of a label's calibration."""
    if not isinstance(one, Mapping) or not {"method", "images", "patients"} <= set(one):
        return False
    return all(
        isinstance(one.get(figure), Mapping)
        and all(isinstance(one[figure].get(m), float) for m in ("none", one["method"]))
        for figure in ("cross_validated_log_loss", "cross_validated_ece")
    )


def _points(document: Mapping[str, Any]) -> str:
    rows = []
    for point in document["operating_points"]:
        band = point.get("undetermined_low")
        rows.append(
            [
                text(point["label"]),
                text(point["name"]),
                f"{point['threshold']:.3f}",
                "" if band is None else f"{band:.3f}",
                str(point.get("priority", "routine")),
                shown(point["sensitivity"]),
                shown(point["specificity"]),
            ]
        )
    columns = ("label", "chosen by", "present from", "undetermined from", "priority", "sensitivity", "specificity")
    return table(columns, rows)


def _measured(found: Mapping[str, Any]) -> list[str]:
    title = f"## Figures on {text(found['data'])}"
    about = (
        f"{found['images']} images of {found['patients']} patients, through the code that serves; values with 95 % "
        f"intervals from {found['resamples']} resamples of patients. The mean over sources weighs each the same; "
        "figures of all images together count telling the sources apart as skill."
    )
    flattering = (
        "**Thresholds and calibration were chosen on these very images, as no test part was left: what hangs on them "
        "flatters.**"
    )
    parts = [title, about, *([flattering] if found["thresholds_chosen_here"] else []), _by_source(found)]
    if found["exclusive"]:
        parts += ["### Decision among classes", _rows(found, CLASS_FIGURES, lambda part, key: part["classes"][key])]
    for label in found["labels"]:
        counts = "; ".join(
            f"{text(source)}: {part['labels'][label]['positive_images']} of {part['labels'][label]['images']}"
            for source, part in found["sources"].items()
        )
        keys = [key for key in found["mean_of_sources"]["labels"][label] if key != "recall"]
        parts += [
            f"### {text(label)}",
            f"Positive images: {counts}.",
            _rows(found, keys, lambda part, key, label=label: part["labels"][label][key]),
        ]
    parts += [_groups(found), _sources(found), _maps(found.get("explanations", {})), _skipped(found)]
    return [part for part in parts if part]


def _by_source(found: Mapping[str, Any]) -> str:
    rows = [
        [text(source), str(part["images"]), str(part["patients"]), *(shown(part[key]) for key in FIRST)]
        for source, part in found["sources"].items()
    ]
    if len(rows) > 1:
        rows.append(["**mean of sources**", "", "", *(shown(found["mean_of_sources"][key]) for key in FIRST)])
        counts = [str(found["images"]), str(found["patients"])]
        rows.append(["all images together", *counts, *(shown(found["all_images"][key]) for key in FIRST)])
    told = "\n".join(
        f"- not computed: {text(one['source'])}, {text(one['label'])}: {one['why']}" for one in found["not_computed"]
    )
    return table(["source", "images", "patients", *map(name_of, FIRST)], rows) + (f"\n\n{told}" if told else "")


def _rows(found: Mapping[str, Any], keys: Iterable[str], value: Any) -> str:
    parts = [*found["sources"].values(), found["mean_of_sources"]]
    rows = [[name_of(key), *(shown(value(part, key)) for part in parts)] for key in keys]
    return table(["", *map(text, found["sources"]), "mean of sources"], rows)


def _groups(found: Mapping[str, Any]) -> str:
    rows, suppressed = [], []
    for source, part in found["sources"].items():
        suppressed += [text(f"{source} {name}") for name in part["suppressed"]]
        rows += [
            [
                text(source),
                text(name),
                str(one["images"]),
                *(shown(one[k]) for k in ("auroc", "sensitivity", "specificity")),
            ]
            for name, one in part["subgroups"].items()
        ]
    if not rows and not suppressed:
        return ""
    lines = ["### Groups"]
    if rows:
        lines.append(table(("source", "group", "images", "AUROC", "sensitivity", "specificity"), rows))
    if suppressed:
        lines.append(f"Too small to show (fewer than 20 images): {', '.join(suppressed)}.")
    return "\n\n".join(lines)


def _sources(found: Mapping[str, Any]) -> str:
    test = found["source_test"]
    if not test:
        return ""
    cells = [
        f"{words} {value:.3f} ({kind})"
        for words, part in (("features", test["from_features"]), ("border alone", test["from_border"]))
        for kind, value in part.items()
        if value is not None
    ]
    title = "### Does the source give the label away?"
    return f"{title}\n\n{text(test['verdict'])}\n\nAUROC of telling it: {'; '.join(cells)}."


def _maps(found: Mapping[str, Any]) -> str:
    lines = []
    if "localisation" in found:
        one = found["localisation"]["all"]
        for name in ("pointing_game", "overlap"):
            cells = "; ".join(f"{method.replace('_', ' ')} {shown(value)}" for method, value in one[name].items())
            lines.append(f"- {name.replace('_', ' ')} on {one['pairs']} image-label pairs with boxes: {cells}")
    if "deletion_and_insertion" in found:
        one = found["deletion_and_insertion"]
        for name in ("deletion", "insertion"):
            cells = "; ".join(f"{method.replace('_', ' ')} {shown(value)}" for method, value in one[name].items())
            lines.append(f"- {name} on {one['images']} images: {cells}")
    if "weight_randomisation" in found:
        test = found["weight_randomisation"]
        first, last, noise = test["layers"][0], test["layers"][-1], test["random_map"]
        lines.append(
            f"- likeness to the trained network's map once weights are drawn anew from the logits down, "
            f"{test['images']} images, {len(test['layers'])} layers: rank correlation "
            f"{first['correlation']:.3f} after the first layer, "
            f"{last['correlation']:.3f} after the last; SSIM {first['ssim']:.3f} and {last['ssim']:.3f} "
            f"(random maps {noise['ssim']:.3f})"
        )
    return "### The maps\n\n" + "\n".join(lines) if lines else ""


def _skipped(found: Mapping[str, Any]) -> str:
    words = {
        "rows": "rows unusable",
        "unreadable": "images unreadable",
        "refused_by_gate": "images refused by the gate",
    }
    cells = [f"{count} labelled {text(label)}" for label, count in found["skipped"].items()]
    cells += [f"{found['left_out'][key]} {told}" for key, told in words.items() if found["left_out"][key]]
    return f"Left out: {'; '.join(cells)}." if cells else ""


def shown(figure: Mapping[str, Any]) -> str:
    """A value and its interval; a dash for what the data cannot give."""
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
