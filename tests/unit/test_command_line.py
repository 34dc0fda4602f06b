"""The console script: exit statuses and messages, whatever click Typer brings along."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from db.errors import ConfigError
from node.cli.common import show
from node.cli.main import run
from node.files import find_files


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # A command sets up the logging of its process, which here is everybody's.
    monkeypatch.setattr("node.logs.configure_command", lambda: None)
    for name in [name for name in os.environ if name.upper().startswith("RADNODE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("echo", "--help"), 0, "C-ECHO a peer"),
        (("studies", "--json"), 0, "[]"),
        (("retry", "--job", "none"), 1, "0 parked jobs"),
        (("echo",), 2, "Missing argument"),
        (("echo", "nobody"), 2, "neither a peer"),
        (("studies", "--colour"), 2, "No such option"),
        (("config", "check", "--config", "/nowhere.toml"), 2, "no settings file"),
        (("sudies",), 2, "No such command"),
        (("federate", "hub"), 3, "not in this release"),
        (("bench", "infer", "--help"), 0, "--rounds"),
    ],
)
def test_each_outcome_has_its_status(
    arguments: tuple[str, ...],
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["radnode", *arguments])
    with pytest.raises(SystemExit) as ended:
        run()
    shown = capsys.readouterr()
    assert told in shown.out + shown.err
    assert "Traceback" not in shown.err
    assert (ended.value.code or 0) == status


def test_the_overview_lists_the_commands_without_the_inner_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["radnode", "--help"])
    with pytest.raises(SystemExit):
        run()
    told = capsys.readouterr().out
    assert "serve" in told
    assert "keeper" not in told


def test_what_a_peer_sent_is_no_markup_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"a": "[bold]x[/bold] :key: [/]", "b": "\x1b[2Jy"}], ["a", "b"], False, "none")
    told = capsys.readouterr().out
    assert "[bold]x[/bold] :key: [/]" in told
    assert "\x1b" not in told


def test_paths_with_brackets_are_told_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("[red]a").mkdir()
    Path("[red]a/note.txt").write_text("not DICOM")
    monkeypatch.setattr(sys, "argv", ["radnode", "send", "[red]a", "--to", "X@127.0.0.1:9"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 1
    assert "[red]a/note.txt: " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["radnode", "config", "check"])
    monkeypatch.setenv("RADNODE_DATA_DIR", "[red]b")
    with pytest.raises(SystemExit):
        run()
    assert "[red]b" in capsys.readouterr().out


def test_files_are_found_once_in_a_stable_order(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    files = [tmp_path / "a", tmp_path / "b" / "c" / "d"]
    for file in files:
        file.write_text("x")
    assert find_files([tmp_path, files[0], tmp_path / "b"]) == files
    with pytest.raises(ConfigError, match="no file"):
        find_files([tmp_path / "gone"])
