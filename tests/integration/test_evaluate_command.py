"""`radnode evaluate` on small networks and pictures: label files of several shapes in, JSON and a page out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from models.evaluation.cli import app
from tests.support.bundles import document, working_bundle, write_manifest

pytestmark = pytest.mark.tensorflow

PER_CELL = 12
HEADER = "file,source,patient,label,licence,view,sex,age"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    working_bundle(folder / "bundle")
    random = np.random.default_rng(1)
    (folder / "images").mkdir()
    lines = [HEADER]
    for source in ("a", "b<i>"):
        for label in ("normal", "Pneumonia"):
            for number in range(PER_CELL):
                name = f"{source[0]}_{label}_{number}.png"
                picture = random.integers(0, 256, (70, 90)).astype(np.uint8)
                Image.fromarray(picture).save(folder / "images" / name)
                lines.append(f"{name},{source},{label}{number // 2},{label},CC0,AP,{'MF'[number % 2]},{30 + number}")
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    # The first is there as a PNG, which another row names.
    lines += ["a_normal_0.jpg,a,s,normal,CC0,AP,,", "broken.png,a,q,normal,CC0,AP,,", "gone.png,a,r,normal,CC0,AP,,"]
    lines += [f"covid{number}.png,b<i>,c{number},covid,CC0,AP,," for number in range(3)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(root / "cache"))


def evaluated(root: Path, *more: str, bundle: str = "bundle", labels: str = "labels.csv") -> Result:
    arguments = [str(root / bundle), "--labels", str(root / labels), "--images", str(root / "images")]
    return CliRunner().invoke(app, [*arguments, "--resamples", "20", *more])


def document_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_what_is_judged_and_what_is_not(root: Path) -> None:
    found = document_of(evaluated(root, "--json"))
    assert (found["images"], found["skipped"]) == (4 * PER_CELL, {"covid": 3})
    assert [entry["file"] for entry in found["unreadable"]] == ["a_normal_0.jpg", "broken.png", "gone.png"]
    assert set(found["sources"]) == {"a", "b<i>"}
    label = found["sources"]["a"]["labels"]["pneumonia"]
    assert (label["images"], label["positive_images"], sum(label["confusion"].values())) == (24, 12, 24)
    # Of effusion the file says only that normal images have none.
    other = found["sources"]["a"]["labels"]["effusion"]
    assert (other["images"], other["positive_images"], other["auroc"]["value"]) == (12, 0, None)
    assert other["specificity"]["value"] is not None
    assert set(found["source_test"]["from_border"]) == {"all images", "negative images"}


def test_what_one_class_cannot_give_is_said_and_the_rest_given(root: Path) -> None:
    rows = [line for line in (root / "labels.csv").read_text().splitlines() if ",Pneumonia," in line]
    (root / "ill.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    found = document_of(evaluated(root, "--json", labels="ill.csv"))
    label = found["all_images"]["labels"]["pneumonia"]
    assert (label["auroc"]["value"], label["specificity"]["value"]) == (None, None)
    assert label["sensitivity"]["value"] is not None
    assert "no negative one: no specificity" in found["not_computed"][0]["why"]
    assert "Not computed: a, pneumonia" in evaluated(root, labels="ill.csv").stdout


def test_what_a_file_calls_its_labels_is_printed_as_it_stands(root: Path) -> None:
    rows = (root / "labels.csv").read_text().replace(",covid,", ",[red]x :smile:\x1b,").replace(",a,", ",[b]a,")
    (root / "odd.csv").write_text(rows)
    done = evaluated(root, labels="odd.csv")
    assert done.exit_code == 0, done.output
    assert "labelled [red]x :smile:?," in done.stdout
    assert "[b]a" in done.stdout
    assert "all images together" in done.stdout


def test_rows_that_say_nothing_are_counted_however_many(root: Path) -> None:
    lines = (root / "labels.csv").read_text().splitlines()
    emptied = [line.replace(",Pneumonia,", ",nan,") if "_0.png" in line else line for line in lines]
    (root / "some.csv").write_text("\n".join([*emptied, lines[1]]) + "\n")
    found = document_of(evaluated(root, "--json", labels="some.csv"))
    assert found["left_out"] == {"rows": 3, "unreadable": 3, "refused_by_gate": 0}


def test_predictive_values_are_those_of_the_prevalences_asked_for(root: Path) -> None:
    found = document_of(evaluated(root, "--json", "--prevalence", "0.01"))
    names = {name for name in found["sources"]["a"] if "prevalence" in name}
    assert names == {"ppv_at_prevalence_0.01", "npv_at_prevalence_0.01"}


def test_thresholds_are_the_bundles_own(root: Path) -> None:
    points = document_of(evaluated(root, "--json"))["operating_points"]
    assert [(point["label"], point["threshold"]) for point in points] == [("pneumonia", 0.5), ("effusion", 0.6)]


def test_the_page_is_written_and_shows_the_errors(root: Path) -> None:
    page = root / "report.html"
    done = evaluated(root, "--html", str(page), "--pictures", "1")
    assert done.exit_code == 0, done.output
    assert "Skipped: 3 images labelled covid" in done.stdout
    text = page.read_text()
    assert "b&lt;i&gt;" in text
    assert "<i>" not in text
    assert text.count('<img src="data:image/png;base64,') >= 1


def test_a_model_compared_with_itself_differs_by_nothing(root: Path) -> None:
    found = document_of(evaluated(root, "--json", "--against", str(root / "bundle")))["comparison"]
    assert found["images"] == 4 * PER_CELL
    assert found["mean_of_sources"]["labels"]["pneumonia"]["auroc"] == {"value": 0, "low": 0, "high": 0, "p": 1}
    assert found["sources"]["a"]["delong"]["pneumonia"]["p"] == 1


def test_exclusive_bundles_are_judged_as_one_decision(root: Path) -> None:
    folder = root / "exclusive"
    if not folder.exists():
        working_bundle(folder)
        manifest = document(folder)
        manifest |= {"exclusive": True, "calibration": {"method": "temperature", "temperature": 2.0}}
        manifest["labels"][1] |= {"key": "normal", "display": "Normal"}
        manifest["operating_points"][1]["label"] = "normal"
        write_manifest(folder, manifest)
    page = root / "exclusive.html"
    found = document_of(evaluated(root, "--json", "--html", str(page), bundle="exclusive"))
    assert found["exclusive"] is True
    for part in found["sources"].values():
        table = np.array(part["classes"]["confusion"])
        assert table.sum(axis=1).tolist() == [PER_CELL, PER_CELL]
        assert part["classes"]["top1_accuracy"]["value"] == pytest.approx(np.trace(table) / table.sum(), abs=1e-4)
    assert "Confusion matrix" in page.read_text()


def test_several_labels_in_a_cell(root: Path) -> None:
    names = sorted(path.name for path in (root / "images").glob("a_*.png"))
    cells = ["Pneumonia|Pleural effusion", "Pleural effusion|hernia", "hernia", "No Finding"]
    rows = [f"{name},a,{index},{cells[index % 4]},,,," for index, name in enumerate(names)]
    (root / "several.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    found = document_of(evaluated(root, "--json", "--option", "separator=|", labels="several.csv"))
    labels = found["sources"]["a"]["labels"]
    assert [labels[key]["positive_images"] for key in ("pneumonia", "effusion")] == [6, 12]
    assert [labels[key]["images"] for key in ("pneumonia", "effusion")] == [24, 24]


def test_only_the_part_of_the_split_is_judged(root: Path) -> None:
    (root / "split.csv").write_text(
        "file,split\na_normal_0.png,test\na_Pneumonia_0.png,test\na_Pneumonia_1.png,train\n"
    )
    assert document_of(evaluated(root, "--json", "--split-file", str(root / "split.csv")))["images"] == 2
    # Named as a table of another machine names them.
    (root / "split.csv").write_text("file,split\ndata/a_normal_0.PNG,test\na_Pneumonia_0.jpg,test\n")
    assert document_of(evaluated(root, "--json", "--split-file", str(root / "split.csv")))["images"] == 2


def test_maps_are_tested_beside_what_chance_would_score(root: Path) -> None:
    shutil.copytree(root / "bundle", root / "eager")
    manifest = document(root / "eager")
    for point in manifest["operating_points"]:
        point |= {"threshold": 0.01, "undetermined_low": None, "undetermined_high": None}
    write_manifest(root / "eager", manifest)
    (root / "boxes.csv").write_text("Image Index,Finding Label,x,y,w,h\na_Pneumonia_0.png,Pneumonia,0,0,45,70\n")
    page = root / "maps.html"
    more = ("--boxes", str(root / "boxes.csv"), "--explain", "2", "--html", str(page), "--pictures", "0")
    found = document_of(evaluated(root, "--json", *more, bundle="eager"))["explanations"]
    located = found["localisation"]["labels"]["pneumonia"]
    assert located["pairs"] == 1
    assert located["pointing_game"]["box_area"]["value"] == pytest.approx(0.5, abs=0.01)
    assert {"map", "random_map", "box_area", "image_centre"} == set(located["pointing_game"])
    curves = found["deletion_and_insertion"]
    assert 0 < curves["images"] <= 2
    assert all(0 < curves[name][method]["value"] < 1 for name in ("deletion", "insertion") for method in curves[name])
    test = found["weight_randomisation"]
    layers = [one["layer"] for one in test["layers"]]
    assert layers[0] == "logits"
    assert len(set(layers)) == len(layers) > 10
    assert all(-1 <= one["correlation"] <= 1 and -1 <= one["ssim"] <= 1 for one in test["layers"])
    assert abs(test["layers"][-1]["correlation"]) < 0.9
    assert test["random_map"]["ssim"] < 0.9
    assert "Pointing game" in page.read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--label", "hernia"), "has no label hernia"),
        (("--prevalence", "1.5"), "between 0 and 1"),
        (("--option", "separator"), "not NAME=VALUE"),
        (("--part", "validation"), "no image is in the part"),
        (("--kind", "unheard-of"), "are unknown"),
        (("--against", "no-such-model"), "no model"),
        (("--html", "/no/such/folder/report.html"), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(root: Path, more: tuple[str, ...], message: str) -> None:
    done = evaluated(root, *more)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_a_label_file_that_is_not_there(root: Path) -> None:
    done = evaluated(root, labels="none.csv")
    assert done.exit_code == 1
    assert "there is no label file" in done.stderr
