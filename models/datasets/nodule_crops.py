"""Crops of nodules out of CT series, from a table of places in space: the folder that the plan `lung-nodule` reads.

    python -m models.datasets.nodule_crops --series lidc-dicom --table annotations.csv --out lidc \
        --column malignancy=reader1+reader2+reader3+reader4

Places are those of LIDC-IDRI, LUNA16 and LUNA25: millimetres in the patient's coordinates (PS3.3 C.7.6.2.1.1). All
crops show the same number of millimetres, as a nodule's size is a sign. Hounsfield units stay what they are, in float32
TIFF. Patients are pseudonyms of their numbers; no name and no UID is written.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from models.contracts import FloatArray
from models.datasets.finish import limit
from models.datasets.loaders.dicom_headers import Header, headers, pseudonym
from models.datasets.loaders.slices import ordered
from models.datasets.pixels import Images
from models.datasets.samples import Problem, Problems
from models.datasets.tables import Row, open_table
from models.errors import DatasetError, ModelError

COLUMNS: Mapping[str, str] = {
    "series": "seriesuid",
    "x": "coordX",
    "y": "coordY",
    "z": "coordZ",
    "malignancy": "malignancy",
}
"""What is needed of the table, and the columns' usual names. malignancy: of one or, with + between, several readers."""

AIR_HU = -1000.0
UNDECIDED = 3.0
"""Of the scale from 1 (highly unlikely) to 5: a mean of exactly this leaves the label blank."""

EXIT_FAILED = 1
_err = Console(stderr=True, highlight=False, markup=False, emoji=False)


@dataclass(frozen=True)
class Nodule:
    """place: (x, y, z) in mm. malignancy: the readers' mean, from 1 to 5; or 0 and 1 of a known outcome."""

    where: str
    series: str
    place: tuple[float, float, float]
    malignancy: float


@dataclass(frozen=True)
class Size:
    """Of a crop. side: rows and columns."""

    millimetres: float = 50.0
    side: int = 64


def crop_nodules(
    series_folder: Path,
    table: Path,
    out: Path,
    *,
    columns: Mapping[str, str] = COLUMNS,
    size: Size | None = None,
    outcome: bool = False,
    salt: str = "",
    max_bad_fraction: float = 0.01,
) -> tuple[int, tuple[Problem, ...]]:
    """Write ``out``/nodules.csv and ``out``/crops; how many crops, and what could not be used.

    outcome: malignancy is 0 or 1, of pathology or follow-up, and no reader's scale.

    Raises DatasetError: columns that are missing, or more rows and files that cannot be used than ``max_bad_fraction``.
    """
    problems, size = Problems(), size or Size()
    nodules, seen = _read_table(table, {**COLUMNS, **columns}, problems)
    groups: dict[str, list[Header]] = defaultdict(list)
    wanted = {one.series for one in nodules}
    for header in headers(series_folder, problems):
        if header.series in wanted and header.has_pixels and "LOCALIZER" not in header.image_type:
            groups[header.series].append(header)
    volumes = {uid: ordered(found, problems)[0] for uid, found in groups.items()}
    images, made = Images(series_folder), 0
    (out / "crops").mkdir(parents=True, exist_ok=True)
    with (out / "nodules.csv").open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(["file", "patient_id", "rating", "malignant"])
        for one in track(nodules, "crops", console=_err, transient=True, disable=not _err.is_terminal):
            try:
                header, crop = _crop(one, volumes.get(one.series, []), images, size)
            except ModelError as error:
                problems.leave_out(one.where, str(error))
                continue
            who = pseudonym(header.patient or f"study {header.study}", salt)
            name = f"{who}_{made:05d}.tiff"
            Image.fromarray(crop).save(out / "crops" / name)
            lines.writerow([name, who, f"{one.malignancy:g}", _label(one.malignancy, outcome=outcome)])
            made += 1
    limit(problems, seen, max_bad_fraction, table.name)
    return made, problems.all()


def _read_table(table: Path, columns: Mapping[str, str], problems: Problems) -> tuple[list[Nodule], int]:
    readers = columns["malignancy"].split("+")
    found, seen = [], 0
    with open_table(table) as opened:
        names = [columns["series"], columns["x"], columns["y"], columns["z"], *readers]
        for row in opened.select(problems, names):
            seen += 1
            where = f"{table.name}, line {row.line}"
            try:
                found.append(_nodule(row, where))
            except ValueError:
                problems.leave_out(where, "a place or a malignancy is no number")
    return found, seen + len(problems.left_out)


