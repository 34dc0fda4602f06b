"""The console script: exit statuses and messages, whatever click Typer brings along."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from node.cli.main import run


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
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
        (("bench",), 3, "not in this release"),
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
