"""`radnode workitems`: what was pushed, and of whom only where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from db import schema, workitem_subscriptions, workitems
from db.errors import ConfigError
from db.session import Record
from node.cli.workitems import app
from node.settings import load
from tests.support.workitems import ITEM, as_json, new, pushed


def test_items_are_listed_and_shown_without_their_patient(tmp_path: Path) -> None:
    config = tmp_path / "radnode.toml"
    config.write_text(f'data_dir = "{tmp_path}"\n')
    record = Record(load(config).record_url)
    schema.upgrade(record)
    with record.write() as session:
        assert workitems.create(session, new(ITEM))
        workitem_subscriptions.subscribe(session, ITEM, "WATCHER", lock=False)
    record.close()

    def run(*arguments: str) -> str:
        return CliRunner().invoke(app, [*arguments, "--config", str(config)], catch_exceptions=False).stdout

    (listed,) = json.loads(run("list", "--json"))
    assert (listed["workitem_uid"], listed["state"], listed["created_by"]) == (ITEM, "SCHEDULED", "MANAGER")
    assert json.loads(run("list", "--json", "--state", "COMPLETED")) == []
    shown = json.loads(run("show", ITEM))
    (event,) = shown["events"]
    assert (shown["subscribers"], event["event"], event["state"]) == (["WATCHER"], "STATE_REPORT", "WAITING")
    whole = set(as_json(pushed()))
    hidden = whole - set(shown["attributes"])
    assert {tag for tag in whole if tag.startswith("0010")} < hidden
    # Admission, diagnoses, comments and requests are that patient's, too.
    assert {"00380010", "00380014", "00081080", "00081084", "00400400", "0040A370"} < hidden
    assert set(json.loads(run("show", ITEM, "--patient"))["attributes"]) == whole
    with pytest.raises(ConfigError):
        run("show", "1.2.3")
