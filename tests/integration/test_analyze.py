"""`radnode analyze`: files in, reports out, no service, no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom import dcmread

from tests.support.shared import shared_dicom


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli.main", "analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A positive, a negative, a lateral by its header, and a text file that is no DICOM."""
    folder = tmp_path_factory.mktemp("in")
    for name in ("cxr_wrapped/wrap_09_pneumonia.dcm", "cxr_wrapped/wrap_02_normal.dcm", "cxr/nih_udacity_test6.dcm"):
        shutil.copy(shared_dicom() / name, folder)
    (folder / "readme.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "results"
    done = analyze(folder, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "result.json").read_text())
    return out


def entries(out: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((out / "result.json").read_text())
    return {Path(entry["file"]).name: entry for entry in document["files"]}


def test_every_file_has_an_outcome_and_a_reason(out: Path) -> None:
    found = entries(out)
    assert found["wrap_09_pneumonia.dcm"]["outcome"] == "analysed"
    assert found["nih_udacity_test6.dcm"]["outcome"] == "not analysed"
    assert found["nih_udacity_test6.dcm"]["reason"] == "view not stated"
    assert found["readme.txt"]["outcome"] == "refused"
    assert found["readme.txt"]["reason"]


def test_objects_lie_beside_renderings_anybody_can_open(out: Path) -> None:
    results = entries(out)["wrap_09_pneumonia.dcm"]["results"]
    assert [result["kind"] for result in results] == ["SR", "SC"]
    report, picture = (dcmread(out / result["file"]) for result in results)
    assert report.Modality == "SR"
    assert "<html" in (out / results[0]["rendering"]).read_text()
    with Image.open(out / results[1]["rendering"]) as image:
        assert image.size == (picture.Columns, picture.Rows)
    study = dcmread(shared_dicom() / "cxr_wrapped/wrap_09_pneumonia.dcm", stop_before_pixels=True).StudyInstanceUID
    assert report.StudyInstanceUID == picture.StudyInstanceUID == study


def test_a_second_run_into_the_folder_gives_the_same_bytes(folder: Path, out: Path) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert analyze(folder, "--out", out).returncode == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_nothing_readable_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert analyze(tmp_path / "a.txt", "--out", tmp_path / "out").returncode == 1


def test_an_unknown_model_is_named_with_those_there_are(folder: Path, tmp_path: Path) -> None:
    done = analyze(folder, "--out", tmp_path / "out", "--model", "nothing")
    assert done.returncode == 1
    assert "cxr-pneumonia" in done.stderr
    assert not (tmp_path / "out").exists()
