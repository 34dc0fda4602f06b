"""`labels.csv`: columns file, source, patient and label, and where there are any licence, view, sex, age and split."""

from __future__ import annotations

from pathlib import Path

from models.datasets import options, values
from models.datasets.loaders.classes import NO_TARGETS, Classed, age_of, draft_of, names_in
from models.datasets.paths import relative, shown
from models.datasets.samples import Draft, Problems, Sample
from models.datasets.tables import open_table

REQUIRED = ("file", "source", "patient", "label")
OPTIONAL = ("licence", "view", "sex", "age", "device", "split")


class Options(options.Options):
    """file: the table. separator: stands between several labels of one cell, which makes the set multi-label.

    negative: names that stand for "none of the labels"; only with a separator.
    """

    file: Path
    separator: str = ""
    negative: tuple[str, ...] = ()


def load(options: Options) -> Draft:
    """Raises DatasetError for columns that are missing and files outside the images' folder."""
    problems, rows, seen = Problems(), [], 0
    name = options.file.name
    with open_table(options.file) as table:
        for row in table.select(problems, REQUIRED, OPTIONAL):
            seen += 1
            where = f"{name}, line {row.line}"
            file, source, patient, label, licence, view, sex, age, device, split = row.values
            empty = [column for column, value in zip(REQUIRED[:3], row.values, strict=False) if not value]
            if empty or values.is_unknown(label):
                problems.leave_out(where, f"{', '.join(empty) or 'label'} is empty")
                continue
            part = values.part(split)
            if part is None:
                problems.leave_out(where, f"split is {shown(split)}, none of {values.KNOWN_PARTS}")
                continue
            sample = Sample(
                file=relative(file, where),
                patient=patient,
                source=source,
                targets=NO_TARGETS,
                split=part,
                view=view,
                sex=values.sex(sex),
                age_years=age_of(age, where, problems),
                device=device,
                licence=licence,
            )
            names = names_in(label, options.separator)
            rows.append(Classed(sample, names - set(options.negative) if options.separator else names))
    # Rows of the wrong width never came out of the table, but they were there.
    seen = max(seen, len(rows) + len(problems.left_out))
    return draft_of(name, rows, problems, seen, exclusive=not options.separator)
