"""What a label file says, in a model's own words.

>>> found = truth_of(manifest, read("labels-csv", {"file": "labels.csv"}))
>>> len(found.samples), found.skipped
(1754, {'covid': 825})
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.datasets.samples import NEGATIVE, POSITIVE, Sample, SampleSet
from models.errors import DatasetError
from models.manifest import Manifest

NEGATIVE_NAMES = ("normal", "no finding", "negative", "none")
"""What label files call an image without any finding."""

_NONE = "\0none"
_NOT = "\0not "
_NEGATIONS = ("no_", "no", "non_", "non", "not_", "without_")
_NOT_ONE_CLASS = "(no class, or several, of this model)"
_NOTHING_KNOWN = "(nothing known of this model's labels)"


@dataclass(frozen=True)
class Truth:
    """samples: those that can be judged. values: float64 (n, labels) of 1, 0 and NaN (not known), in the model's order;
    rows of an exclusive model hold exactly one 1. skipped: images by the file's label, or by a reason in brackets.
    """

    samples: tuple[Sample, ...]
    values: NDArray[np.float64]
    skipped: Mapping[str, int]


def truth_of(
    manifest: Manifest,
    found: SampleSet,
    *,
    negative: Iterable[str] = NEGATIVE_NAMES,
    rename: Mapping[str, str] | None = None,
    wanted: Iterable[str] = (),
) -> Truth:
    """Match the file's labels with the model's, by key or display name, case and punctuation aside.

    negative: names for "none of the labels"; "no_tumour" and "noncovid" say so of that one label. rename: the file's
    name to the model's key. wanted: leave only samples of these labels and negative ones in the judgement; empty takes
    all.
    A label of the file that the model has no word for tells nothing in an exclusive file (COVID-19 is a pneumonia, too)
    and its images are skipped; in a multi-label file every image has an entry for every label.
    Raises DatasetError for names that neither has, and when no image is left.
    """
    keys = tuple(label.key for label in manifest.labels)
    key_of = _names(manifest, found, negative, rename or {})
    unknown = [label for label in wanted if label not in keys]
    if unknown:
        raise DatasetError(f"model {manifest.id} has no label {', '.join(unknown)}; it knows {', '.join(keys)}")
    row_of = _one_class if manifest.exclusive else _one_label if found.exclusive else _many_labels
    in_file = {name.removeprefix(_NOT) for name in key_of.values()} & set(keys)
    samples, rows, skipped = [], [], Counter[str]()
    chosen = [key in wanted or not tuple(wanted) for key in keys]
    for sample in found.samples:
        row, reason = row_of(sample, keys, key_of, in_file)
        values = [value if use else np.nan for value, use in zip(row, chosen, strict=True)] if row else []
        if not row or np.isnan(values).all():
            skipped[reason or _NOTHING_KNOWN] += 1
            continue
        samples.append(sample)
        rows.append(row if manifest.exclusive else values)
    if not samples:
        raise DatasetError(f"none of the images in {found.name} has a label of model {manifest.id}: {', '.join(keys)}")
    return Truth(tuple(samples), np.asarray(rows, dtype=np.float64), dict(sorted(skipped.items())))


def slug(name: str) -> str:
    """ "Pleural Thickening", "pleural-thickening" and "Pleural_Thickening" are the same."""
    return re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")


def _names(manifest: Manifest, found: SampleSet, negative: Iterable[str], rename: Mapping[str, str]) -> dict[str, str]:
    """The file's label to the model's key, to _NONE, or to _NOT and a key; labels that neither knows are not in it."""
    keys = {label.key for label in manifest.labels}
    known = {slug(label.display): label.key for label in manifest.labels} | {slug(key): key for key in keys}
    nothing = {slug(name) for name in negative}
    wrong = [name for name in rename if name not in found.labels] + [key for key in rename.values() if key not in keys]
    if wrong:
        raise DatasetError(f"{', '.join(wrong)} cannot be renamed: not among the file's labels, or the model's keys")
    normal = next((known[name] for name in sorted(nothing & set(known))), "") if manifest.exclusive else ""
    key_of = {}
    for name in found.labels:
        if key := rename.get(name) or known.get(slug(name)):
            key_of[name] = key
        elif slug(name) in nothing:
            key_of[name] = normal or _NONE
        elif key := next((known[rest] for rest in _without_negation(slug(name)) if rest in known), ""):
            # Of two classes, what is not the one is the other.
            key_of[name] = next(iter(keys - {key})) if manifest.exclusive and len(keys) == 2 else _NOT + key
    return key_of


def _without_negation(name: str) -> list[str]:
    return [name.removeprefix(negation) for negation in _NEGATIONS if name.startswith(negation)]


Row = tuple[list[float], str]
"""Values in the model's order, empty where the sample tells nothing, and then why."""


def _positive(sample: Sample) -> list[str]:
    return [name for name, value in sample.targets.items() if value == POSITIVE]


def _one_class(sample: Sample, keys: tuple[str, ...], key_of: Mapping[str, str], _: set[str]) -> Row:
    names = _positive(sample)
    said = {key_of.get(name, "") for name in names}
    if len(said) != 1 or not said <= set(keys):
        return [], names[0] if len(names) == 1 else _NOT_ONE_CLASS
    return [float(key in said) for key in keys], ""


def _one_label(sample: Sample, keys: tuple[str, ...], key_of: Mapping[str, str], in_file: set[str]) -> Row:
    name = _positive(sample)[0]
    key = key_of.get(name)
    if key is None:
        return [], name
    if key == _NONE:
        return [0.0] * len(keys), ""
    if key.startswith(_NOT):
        return [0.0 if _NOT + other == key else np.nan for other in keys], ""
    # Of a label that the file never uses, an image with another label tells nothing.
    return [1.0 if other == key else 0.0 if other in in_file else np.nan for other in keys], name


def _many_labels(sample: Sample, keys: tuple[str, ...], key_of: Mapping[str, str], _: set[str]) -> Row:
    values = dict.fromkeys(keys, np.nan)
    nothing = any(key_of.get(name) == _NONE for name in _positive(sample))
    for name, value in sample.targets.items():
        key = key_of.get(name, "")
        if key in values and value in (POSITIVE, NEGATIVE) and values[key] != 1:
            values[key] = value
        elif value == POSITIVE and key.startswith(_NOT):
            other = key.removeprefix(_NOT)
            values[other] = 0.0 if np.isnan(values[other]) else values[other]
    if nothing:
        values = {key: 0.0 if np.isnan(value) else value for key, value in values.items()}
    return list(values.values()), ""
