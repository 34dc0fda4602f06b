"""`labels.csv`: one row an image, with at least `file`, `source`, `patient` and `label`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from models.errors import DatasetError

REQUIRED = ("file", "source", "patient", "label")


@dataclass(frozen=True)
class LabelledImage:
    """One row. `file` is relative to the images' folder; strings that the file lacks are ""."""

    file: str
    source: str
    patient: str
    label: str
    licence: str = ""
    view: str = ""
    sex: str = ""
    age: str = ""


def read_labels(path: Path) -> list[LabelledImage]:
    """Every row, in the file's order.

    Raises DatasetError naming the line for a missing column, an empty required field, a path that leaves the folder, or
    an image that occurs twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in REQUIRED if column not in (reader.fieldnames or [])]
            if missing:
                raise DatasetError(f"{path.name} lacks the columns {', '.join(missing)}")
            rows = [_row(path, reader.line_num, raw) for raw in reader]
    except FileNotFoundError as error:
        raise DatasetError(f"there is no label file {path}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path.name} is no readable CSV file in UTF-8") from error
    _refuse_repeats(path, rows)
    return rows


def _row(path: Path, line: int, raw: dict[str, str]) -> LabelledImage:
    values = {key: (raw.get(key) or "").strip() for key in (*REQUIRED, "licence", "view", "sex", "age")}
    empty = [key for key in REQUIRED if not values[key]]
    if empty:
        raise DatasetError(f"{path.name}, line {line}: {', '.join(empty)} is empty")
    if Path(values["file"]).is_absolute() or ".." in Path(values["file"]).parts:
        raise DatasetError(f"{path.name}, line {line}: the file lies outside the images' folder")
    return LabelledImage(**values)


def _refuse_repeats(path: Path, rows: list[LabelledImage]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.file in seen:
            raise DatasetError(f"{path.name}: {row.file} occurs twice")
        seen.add(row.file)
