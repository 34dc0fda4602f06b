"""Any CSV table whose columns the user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from models.datasets import options, values
from models.datasets.loaders.classes import NO_TARGETS, Classed, age_of, draft_of, names_in
from models.datasets.paths import relative, shown
from models.datasets.samples import Draft, Problems, Sample, SharedTargets
from models.datasets.tables import Row, open_table
from models.errors import DatasetError

FIELDS = ("file", "patient", "source", "label", "split", "view", "sex", "age", "device", "licence")


class Options(options.Options):
    """file: the table. delimiter: between its cells.

    columns: what a sample has (FIELDS) to the table's column; ``file`` is needed. With ``label`` the cell names the
        class, or several with ``separator`` between them.
    label_columns: label key to a column of 1, 0, -1 (uncertain) and blank (unknown), instead of ``label``.
    negative: names in ``label`` that stand for "none of the labels"; only with a separator.
    """

    file: Path
    columns: Mapping[str, str]
    label_columns: Mapping[str, str] = Field(default_factory=dict)
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    separator: str = ""
    negative: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_way_to_label(self) -> Self:
        if unknown := sorted(set(self.columns) - set(FIELDS)):
            raise ValueError(f"columns: {', '.join(unknown)} is none of {', '.join(FIELDS)}")
        if "file" not in self.columns:
            raise ValueError("columns: 'file' is needed")
        if ("label" in self.columns) == bool(self.label_columns):
            raise ValueError("give either columns.label or label_columns")
        return self


def load(options: Options) -> Draft:
    """Raises DatasetError for columns that are missing, and cells of ``label_columns`` that are no target."""
    problems, name = Problems(), options.file.name
    fields = [field for field in FIELDS if field in options.columns]
    shared, samples, rows = SharedTargets(options.label_columns), list[Sample](), list[Classed]()
    with open_table(options.file, options.delimiter) as table:
        wanted = [options.columns[field] for field in fields] + list(options.label_columns.values())
        for row in table.select(problems, wanted):
            where = f"{name}, line {row.line}"
            cells = dict(zip(fields, row.values, strict=False))
            sample = _sample(cells, where, options, problems)
            if sample is None:
                continue
            if options.label_columns:
                targets = shared.of_values(_targets(row, len(fields), where))
                object.__setattr__(sample, "targets", targets)
                samples.append(sample)
            elif values.is_unknown(cells["label"]):
                problems.leave_out(where, "label is empty")
            else:
                names = names_in(cells["label"], options.separator)
                rows.append(Classed(sample, names - set(options.negative) if options.separator else names))
    seen = len(samples) + len(rows) + len(problems.left_out)
    if "patient" not in options.columns:
        problems.note(
            name, "no column for patients; each image counts as a patient of its own", len(samples) + len(rows)
        )
    if options.label_columns:
        return Draft(name, tuple(options.label_columns), False, samples, problems, seen)
    return draft_of(name, rows, problems, seen, exclusive=not options.separator)


def _sample(cells: Mapping[str, str], where: str, options: Options, problems: Problems) -> Sample | None:
    empty = [field for field in ("file", "patient") if field in cells and not cells[field]]
    if empty:
        problems.leave_out(where, f"{', '.join(empty)} is empty")
        return None
    split = values.part(cells.get("split", ""))
    if split is None:
        problems.leave_out(where, f"split is {shown(cells['split'])}, none of {values.KNOWN_PARTS}")
        return None
    file = relative(cells["file"], where)
    return Sample(
        file=file,
        patient=cells.get("patient", file),
        source=cells.get("source") or options.source or options.file.stem,
        targets=NO_TARGETS,
        split=split,
        view=cells.get("view", ""),
        sex=values.sex(cells.get("sex", "")),
        age_years=age_of(cells.get("age", ""), where, problems),
        device=cells.get("device", ""),
        licence=cells.get("licence", ""),
    )


def _targets(row: Row, first: int, where: str) -> list[float]:
    found = []
    for cell in row.values[first:]:
        value = values.target(cell)
        if value is None:
            raise DatasetError(f"{where}: {shown(cell)} is none of 1, 0, -1 and blank")
        found.append(value)
    return found
