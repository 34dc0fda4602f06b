"""The evaluation as one page for people: no script, nothing fetched, readable in light and dark and on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from models.evaluation import svg
from models.evaluation.figures import SMALLEST_GROUP
from models.evaluation.pictures import Picture
from models.evaluation.svg import Line

FIGURES: Mapping[str, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "Calibration error",
}
FIRST = ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "brier", "ece")
CLASS_FIGURES: Mapping[str, str] = {
    "top1_accuracy": "Accuracy (top 1)",
    "mean_recall": "Mean recall",
    "mean_f1": "Mean F1",
    "kappa": "Cohen's kappa",
    "brier_of_classes": "Brier score, all classes",
    "ece_of_top1": "Calibration error, top 1",
}
DASH = "\N{EN DASH}"
MOST_OPEN = 3
"""Labels whose part of the page is unfolded from the start."""

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def known(value: float | None) -> str:
    """Three digits; a dash for what is not known."""
    return DASH if value is None else f"{value:.3f}"


_ENVIRONMENT.filters["known"] = known


def render(document: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> str:
    """The page of an evaluation's document."""
    labels = [_label(document, label, pictures) for label in document["labels"]]
    return _ENVIRONMENT.get_template("report.html").render(
        doc=document,
        first={name: FIGURES[name] for name in FIRST},
        labels=labels,
        open_all=len(labels) <= MOST_OPEN,
        classes=_classes(document),
        explanations=document["explanations"],
        figure=figure,
        name_of=name_of,
        round=known,
        recorded=_recorded,
    )


def figure(found: Mapping[str, Any] | None) -> Markup:
    """A value and its interval; a dash for what the data cannot give."""
    if found is None or found["value"] is None:
        return Markup.escape(DASH)
    value = Markup("{:.3f}").format(found["value"])
    if found["low"] is None:
        return value
    return value + Markup(" <small>{:.3f}&thinsp;&ndash;&thinsp;{:.3f}</small>").format(found["low"], found["high"])


def _recorded(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def name_of(key: str) -> str:
    """A figure's key as words."""
    if key in FIGURES:
        return FIGURES[key]
    for prefix, words in (
        ("ppv_at_prevalence_", "PPV where {} are ill"),
        ("npv_at_prevalence_", "NPV where {} are ill"),
        ("sensitivity_at_specificity_", "Sensitivity at {} specificity"),
        ("specificity_at_sensitivity_", "Specificity at {} sensitivity"),
    ):
        if key.startswith(prefix):
            return words.format(f"{100 * float(key.removeprefix(prefix)):g} %")
    return CLASS_FIGURES.get(key, key.replace("_", " "))


def _label(document: Mapping[str, Any], label: str, pictures: Sequence[Picture]) -> dict[str, Any]:
    sources = {name: part["labels"][label] for name, part in document["sources"].items()}
    curves = {name: part[label] for name, part in document["curves"].items()}
    point = next(point for point in document["operating_points"] if point["label"] == label)
    mean = document["mean_of_sources"]["labels"][label]
    # Recall is sensitivity under another name.
    figures = [name for name in mean if name != "recall"]
    rows = [(name_of(name), [one[name] for one in sources.values()], mean[name]) for name in figures]
    return {
        "name": label,
        "point": point,
        "sources": sources,
        "rows": rows,
        "few": _few(sources),
        "plots": _plots(label, curves, sources),
        "curves": curves,
        "groups": _groups(document, label),
        "pictures": [picture for picture in pictures if picture.label == label],
    }


def _few(sources: Mapping[str, Any]) -> list[str]:
    """Sources with so few images of one kind that a resample shows next to nothing of their spread."""
    found = []
    for source, one in sources.items():
        for count, kind in ((one["positive_images"], "positive"), (one["images"] - one["positive_images"], "negative")):
            if count < SMALLEST_GROUP:
                found.append(f"{source} ({count} {kind})")
    return found


def _plots(label: str, curves: Mapping[str, Any], sources: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    def told(key: str) -> str:
        return "; ".join(
            f"{source} {one[key]['value']:.3f}" for source, one in sources.items() if one[key]["value"] is not None
        )

    ranked = {source: one for source, one in curves.items() if one["roc"]}
    roc = [
        Line(source, one["roc"], spots=[(one["at"]["false_positive_rate"], one["at"]["sensitivity"])])
        for source, one in ranked.items()
    ]
    recall = [
        Line(
            source,
            one["precision_recall"],
            spots=[(one["at"]["sensitivity"], one["at"]["precision"])] if one["at"]["precision"] is not None else [],
        )
        for source, one in ranked.items()
    ]
    reliability = [
        Line(
            source,
            [(b["probability"], b["observed"]) for b in one["reliability"]],
            [(b["probability"], b["observed"], b["low"], b["high"]) for b in one["reliability"]],
        )
        for source, one in curves.items()
    ]
    found = []
    if roc:
        described = f"ROC curves of {label}, one line a source. AUROC: {told('auroc')}."
        drawn = svg.curves(described, "1 - specificity", "sensitivity", roc, diagonal=True)
        found.append(("ROC; the circle is the operating point", Markup(drawn)))  # noqa: S704 - built and escaped by svg
        described = f"Precision-recall curves of {label}, one line a source. AUPRC: {told('auprc')}."
        drawn = svg.curves(described, "recall", "precision", recall, diagonal=False)
        found.append(("Precision and recall", Markup(drawn)))  # noqa: S704
    described = f"Reliability of {label}: observed share of positive images by probability. ECE: {told('ece')}."
    drawn = svg.curves(described, "probability", "observed share", reliability, diagonal=True)
    found.append(("Reliability; on the diagonal, probabilities mean what they say", Markup(drawn)))  # noqa: S704
    return found


def _groups(document: Mapping[str, Any], label: str) -> dict[str, Any]:
    rows, suppressed = [], []
    for source, part in document["sources"].items():
        suppressed += [f"{source}: {name}" for name in part["suppressed"]]
        for name, group in part["subgroups"].items():
            rows.append((source, name.replace("=", ": "), group["labels"][label]))
    drawn = [
        (f"{source}, {name}", one["auroc"]["value"], one["auroc"]["low"], one["auroc"]["high"])
        for source, name, one in rows
        if None not in one["auroc"].values()
    ]
    plot = ""
    if drawn:
        described = f"AUROC of {label} by group with 95 % intervals; the numbers are in the table beside it."
        plot = Markup(svg.forest(described, drawn, "AUROC"))  # noqa: S704 - built and escaped by svg
    return {"rows": rows, "suppressed": suppressed, "plot": plot}


def _classes(document: Mapping[str, Any]) -> dict[str, Any] | None:
    if not document["exclusive"]:
        return None
    sources = {name: part["classes"] for name, part in document["sources"].items()}
    mean, names = document["mean_of_sources"]["classes"], document["labels"]
    plots = []
    for source, one in sources.items():
        described = f"Confusion matrix of {source}: true class by row, what the model said by column; counts follow."
        plots.append((source, Markup(svg.matrix(described, names, one["confusion"])), one["confusion"]))  # noqa: S704
    rows = [(words, [one[key] for one in sources.values()], mean[key]) for key, words in CLASS_FIGURES.items()]
    return {"rows": rows, "plots": plots}
