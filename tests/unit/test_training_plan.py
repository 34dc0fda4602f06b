"""Plans: every shipped one parses, faults are named, paths land in the folders given."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import backbones
from models.errors import DatasetError
from models.recipes import PLANS, RECIPES, plan_of
from models.training.plan import Changes, Folders, loader_options, read_plan
from models.training.recipe import Augment
from tests.support.plans import PLAN, written


@pytest.mark.parametrize("name", PLANS)
def test_every_shipped_plan_parses_and_scales_as_its_backbone_wants(name: str) -> None:
    plan, _ = read_plan(plan_of(name))
    assert plan.steps[-1].model_dump()["convention"] == backbones.info(plan.network.backbone).convention
    assert plan.bundle.id == name
    assert plan.bundle.limits


def test_the_shipped_plans_are_those_promised() -> None:
    slices = {"ct-covid", "mr-tumour", "lung-nodule"}
    assert set(PLANS) == {"cxr-covid", "cxr14", "pneumoniamnist", "ct-covid-series"} | slices
    assert not set(PLANS) & set(RECIPES)


def test_chest_findings_carry_their_codes_and_doubtful_ones_say_so() -> None:
    labels = {label.key: label for label in read_plan(plan_of("cxr14"))[0].bundle.labels}
    assert len(labels) == 14
    assert labels["pneumothorax"].code.value == "36118008"
    assert labels["infiltration"].code.scheme == "DCM"
    assert not labels["pleural_thickening"].code_verified


@pytest.mark.parametrize("name", ["lung-nodule", "ct-covid-series"])
def test_the_untrained_plans_say_so(name: str) -> None:
    plan, text = read_plan(plan_of(name))
    assert "UNTRAINED" in plan.bundle.limits[0]
    assert text.startswith("# UNTRAINED")


def test_the_plan_of_series_says_which_it_takes() -> None:
    plan, _ = read_plan(plan_of("ct-covid-series"))
    assert plan.input.series_rules is not None
    assert (plan.input.slices, plan.input.series_rules.min_slices) == (24, 24)
    assert read_plan(plan_of("ct-covid"))[0].input.series_rules is None


def test_only_plans_of_slices_without_a_side_mirror_them() -> None:
    assert not Augment().horizontal_flip
    mirrored = {name for name in PLANS if read_plan(plan_of(name))[0].augment.horizontal_flip}
    assert mirrored.isdisjoint({"cxr14", "cxr-covid", "pneumoniamnist"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training": {"speed": 3}}, "training.speed"),
        ({"network": {"backbone": "resnet9000"}}, "resnet9000"),
        ({"data": {"kind": "excel"}}, "kind excel"),
        ({"input": {"side": 16}}, "no less than 32"),
        ({"input": {"slices": 1}}, "0 for single images, or 2 and more"),
        ({"input": {"series": {"min_slices": 4}}}, "series belongs to slices"),
        ({"input": {"window": {"mode": "fixed"}}}, "'center' and 'width'"),
        ({"input": {"windows": [[-600, 1500], [40, 400]]}}, "windows are 3"),
        ({"input": {"windows": [[40, 400]] * 3, "normalise": {}}}, "take the place of window"),
        ({"input": {"windows": [[40, 0]] * 3}}, "input.windows"),
        ({"training": {"loss": {"name": "bce", "gamma": 2.0}}}, "bce does not take gamma"),
        ({"training": {"head": {"epochs": 0}, "finetune": {"epochs": 0}}}, "no phase has an epoch"),
        ({"training": {"members": 3}}, "set refit_penalty"),
        ({"bundle": {"urgent": ["fracture"]}}, "fracture"),
        ({"data": {"options": {"labels": ["x"]}}}, "bundle.labels"),
        ({"network": {"weights": {"path": "a.npz", "sha256": "123"}}}, "sha256"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_plan(written(tmp_path, change))


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[data\n")
    with pytest.raises(DatasetError, match=r"a\.toml is no readable TOML"):
        read_plan(tmp_path / "a.toml")
    with pytest.raises(DatasetError, match=r"b\.toml is no readable TOML"):
        read_plan(tmp_path / "b.toml")


def test_paths_are_below_the_data_folder_and_names_are_left_alone(tmp_path: Path) -> None:
    plan, _ = read_plan(plan_of("cxr14"))
    options = loader_options(plan, tmp_path, plan.data.every_set[0])
    assert options["file"] == tmp_path / "Data_Entry_2017.csv"
    assert options["test_list"] == tmp_path / "test_list.txt"
    assert options["images"] == tmp_path / "images"
    assert options["rename"]["Hernia"] == "hernia"
    assert options["labels"][0] == "atelectasis"


def test_reading_a_plan_loads_no_tensorflow() -> None:
    script = (
        "import sys, json; from models.training.plan import read_plan; from models.recipes import plan_of; "
        "read_plan(plan_of('cxr14')); print(json.dumps('tensorflow' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) is False


def test_the_sample_plan_itself_is_sound(tmp_path: Path) -> None:
    plan, _ = read_plan(written(tmp_path, {}))
    assert plan.training.seed == PLAN["training"]["seed"]


def test_a_run_may_change_settings_and_do_without_a_label(tmp_path: Path) -> None:
    changes = Changes(("training.batch = 3", 'network.weights = "none"'), ("hernia",))
    plan, text = read_plan(plan_of("cxr14"), changes)
    written_plan, written_text = read_plan(plan_of("cxr14"))
    assert (plan.training.batch, plan.network.weights) == (3, "none")
    assert plan.training.accumulate == written_plan.training.accumulate
    assert plan.bundle.keys == tuple(key for key in written_plan.bundle.keys if key != "hernia")
    # The run's copy of the plan says what was changed, and can still be read as one.
    (tmp_path / "copy.toml").write_text(text)
    assert text.startswith(written_text)
    assert "# changed for this run, set: training.batch = 3\n" in text
    assert read_plan(tmp_path / "copy.toml")[0] == written_plan


@pytest.mark.parametrize(
    ("written_plan", "told"),
    [
        ("bundle = 3", "bundle: "),
        ("bundle = [1]", "bundle: "),
        ("[bundle]\nlabels = 3", "effusion cannot be left out"),
        ("[bundle]\nurgent = 3\n[[bundle.labels]]\nkey = 'effusion'", "bundle.urgent: "),
        ("data = 3\n[bundle]\n[[bundle.labels]]\nkey = 'effusion'", "data: "),
        ("[data]\nsets = [3, { labels = 3 }]\n[bundle]\n[[bundle.labels]]\nkey = 'effusion'", "data.sets.1.labels: "),
    ],
)
def test_leaving_out_a_label_of_a_plan_of_another_shape_names_the_fault(
    tmp_path: Path, written_plan: str, told: str
) -> None:
    (tmp_path / "odd.toml").write_text(written_plan)
    with pytest.raises(DatasetError, match=re.escape(told)):
        read_plan(tmp_path / "odd.toml", Changes(leave_out=("effusion",)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (Changes(("training.batch",)), "no setting as TOML writes it"),
        (Changes(("training.epochs = 3",)), "training.epochs"),
        (Changes(leave_out=("herpes",)), "herpes cannot be left out"),
    ],
)
def test_a_change_that_fits_nothing_is_refused(changes: Changes, told: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(told)):
        read_plan(plan_of("cxr14"), changes)


def labels_of(folder: Path, rows: str) -> None:
    folder.mkdir()
    (folder / "labels.csv").write_text("file,source,patient,label\n" + rows)
    for row in rows.splitlines():
        (folder / row.partition(",")[0]).write_bytes(b"")


TWO_SETS: dict[str, Any] = {
    "kind": "",
    "options": {},
    "sets": [
        {"kind": "labels-csv", "folder": "one", "options": {"file": "one/labels.csv", "exclusive": False}},
        {
            "kind": "labels-csv",
            "folder": "two",
            "source": "two",
            "options": {"file": "two/labels.csv", "exclusive": False},
        },
    ],
}


def test_several_sets_of_a_plan_become_one_and_keep_their_sources(tmp_path: Path) -> None:
    from models.training.data import read_data  # noqa: PLC0415

    labels_of(tmp_path / "one", "a.png,here,1,pneumonia\nb.png,here,2,normal\n")
    labels_of(tmp_path / "two", "a.png,here,1,normal\nb.png,there,1,pneumonia\n")
    plan, _ = read_plan(written(tmp_path, {"data": TWO_SETS}))
    found = read_data(plan, Folders(tmp_path, tmp_path))
    assert [(s.file, s.source, s.patient, s.targets["pneumonia"]) for s in found.samples] == [
        ("one/a.png", "here", "1", 1.0),
        ("one/b.png", "here", "2", 0.0),
        ("two/a.png", "two", "here|1", 0.0),
        ("two/b.png", "two", "there|1", 1.0),
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"sets": TWO_SETS["sets"]}, "give kind and options of one set, or"),
        ({"kind": "", "options": {}}, "give kind and options of one set, or"),
        ({**TWO_SETS, "sets": [{"kind": "unheard-of"}]}, "is none of"),
        ({**TWO_SETS, "sets": [{"kind": "labels-csv", "labels": ["hernia"]}]}, "a set has hernia"),
    ],
)
def test_sets_that_do_not_fit_are_told(tmp_path: Path, data: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_plan(written(tmp_path, {"data": data}))


def test_a_label_is_left_out_of_the_sets_that_name_it(tmp_path: Path) -> None:
    first, second = TWO_SETS["sets"]
    labels = [PLAN["bundle"]["labels"][0], {**PLAN["bundle"]["labels"][0], "key": "effusion"}]
    sets = [{**first, "labels": ["pneumonia", "effusion"]}, second]
    config = written(tmp_path, {"data": {**TWO_SETS, "sets": sets}, "bundle": {"labels": labels}})
    plan, _ = read_plan(config, Changes(leave_out=("effusion",)))
    assert [one.labels for one in plan.data.every_set] == [("pneumonia",), ()]
    only = written(
        tmp_path,
        {"data": {**TWO_SETS, "sets": [{**first, "labels": ["effusion"]}, second]}, "bundle": {"labels": labels}},
    )
    with pytest.raises(DatasetError, match="a set has effusion"):
        read_plan(only, Changes(leave_out=("effusion",)))
