"""Nodules are cut out where the table says they lie, whatever way the slices face."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from models.datasets import read
from models.datasets.nodule_crops import COLUMNS, main
from tests.support.series import ct_slice, write_slice

APP = Typer()
APP.command()(main)
HEADER = ",".join(COLUMNS.values())
ROW, COLUMN, PLACE = 20, 30, 3
SIDE, MILLIMETRES = 17, 136
"""Pixels are 8 mm wide: a crop's pixels are those of the slice."""


def series_with_a_dot(folder: Path, patient: str = "SECRET7", **turned: Any) -> str:
    """A series of six slices with one bright pixel; its UID."""
    folder.mkdir(exist_ok=True)
    for place in range(6):
        made = ct_slice(patient, place, **{key: value(place) for key, value in turned.items()})
        pixels = np.full((48, 40), -800, "<i2")
        if place == PLACE:
            pixels[ROW, COLUMN] = 200
        made.PixelData = pixels.tobytes()
        write_slice(folder, made)
    return str(made.SeriesInstanceUID)


def cropped(tmp_path: Path, rows: str, *more: str, header: str = HEADER) -> Any:
    (tmp_path / "table.csv").write_text(f"{header}\n{rows}\n")
    arguments = ["--series", str(tmp_path / "dicom"), "--table", str(tmp_path / "table.csv")]
    size = ["--side", str(SIDE), "--millimetres", str(MILLIMETRES)]
    return CliRunner().invoke(APP, [*arguments, "--out", str(tmp_path / "out"), *size, *more])


def crops(tmp_path: Path) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "crops").iterdir())]


def test_the_nodule_is_in_the_middle_in_hounsfield_units(tmp_path: Path) -> None:
    uid = series_with_a_dot(tmp_path / "dicom")
    done = cropped(tmp_path, f"{uid},{COLUMN * 8},{ROW * 8},{PLACE * 5 + 1},4")
    assert done.exit_code == 0, done.output
    (crop,) = crops(tmp_path)
    assert crop.dtype == np.float32
    assert int(crop.argmax()) == SIDE * SIDE // 2
    assert (crop.max(), crop.min()) == (200, -800)
    (line,) = csv.DictReader((tmp_path / "out" / "nodules.csv").read_text().splitlines())
    assert (line["rating"], line["malignant"]) == ("4", "1")
    assert "SECRET" not in line["patient_id"]
    assert uid not in (tmp_path / "out" / "nodules.csv").read_text()


def test_sagittal_slices_are_cut_by_their_own_directions(tmp_path: Path) -> None:
    uid = series_with_a_dot(
        tmp_path / "dicom",
        ImagePositionPatient=lambda place: [5 * place, 10, 300],
        ImageOrientationPatient=lambda _: [0, 1, 0, 0, 0, -1],
    )
    done = cropped(tmp_path, f"{uid},{5 * PLACE},{10 + 8 * COLUMN},{300 - 8 * ROW},2")
    assert done.exit_code == 0, done.output
    (crop,) = crops(tmp_path)
    assert int(crop.argmax()) == SIDE * SIDE // 2


def test_a_crop_shows_the_same_millimetres_and_air_beyond_the_slice(tmp_path: Path) -> None:
    uid = series_with_a_dot(tmp_path / "dicom", PixelSpacing=lambda _: [4, 16])
    corner = cropped(tmp_path, f"{uid},0,0,15,4")
    assert corner.exit_code == 0, corner.output
    (crop,) = crops(tmp_path)
    assert (crop[0, 0], crop[-1, -1]) == (-1000, -800)
    done = cropped(tmp_path, f"{uid},{COLUMN * 16},{ROW * 4},15,4")
    assert done.exit_code == 0, done.output
    # Half as high and twice as wide: the dot is spread over columns, and shares its row with its neighbours.
    assert int(crops(tmp_path)[0].argmax()) // SIDE == SIDE // 2


def test_readers_are_averaged_and_become_what_the_plan_reads(tmp_path: Path) -> None:
    uid = series_with_a_dot(tmp_path / "dicom")
    at = f"{uid},{COLUMN * 8},{ROW * 8},15"
    rows = "\n".join([f"{at},5,4,", f"{at},1,2,1", f"{at},3,,3"])
    header = HEADER.replace("malignancy", "a,b,c").replace("coordX", "left")
    done = cropped(tmp_path, rows, "--column", "malignancy=a+b+c", "--column", "x=left", header=header)
    assert done.exit_code == 0, done.output
    options = {
        "file": tmp_path / "out" / "nodules.csv",
        "columns": {"file": "file", "patient": "patient_id"},
        "label_columns": {"malignant": "malignant"},
        "images": tmp_path / "out" / "crops",
    }
    found = read("csv", options)
    assert [sample.targets["malignant"] for sample in found.samples] == [1.0, 0.0]
    outcome = cropped(tmp_path, f"{at},1", "--outcome")
    assert outcome.exit_code == 0, outcome.output
    assert next(csv.DictReader((tmp_path / "out" / "nodules.csv").read_text().splitlines()))["malignant"] == "1"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1.2.3,0,0,0,4", "its series is not in the folder"),
        ("{uid},0,0,99,4", "no slice of its series lies within one step"),
        ("{uid},-50,0,15,4", "outside of its slice"),
        ("{uid},here,0,15,4", "no number"),
        ("{uid},0,0,15,", "no number"),
    ],
)
def test_what_cannot_be_cut_out_is_named(tmp_path: Path, row: str, said: str) -> None:
    uid = series_with_a_dot(tmp_path / "dicom")
    refused = cropped(tmp_path, row.format(uid=uid))
    assert refused.exit_code == 1
    assert said in " ".join(refused.stderr.split())
    good = f"{uid},{COLUMN * 8},{ROW * 8},15,4"
    allowed = cropped(tmp_path, f"{good}\n{row.format(uid=uid)}", "--most-bad", "0.5")
    assert allowed.exit_code == 0, allowed.output
    assert "1 crops" in allowed.stdout
    assert said in " ".join(allowed.stderr.split())