def _nodule(row: Row, where: str) -> Nodule:
    """Raises ValueError. A reader who saw no nodule leaves the cell blank and has no part in the mean."""
    series, *cells = row.values
    x, y, z = (float(cell) for cell in cells[:3])
    ratings = [float(cell) for cell in cells[3:] if cell]
    mean = sum(ratings) / len(ratings) if ratings else math.nan
    if not all(map(math.isfinite, (x, y, z, mean))):
        raise ValueError(where)
    return Nodule(where, series, (x, y, z), mean)


def _label(malignancy: float, *, outcome: bool) -> str:
    if outcome:
        return str(int(malignancy > 0.5))
    return "" if malignancy == UNDECIDED else str(int(malignancy > UNDECIDED))


def _crop(one: Nodule, slices: Sequence[Header], images: Images, size: Size) -> tuple[Header, FloatArray]:
    """The nearest slice and the square around the nodule, float32 (side, side) in HU. Raises ModelError."""
    if not slices:
        raise DatasetError("its series is not in the folder")
    if any(not header.position or not header.orientation or not header.spacing for header in slices):
        raise DatasetError("slices of its series have no place in space, or no pixel spacing")
    along = [_in_slice(header, one.place)[2] for header in slices]
    nearest = int(np.argmin(np.abs(along)))
    steps = np.abs(np.diff(along))
    if abs(along[nearest]) > (median(steps.tolist()) if len(steps) else 1.0):
        raise DatasetError(
            f"no slice of its series lies within one step of it, the nearest {abs(along[nearest]):.1f} mm off"
        )
    header = slices[nearest]
    row, column, _ = _in_slice(header, one.place)
    pixels = images.read(header.file).pixels
    if not (0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]):
        raise DatasetError("it lies outside of its slice")
    return header, _square(pixels, (row, column), header.spacing, size)


def _in_slice(header: Header, place: Sequence[float]) -> tuple[float, float, float]:
    """Row and column (the middle of the first pixel is 0, 0) and mm along the normal. spacing: of rows, of columns."""
    offset = np.subtract(place, header.position)
    along_row, along_column = np.array(header.orientation[:3]), np.array(header.orientation[3:])
    row, column = offset @ along_column / header.spacing[0], offset @ along_row / header.spacing[1]
    return float(row), float(column), float(offset @ np.cross(along_row, along_column))


def _square(pixels: FloatArray, place: tuple[float, float], spacing: Sequence[float], size: Size) -> FloatArray:
    """Air where the square reaches beyond the slice."""
    half = [size.millimetres / 2 / step for step in spacing]
    margin = math.ceil(max(half)) + 1
    padded = np.pad(pixels.astype(np.float32), margin, constant_values=np.float32(AIR_HU))
    # Pillow counts from the first pixel's corner, and so does the box.
    row, column = (where + margin + 0.5 for where in place)
    box = (column - half[1], row - half[0], column + half[1], row + half[0])
    drawn = Image.fromarray(padded).resize((size.side, size.side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(drawn, dtype=np.float32)


def main(
    series: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder with the DICOM series.")],
    table: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="CSV, one nodule a line.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for nodules.csv and crops/.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help=f"WHAT=COLUMN where it is not {', '.join('='.join(pair) for pair in COLUMNS.items())}."),
    ] = None,
    *,
    outcome: Annotated[bool, typer.Option(help="Malignancy is 0 or 1, and not from 1 to 5.")] = False,
    millimetres: Annotated[float, typer.Option(min=5, max=200, help="Side of the square that is cut out.")] = 50.0,
    side: Annotated[int, typer.Option(min=16, max=512, help="Rows and columns of a crop.")] = 64,
    salt: Annotated[str, typer.Option(help="Goes into the patients' pseudonyms.")] = "",
    most_bad: Annotated[float, typer.Option(min=0, max=1, help="Share of the nodules that may fail.")] = 0.01,
) -> None:
    """Cut nodules out of CT series, as the plan lung-nodule reads them."""
    columns = dict(one.partition("=")[::2] for one in column or ())
    if odd := sorted(set(columns) - set(COLUMNS)):
        raise typer.BadParameter(f"{', '.join(odd)}: none of {', '.join(COLUMNS)}", param_hint="--column")
    try:
        made, problems = crop_nodules(
            series, table, out, columns=columns, size=Size(millimetres, side), outcome=outcome, salt=salt,
            max_bad_fraction=most_bad,
        )  # fmt: skip
    except ModelError as error:
        _err.print(f"{error}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    for problem in problems:
        _err.print(f"{problem.where}: {problem.what}" + (f" ({problem.count} times)" if problem.count > 1 else ""))
    typer.echo(f"{made} crops are in {out}.")


if __name__ == "__main__":
    typer.run(main)
