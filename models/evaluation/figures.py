"""From judged images to the figures that a model is judged by: per source and label, with intervals.

Between sources everything differs, and an AUROC over all of them credits the model for telling hospitals apart (Zech
2018): what is within a source comes first, the mean over sources weighs each the same, and figures over all images
stand beside them for comparison only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation import binary
from models.evaluation.classes import NAMES as CLASS_NAMES
from models.evaluation.classes import Classes
from models.evaluation.judging import Judged
from models.evaluation.metrics import Interval
from models.evaluation.resampling import Counts, Draws, Named, bootstrap_draws, mean_of_draws

SMALLEST_GROUP = 20
"""Fewer images than this give intervals that say nothing, and may point at a person."""

SUBGROUP_FIGURES = ("auroc", "auprc", "sensitivity", "specificity", "ece")


@dataclass(frozen=True)
class Rules:
    """How to count. resamples, seed: of the bootstrap over patients. prevalences: for predictive values. rates: for
    sensitivity at a given specificity and the reverse."""

    resamples: int = 1000
    seed: int = 0
    prevalences: tuple[float, ...] = binary.PREVALENCES
    rates: tuple[float, ...] = binary.GIVEN_RATES

    @property
    def names(self) -> tuple[str, ...]:
        """Of the figures of a label."""
        return binary.names(self.prevalences, self.rates)


def draws_of(data: Judged, rules: Rules) -> Draws:
    """Figures of all labels, a column each; of exclusive models also those of CLASS_NAMES, of one column."""
    ranked = [
        binary.rank(data.truth[:, i], data.probabilities[:, i], float(data.thresholds[i]))
        for i in range(len(data.labels))
    ]
    classes = Classes(data.truth.argmax(axis=1), data.probabilities) if data.exclusive else None

    def figures_of(counts: Counts) -> Named:
        each = [binary.figures(r, counts, prevalences=rules.prevalences, rates=rules.rates) for r in ranked]
        found = {name: np.stack([one[name] for one in each], axis=1) for name in rules.names}
        return found if classes is None else {**found, **classes.figures(counts)}

    return bootstrap_draws(figures_of, data.patients, resamples=rules.resamples, seed=rules.seed)


def figures_by_source(data: Judged, rules: Rules) -> dict[str, Any]:
    """`sources`, `mean_of_sources`, `all_images` and `not_computed` of the document."""
    names = [str(source) for source in np.unique(data.sources)]
    parts = {source: data.take(data.sources == source) for source in names}
    # Sources draw from streams of their own: with the same one, equal sizes would resample in step.
    draws = {source: draws_of(part, _seeded(rules, i)) for i, (source, part) in enumerate(parts.items())}
    sources = {source: _source(parts[source], draws[source], rules) for source in names}
    mean = mean_of_draws(list(draws.values()))
    whole = draws if len(names) == 1 else {"": draws_of(data, _seeded(rules, len(names)))}
    return {
        "sources": sources,
        "mean_of_sources": _summary(data.labels, mean, rules, exclusive=data.exclusive),
        "all_images": _whole(data, next(iter(whole.values())), rules),
        "not_computed": _not_computed(sources),
    }


def _not_computed(sources: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a source cannot give, and why; {source, label, why}."""
    found = []
    for source, part in sources.items():
        for label, one in part["labels"].items():
            positive, negative = one["positive_images"], one["images"] - one["positive_images"]
            if not one["images"]:
                why = "no image of a known label: no figure"
            elif not positive:
                why = f"{negative} negative images and no positive one: no sensitivity, AUROC, AUPRC or F1"
            elif not negative:
                why = f"{positive} positive images and no negative one: no specificity, AUROC or AUPRC"
            else:
                continue
            found.append({"source": source, "label": label, "why": why})
    return found


def _seeded(rules: Rules, stream: int) -> Rules:
    return Rules(rules.resamples, rules.seed + 7919 * stream, rules.prevalences, rules.rates)


