"""CheXpert (Irvin et al., AAAI 2019): `train.csv`, `valid.csv`; a finding is 1, 0, -1 (uncertain) or blank."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from models.datasets import options, values
from models.datasets.loaders.classes import age_of
from models.datasets.paths import relative, shown
from models.datasets.samples import NEGATIVE, PARTS, Draft, Problems, Sample, SharedTargets
from models.datasets.tables import open_table
from models.errors import DatasetError

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
REQUIRED = ("Path",)
OPTIONAL = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
_PATIENT = re.compile(r"(?:^|/)(patient\d+)/", re.ASCII)
_SOURCE = "chexpert"


class Options(options.Options):
    """train, validation, test: the tables that there are.

    blank: what an empty cell is. The report does not mention the finding: "unknown" leaves it out of the loss,
        "negative" is how the paper's baselines and most work on this set take it. frontal_only: no lateral views.
    prefix: what each path begins with that the images' folder does not have; None finds out from the folder.
    """

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    blank: Literal["unknown", "negative"] = "unknown"
    frontal_only: bool = False
    prefix: str | None = None


def load(options: Options) -> Draft:
    """Raises DatasetError for a cell that is no 1, 0, -1 or blank, and when no table is given."""
    tables = {part: path for part in PARTS if (path := getattr(options, part)) is not None}
    if not tables:
        raise DatasetError("chexpert needs one of the options train, validation, test")
    problems, samples = Problems(), list[Sample]()
    for part, path in tables.items():
        samples.extend(_read(path, part, options, problems))
    return Draft(_SOURCE, FINDINGS, False, samples, problems, len(samples) + len(problems.left_out))


def _read(path: Path, part: str, options: Options, problems: Problems) -> Iterator[Sample]:
    prefix, shared = options.prefix, SharedTargets(FINDINGS)
    with open_table(path) as table:
        for row in table.select(problems, (*REQUIRED, *FINDINGS), OPTIONAL):
            where = f"{path.name}, line {row.line}"
            file = relative(row.values[0], where)
            findings, (sex, age, plane, projection) = row.values[1:15], row.values[15:]
            patient = _PATIENT.search(file)
            if patient is None:
                problems.leave_out(where, "the path names no patient")
                continue
            if plane.casefold() == "lateral" and options.frontal_only:
                problems.note(where, "lateral views were left aside")
                continue
            if prefix is None:
                prefix = _prefix(file, options.images)
            yield Sample(
                file=file.removeprefix(prefix),
                patient=patient[1],
                source=options.source or _SOURCE,
                targets=shared.of_values(_target(cell, where, options.blank) for cell in findings),
                split=part,
                view=projection or plane,
                sex=values.sex(sex),
                age_years=age_of(age, where, problems),
            )


def _prefix(file: str, images: Path | None) -> str:
    """Paths begin with the data set's own folder, which people give as the images' folder or as one inside it."""
    first = file.partition("/")[0] + "/"
    return first if images is not None and not (images / first).is_dir() else ""


def _target(cell: str, where: str, blank: str) -> float:
    if not cell and blank == "negative":
        return NEGATIVE
    value = values.target(cell)
    if value is None:
        raise DatasetError(f"{where}: {shown(cell)} is none of 1, 0, -1 and blank")
    return value
