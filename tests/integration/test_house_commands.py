"""Deleting, backing up and checking, as a person types it; and what doctor says of the house."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from db import schema
from node import storage
from node.cli.aside import quarantine_app
from node.cli.house import backup_app, record_app
from node.cli.lists import studies_app
from tests.support.house import age, delivered_study, files_below, incoming_image, stored_image
from tests.support.node import Node
from tests.support.records import STUDY, receive
from workers.doctor import examine

REASON = ("--reason", "asked for by the department")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "node", "[limits]\nmin_free_bytes = 0\n[retention]\nearly_below_bytes = 0\n")
    with made.record() as record:
        schema.upgrade(record)
    return made


def typed(node: Node, app: Typer, *arguments: str) -> Result:
    """A command in this process: starting Python for each takes longer than the test."""
    return CliRunner().invoke(app, [*arguments, "--config", str(node.config)])


def finding(node: Node, check: str) -> str:
    found = examine(node.config, with_models=False)
    return next((one.detail for one in found if one.check == check), "")


def events(node: Node) -> set[tuple[str, str, str]]:
    return {(one["event"], one["subject"], one["detail"].get("reason", "")) for one in node.json("audit", "list")}


def test_a_person_deletes_studies_and_what_was_set_aside(node: Node) -> None:
    with node.record() as record:
        first, second = (delivered_study(record, node.data_dir, number) for number in (1, 2))
        foreign = stored_image(node.data_dir, 3, second, patient_id="ID-2")
        receive(record, foreign)
    assert typed(node, studies_app, "delete", first).exit_code == 2
    refused = node.run("studies", "delete", second, *REASON, check=False)
    assert (refused.returncode, "images wait for a person" in refused.stderr) == (1, True)
    assert "is deleted" in node.run("studies", "delete", first, *REASON).stderr
    assert typed(node, quarantine_app, "delete", foreign.sop_instance_uid, *REASON).exit_code == 0
    assert typed(node, quarantine_app, "delete", foreign.sop_instance_uid, *REASON).exit_code == 1
    assert {row["study_instance_uid"]: row["state"] for row in node.json("studies")}[first] == "DELETED"
    assert len(files_below(node.data_dir)) == 2
    assert {("study_deleted", first, REASON[1]), ("instances_deleted", second, REASON[1])} <= events(node)


def test_the_check_tells_what_is_missing_damaged_and_unnamed(node: Node, tmp_path: Path) -> None:
    with node.record() as record:
        for number in (1, 2):
            delivered_study(record, node.data_dir, number)
    checked = typed(node, record_app, "check", "--digests")
    assert (checked.exit_code, checked.stdout.startswith("4 files named, 0 missing, 0 damaged")) == (0, True)
    first, second = (incoming_image(node.data_dir, number, f"{STUDY}.{number}") for number in (1, 2))
    (node.data_dir / first[1].path).unlink()
    bent = node.data_dir / second[1].path
    bent.write_bytes(bent.read_bytes()[:-1] + b"?")
    lost, young = (stored_image(node.data_dir, number, f"{STUDY}.{number}").path for number in (8, 9))
    age(node.data_dir, {lost}, days=1)
    assert typed(node, record_app, "check").exit_code == 1
    checked = typed(node, record_app, "check", "--digests")
    told = [line.split()[0::2] for line in checked.stdout.splitlines()[1:]]
    assert checked.exit_code == 1
    assert told == [["missing", f"{STUDY}.1.1"], ["damaged", f"{STUDY}.1.2"], ["unnamed"]]
    # An image has its file a moment before its row.
    assert (lost in checked.stdout, young in checked.stdout) == (True, False)
    # Sent again, what was missing or damaged is back where it was.
    for temp, new in (first, second):
        storage.adopt(node.data_dir, temp, Path(new.path))
    assert typed(node, record_app, "check", "--digests").exit_code == 0
    # Nothing of this is in a backup that is made now, and it says so where something is missing.
    (node.data_dir / first[1].path).unlink()
    assert typed(node, backup_app, str(tmp_path / "copy")).exit_code == 1
    assert len(files_below(tmp_path / "copy")) == 3


def test_doctor_tells_of_the_disk_and_of_quarantine(node: Node) -> None:
    with node.record() as record:
        uid = delivered_study(record, node.data_dir, 1)
        receive(record, stored_image(node.data_dir, 3, uid, patient_id="ID-2"))
    assert finding(node, "quarantine") == finding(node, "disk low") == ""
    many = 1 << 60
    node.write_settings(f"[retention]\naside_max_bytes = 400\nearly_below_bytes = {many}\nearly_until_bytes = {many}\n")
    assert "of 400 bytes are taken" in finding(node, "quarantine")
    assert "less than retention.early_below_bytes" in finding(node, "disk low")