def _whole(data: Judged, draws: Draws, rules: Rules) -> dict[str, Any]:
    found = {**sizes(data), **_summary(data.labels, draws, rules, exclusive=data.exclusive)}
    for index, label in enumerate(data.labels):
        found["labels"][label] = {**counted(data, index), **found["labels"][label]}
    return found


def _source(data: Judged, draws: Draws, rules: Rules) -> dict[str, Any]:
    found = _whole(data, draws, rules)
    if data.exclusive:
        table = Classes(data.truth.argmax(axis=1), data.probabilities).confusion(np.ones((1, len(data.truth))))[0]
        found["classes"]["confusion"] = table.astype(int).tolist()
    groups, suppressed = subgroups(data, rules)
    return {**found, "subgroups": groups, "suppressed": suppressed}


def sizes(data: Judged) -> dict[str, int]:
    """Images and patients."""
    return {"images": len(data.truth), "patients": len(np.unique(data.patients))}


def counted(data: Judged, label: int) -> dict[str, Any]:
    """Images and confusion of one label."""
    truth, said = data.truth[:, label], data.probabilities[:, label] >= data.thresholds[label]
    ill, well = truth == 1, truth == 0
    return {
        "images": int((ill | well).sum()),
        "positive_images": int(ill.sum()),
        "confusion": {
            "tp": int((said & ill).sum()),
            "fp": int((said & well).sum()),
            "tn": int((~said & well).sum()),
            "fn": int((~said & ill).sum()),
        },
    }


def _summary(labels: tuple[str, ...], draws: Draws, rules: Rules, *, exclusive: bool) -> dict[str, Any]:
    """Means over the labels by name, then each label, then the decision among classes."""
    own = Draws({n: draws.value[n] for n in rules.names}, {n: draws.draws[n] for n in rules.names})
    macro = own.mean_of_columns()
    found: dict[str, Any] = {name: as_json(macro.interval(name)) for name in rules.names}
    found["labels"] = {
        label: {name: as_json(own.interval(name, index)) for name in rules.names} for index, label in enumerate(labels)
    }
    if exclusive:
        found["classes"] = {name: as_json(draws.interval(name)) for name in CLASS_NAMES}
    return found


def subgroups(data: Judged, rules: Rules) -> tuple[dict[str, Any], list[str]]:
    """Figures of groups within one source, and the names of those too small to show."""
    found: dict[str, Any] = {}
    suppressed = []
    for attribute, values in data.groups.items():
        present = sorted(set(values.tolist()) - {""})
        for value in present if len(present) > 1 else ():
            group, name = data.take(values == value), f"{attribute}={value}"
            if len(group.truth) < SMALLEST_GROUP:
                suppressed.append(name)
                continue
            found[name] = _subgroup(group, rules)
    return found, suppressed


def _subgroup(group: Judged, rules: Rules) -> dict[str, Any]:
    draws = draws_of(group, rules)
    macro = Draws({n: draws.value[n] for n in SUBGROUP_FIGURES}, {n: draws.draws[n] for n in SUBGROUP_FIGURES})
    labels = {
        label: {
            **counted(group, index),
            **{name: as_json(draws.interval(name, index)) for name in SUBGROUP_FIGURES},
        }
        for index, label in enumerate(group.labels)
    }
    means = macro.mean_of_columns()
    return {**sizes(group), **{n: as_json(means.interval(n)) for n in SUBGROUP_FIGURES}, "labels": labels}


def as_json(figure: Interval) -> dict[str, float | None]:
    """JSON has no NaN: what the data cannot give is null."""
    return {key: rounded(getattr(figure, key)) for key in ("value", "low", "high")}


def rounded(value: float | NDArray[np.float64], digits: int = 4) -> float | None:
    """A number for JSON; None for what is none."""
    number = float(value)
    return round(number, digits) if math.isfinite(number) else None
