"""Results on their way to peers that are away, that refuse, that forget, or that know only older report classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.dcmtk import storescp, storescu
from tests.support.node import Node, peer_toml, running_node
from tests.support.orthanc import orthanc
from tests.support.peers import EnhancedOnly, forgetful_archive
from tests.support.processes import free_port
from tests.support.shared import shared_dicom

pytestmark = pytest.mark.e2e

POSITIVE = "wrap_06_pneumonia.dcm"
QUICK = """
[delivery]
backoff_first_s = 0.2
backoff_max_s = 1.0
max_attempts = {attempts}
circuit_open_s = 0.5
connect_timeout_s = 2.0
commitment_grace_s = 0.5
"""
ROUTE = """
[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = [{destinations}]
mode = "instance"
match = {{ modality = ["CR", "DX"] }}
"""


def settings(peers: str, destinations: str = '"archive"', attempts: int = 50) -> str:
    return QUICK.format(attempts=attempts) + peers + ROUTE.format(destinations=destinations)


def send(node: Node, name: str = POSITIVE) -> Path:
    file = shared_dicom() / "cxr_wrapped" / name
    assert storescu(node.dicom_port, file).returncode == 0
    return file


@pytest.fixture
def port() -> int:
    return free_port()


def test_a_peer_that_is_away_gets_everything_once_it_is_back(tmp_path: Path, port: int) -> None:
    with running_node(tmp_path / "node", settings(peer_toml("archive", "ORTHANC", port))) as node:
        send(node)
        node.wait("two tries have failed", lambda n: any(d["attempts"] >= 2 for d in n.deliveries()))
        assert {d["state"] for d in node.deliveries()} <= {"PENDING", "SENDING"}
        assert any("cannot be reached" in d["reason"] for d in node.deliveries())
        with orthanc(tmp_path / "pacs", ports=(port, free_port())) as pacs:
            node.wait_settled(1)
            assert {d["state"] for d in node.deliveries()} == {"CONFIRMED"}
            assert pacs.count() == len(node.deliveries())


def test_a_dead_letter_waits_for_a_person_and_goes_out_on_retry(tmp_path: Path, port: int) -> None:
    with running_node(tmp_path / "node", settings(peer_toml("archive", "ORTHANC", port), attempts=2)) as node:
        send(node)
        node.wait_settled(1)
        letters = node.json("deliveries")
        assert {d["state"] for d in letters} == {"DEAD"}
        assert all("tried 2 times" in d["reason"] for d in letters)
        with orthanc(tmp_path / "pacs", ports=(port, free_port())) as pacs:
            node.run("retry")
            node.wait("all are confirmed", lambda n: {d["state"] for d in n.deliveries()} == {"CONFIRMED"})
            assert pacs.count() == len(letters)


def test_the_peer_that_works_does_not_wait_for_the_one_that_does_not(tmp_path: Path, port: int) -> None:
    with orthanc(tmp_path / "pacs") as pacs:
        peers = peer_toml("archive", "AWAY", port) + peer_toml("pacs", "ORTHANC", pacs.dicom_port)
        with running_node(tmp_path / "node", settings(peers, '"archive", "pacs"')) as node:
            send(node)
            node.wait(
                "the working peer has all",
                lambda n: {d["state"] for d in n.deliveries() if d["destination"] == "pacs"} == {"CONFIRMED"},
            )
            assert "CONFIRMED" not in {d["state"] for d in node.deliveries() if d["destination"] == "archive"}


def test_a_peer_that_knows_only_enhanced_sr_gets_the_report_as_one(tmp_path: Path) -> None:
    with EnhancedOnly() as archive:
        with running_node(tmp_path / "node", settings(peer_toml("archive", "OLD", archive.port))) as node:
            file = send(node)
            node.wait_settled(1)
            rows = node.json("deliveries")
            report = next(d for d in rows if d["kind"] == "SR")
        (received,) = [d for d in archive.received if d.Modality == "SR"]
        assert received.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.22"
        assert report["sop_instance_uid"] == received.SOPInstanceUID
        assert received.StudyInstanceUID == dcmread(file, stop_before_pixels=True).StudyInstanceUID
        assert report["state"] == "UNCONFIRMED"
        assert "neither storage commitment nor C-FIND" in report["reason"]


def test_what_the_peer_says_it_did_not_keep_is_sent_again(tmp_path: Path) -> None:
    with (
        forgetful_archive(forget_first=1) as archive,
        running_node(tmp_path / "node", settings(peer_toml("archive", "FORGETS", archive.port))) as node,
    ):
        send(node)
        node.wait_settled(1)
        assert {d["state"] for d in node.deliveries()} == {"CONFIRMED"}
        assert {d["reason"] for d in node.deliveries()} == {"storage commitment"}
        assert max(d["attempts"] for d in node.deliveries()) == 2


def test_results_without_a_destination_stay_here_and_say_so(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        send(node)
        node.wait_settled(1)
        (job,) = node.jobs()
        assert job["state"] == "DONE"
        assert "the sender is no configured peer" in job["reason"]
        assert node.deliveries() == []


def test_a_plain_receiver_that_proves_nothing_gets_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "received"
    with (
        storescp(folder) as port,
        running_node(tmp_path / "node", settings(peer_toml("archive", "ARCHIVE", port))) as node,
    ):
        send(node)
        node.wait_settled(1)
        assert {d["state"] for d in node.deliveries()} == {"UNCONFIRMED"}
        assert len(list(folder.iterdir())) == len(node.deliveries())
