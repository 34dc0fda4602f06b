"""`make models`: every recipe has its data folder, and what lacks data says what."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from models.recipes import PLANS, RECIPES
from models.recipes.__main__ import FOLDERS, main, missing, train_command

APP = Typer()
APP.command()(main)


def test_every_recipe_knows_where_its_data_lie() -> None:
    assert set(FOLDERS) == {*PLANS, *RECIPES}


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "weights").mkdir()
    lacking = missing(name, tmp_path / "data", tmp_path / "weights")
    assert lacking
    assert all(path.startswith(str(tmp_path)) for path in lacking)
    for path in lacking:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert missing(name, tmp_path / "data", tmp_path / "weights") == []


def test_without_data_nothing_fails_and_everything_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(APP, ["--data", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.count(": not made: there is no ") == len(FOLDERS)
    assert CliRunner().invoke(APP, ["--data", str(tmp_path), "--only", "nothing"]).exit_code == 2


def test_each_is_made_by_the_command_a_person_types(tmp_path: Path) -> None:
    plain = train_command("mr-tumour", tmp_path / "mr2d", tmp_path / "weights", Path("runs"))
    assert plain[:2] == ["train", "mr-tumour"]
    assert plain[-2:] == ["--out", "runs/mr-tumour"]
    shipped = train_command("cxr-pneumonia", tmp_path / "cxr", tmp_path / "weights", Path("runs"))
    assert shipped[-2:] == ["--out", "runs/cxr-pneumonia/bundles/cxr-pneumonia"]
