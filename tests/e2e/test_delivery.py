"""Results on their way to peers that are away, that refuse, that forget, or that know only older report classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.dcmtk import storescp, storescu
from tests.support.node import Node, Row, peer_toml, running_node
from tests.support.orthanc import orthanc
from tests.support.peers import EnhancedOnly, forgetful_archive
from tests.support.processes import free_port
from tests.support.shared import shared_dicom

pytestmark = pytest.mark.e2e

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
name = "{name}"
models = ["cxr-pneumonia"]
destinations = {destinations}
mode = "instance"
match = {{ modality = ["CR", "DX"], calling_ae = ["{name}"] }}
"""

# Calling AE title -> where the results of its images go.
ROUTES = {
    "AWAY": ["away"],
    "BOTH": ["never", "pacs"],
    "OLD": ["old"],
    "FORGETS": ["forgets"],
    "PLAIN": ["plain"],
    "STRANGER": ["sender"],
}


@dataclass(frozen=True)
class Site:
    """One node, and the ports on which its destinations are, or will be, or never are."""

    node: Node
    ports: dict[str, int]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    ports = {name: free_port() for name in ("away", "never", "pacs", "old", "forgets", "plain")}
    flagged = {"away": {"key_objects": True}}
    peers = "".join(peer_toml(name, name.upper(), port, **flagged.get(name, {})) for name, port in ports.items())
    routes = "".join(ROUTE.format(name=name, destinations=names) for name, names in ROUTES.items())
    folder = tmp_path_factory.mktemp("site")
    with running_node(folder / "node", QUICK.format(attempts=50) + peers + routes) as node:
        yield Site(node, ports)


def send(node: Node, folder: Path, calling: str) -> Path:
    """A positive radiograph from that AE title, in a study of its own."""
    dataset = dcmread(shared_dicom() / "cxr_wrapped" / "wrap_09_pneumonia.dcm")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.decompress()
    path = folder / "sent.dcm"
    dataset.save_as(path)
    assert storescu(node.dicom_port, path, calling=calling).returncode == 0
    return path


def deliveries_of(node: Node, file: Path) -> list[Row]:
    """What is to be sent of a study's results, once its job is done."""
    study = str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)
    node.wait(
        "the job is done", lambda n: [j for j in n.jobs() if j["study_instance_uid"] == study and j["finished_at"]]
    )
    return [row for row in node.deliveries() if row["study_instance_uid"] == study]


def wait_for(node: Node, file: Path, states: set[str], destination: str = "") -> list[Row]:
    """The study's deliveries (to one destination) as soon as all are in these states."""

    def there(node: Node) -> list[Row]:
        rows = [row for row in deliveries_of(node, file) if row["destination"].startswith(destination)]
        return rows if rows and {row["state"] for row in rows} <= states else []

    found: list[Row] = node.wait(f"deliveries are {states}", there)
    return found


def test_a_peer_that_is_away_gets_everything_once_it_is_back(site: Site, tmp_path: Path) -> None:
    file = send(site.node, tmp_path, "AWAY")
    site.node.wait("two tries have failed", lambda n: any(d["attempts"] >= 2 for d in deliveries_of(n, file)))
    waiting = deliveries_of(site.node, file)
    assert {d["state"] for d in waiting} <= {"PENDING", "SENDING"}
    assert any("cannot be reached" in d["reason"] for d in waiting)
    with orthanc(tmp_path / "pacs", ae_title="AWAY", ports=(site.ports["away"], free_port())) as pacs:
        sent = wait_for(site.node, file, {"CONFIRMED"})
        assert pacs.count() == len(sent)
        by_kind = {row["kind"]: row["sop_instance_uid"] for row in sent}
        assert set(by_kind) == {"SR", "SC", "KO"}
        (flags,) = pacs.find("Instance", Modality="KO")
        said = dcmread(BytesIO(pacs.file(flags)))
        named = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in said.ContentSequence
                 if item.ValueType in ("IMAGE", "COMPOSITE")]  # fmt: skip
        assert named == [dcmread(file, stop_before_pixels=True).SOPInstanceUID, by_kind["SC"], by_kind["SR"]]


def test_the_peer_that_works_does_not_wait_for_the_one_that_does_not(site: Site, tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs", ae_title="PACS", ports=(site.ports["pacs"], free_port())):
        file = send(site.node, tmp_path, "BOTH")
        wait_for(site.node, file, {"CONFIRMED"}, "pacs")
    stuck = [d for d in deliveries_of(site.node, file) if d["destination"] == "never"]
    assert stuck
    assert {d["state"] for d in stuck} <= {"PENDING", "SENDING"}


def test_a_peer_that_knows_only_enhanced_sr_gets_the_report_as_one(site: Site, tmp_path: Path) -> None:
    with EnhancedOnly(site.ports["old"]) as archive:
        file = send(site.node, tmp_path, "OLD")
        rows = wait_for(site.node, file, {"UNCONFIRMED"})
    report = next(d for d in rows if d["kind"] == "SR")
    (received,) = [d for d in archive.received if d.Modality == "SR"]
    assert received.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.22"
    assert report["sop_instance_uid"] == received.SOPInstanceUID
    assert received.StudyInstanceUID == dcmread(file, stop_before_pixels=True).StudyInstanceUID
    assert "neither storage commitment nor C-FIND" in report["reason"]


def test_what_the_peer_says_it_did_not_keep_is_sent_again(site: Site, tmp_path: Path) -> None:
    with forgetful_archive(site.ports["forgets"], forget_first=1):
        file = send(site.node, tmp_path, "FORGETS")
        rows = wait_for(site.node, file, {"CONFIRMED"})
    assert {d["reason"] for d in rows} == {"storage commitment"}
    assert max(d["attempts"] for d in rows) == 2


def test_a_plain_receiver_that_proves_nothing_gets_the_files(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "received"
    with storescp(folder, ae_title="PLAIN", port=site.ports["plain"]):
        file = send(site.node, tmp_path, "PLAIN")
        rows = wait_for(site.node, file, {"UNCONFIRMED"})
    assert len(list(folder.iterdir())) == len(rows)


def test_results_without_a_destination_stay_here_and_say_so(site: Site, tmp_path: Path) -> None:
    file = send(site.node, tmp_path, "STRANGER")
    assert deliveries_of(site.node, file) == []
    study = str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)
    (job,) = [job for job in site.node.jobs() if job["study_instance_uid"] == study]
    assert job["state"] == "DONE"
    assert "the sender is no configured peer" in job["reason"]


def test_a_dead_letter_waits_for_a_person_and_goes_out_on_retry(tmp_path: Path) -> None:
    port = free_port()
    settings = QUICK.format(attempts=2) + peer_toml("archive", "ORTHANC", port)
    with running_node(tmp_path / "node", settings + ROUTE.format(name="MODALITY", destinations=["archive"])) as node:
        file = send(node, tmp_path, "MODALITY")
        letters = wait_for(node, file, {"DEAD"})
        assert all("tried 2 times" in d["reason"] for d in letters)
        assert [d["state"] for d in node.json("deliveries")] == ["DEAD"] * len(letters)
        with orthanc(tmp_path / "pacs", ports=(port, free_port())) as pacs:
            node.run("retry")
            wait_for(node, file, {"CONFIRMED"})
            assert pacs.count() == len(letters)
