"""`radnode audit`: what a person and a script see of the trail, and what they see once somebody has changed it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from lxml import etree
from sqlalchemy import text
from typer.testing import CliRunner

from db import audit, audit_chain, schema
from db.errors import ConfigError
from db.session import Record
from node.audit import anchors
from node.cli.audit import app
from node.settings import load
from tests.support.audit_message import validated


@dataclass
class Trail:
    folder: Path
    record: Record

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(self.folder / "radnode.toml")])

    def seal(self) -> audit_chain.Head:
        with self.record.write() as session:
            return audit_chain.seal(session)[1]

    def verdict(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        result = self.run("verify", "--json", *arguments)
        return result.exit_code, json.loads(result.stdout)

    def tamper(self, trigger: str, statement: str) -> None:
        with self.record.engine.begin() as connection:
            connection.execute(text(f"DROP TRIGGER {trigger}"))
            connection.execute(text(statement))


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    config = tmp_path / "radnode.toml"
    config.write_text(f'data_dir = "{tmp_path}"\n[audit]\nsite = "Hospital 7"\n')
    record = Record(load(config).record_url)
    schema.upgrade(record)
    with record.write() as session:
        for number in range(5):
            audit.note(session, "study_viewed", actor="anna", subject=f"1.2.{number}", address="10.0.0.7")
        audit.note(session, "login", actor="bert", outcome="failure")
    yield Trail(tmp_path, record)
    record.close()


def test_a_trail_that_holds(trail: Trail) -> None:
    end = trail.seal()
    status, told = trail.verdict()
    assert status == 0
    assert (told["intact"], told["rows"], told["waiting"], told["position"]) == (True, 6, 0, 6)
    assert told["digest"] == end.digest
    told_to_people = trail.run("verify")
    assert told_to_people.exit_code == 0
    assert f"6:{end.digest}" in told_to_people.stdout
    assert trail.verdict("--anchor", f"6:{end.digest}")[0] == 0


def test_the_first_broken_row_is_named(trail: Trail) -> None:
    trail.seal()
    trail.tamper("audit_no_update", "UPDATE audit SET actor = 'nobody' WHERE id IN (3, 5)")
    status, told = trail.verdict()
    assert status == 1
    assert (told["intact"], told["first_broken"], told["rows"]) == (False, 3, 2)
    told_to_people = trail.run("verify")
    assert told_to_people.exit_code == 1
    assert "place 3 (audit id 3)" in told_to_people.stderr


def test_an_end_that_was_cut_off_is_seen_by_the_anchors(trail: Trail) -> None:
    end = trail.seal()
    settings = load(trail.folder / "radnode.toml")
    anchors.add(anchors.anchor_file(settings), end)
    trail.tamper("audit_chain_no_delete", "DELETE FROM audit_chain WHERE position = 6")
    trail.tamper("audit_no_delete", "DELETE FROM audit WHERE id = 6")
    status, told = trail.verdict()
    assert status == 1
    assert told["first_broken"] == 6
    assert "cut off" in told["problem"]
    anchors.anchor_file(settings).unlink()
    assert trail.verdict()[0] == 0, "nothing in the database itself tells"
    assert trail.verdict("--anchor", f"6:{end.digest}")[0] == 1


def test_an_anchor_file_that_was_changed_is_said(trail: Trail) -> None:
    settings = load(trail.folder / "radnode.toml")
    path = anchors.anchor_file(settings)
    anchors.add(path, trail.seal())
    anchors.add(path, trail.seal())
    path.write_text(path.read_text() + '{"position": 7, "dig')
    assert len(anchors.read(path)) == 2, "a power cut may leave half a line"
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(ConfigError, match="line 1"):
        anchors.read(path)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 6),
        (["--event", "login", "--event", "logout"], 1),
        (["--actor", "anna"], 5),
        (["--subject", "1.2.3"], 1),
        (["--outcome", "failure"], 1),
        (["--since", "2100-01-01"], 0),
        (["--until", "2100-01-01T00:00:00+02:00"], 6),
        (["--limit", "2"], 2),
    ],
)
def test_what_is_listed(trail: Trail, filters: list[str], count: int) -> None:
    result = trail.run("list", "--json", *filters)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)) == count
    # Reading the trail is on it.
    used = json.loads(trail.run("list", "--json", "--event", "audit_used").stdout)
    assert [one["actor"] for one in used] == ["command line"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("list", "--event", "no_such"),
        ("list", "--since", "yesterday"),
        ("list", "--outcome", "fine"),
        ("export", "--format", "pdf"),
        ("verify", "--anchor", "6:abc"),
    ],
)
def test_what_cannot_be_asked_is_said(trail: Trail, wrong: tuple[str, ...]) -> None:
    result = trail.run(*wrong)
    assert isinstance(result.exception, ConfigError)


def test_exported_lines_hold_all_it_takes_to_compute_the_chain_anew(trail: Trail) -> None:
    end = trail.seal()
    target = trail.folder / "trail.jsonl"
    assert trail.run("export", "--out", str(target)).exit_code == 0
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["position"] for line in lines] == [1, 2, 3, 4, 5, 6, None], "the last one is the export itself"
    previous = "0" * 64
    for line in lines[:6]:
        entry = audit.Entry(**{**line, "at": datetime.fromisoformat(line["at"])})
        previous = audit_chain.digest(previous, line["position"], entry)
        assert previous == line["digest"]
    assert previous == end.digest
    again = trail.run("export", "--out", str(target))
    assert isinstance(again.exception, ConfigError)


def test_exported_messages_are_those_of_the_standard(trail: Trail) -> None:
    trail.seal()
    result = trail.run("export", "--format", "xml", "--actor", "anna")
    assert result.exit_code == 0
    messages = etree.fromstring(result.stdout.encode())
    assert len(messages) == 5
    for message in messages:
        found = validated(etree.tostring(message).decode().strip())
        assert found.find("AuditSourceIdentification").get("AuditEnterpriseSiteID") == "Hospital 7"  # type: ignore[union-attr]
