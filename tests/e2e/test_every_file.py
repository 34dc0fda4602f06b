"""Every real file, the odd and the broken ones included, sent by DCMTK: each gets a stated outcome; none is lost.

Also with four senders at once, and with the whole node killed while it works.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.association_profile import kinds, write_profile
from tests.support.dcmtk import Outcome, storescu
from tests.support.node import SETTLED_INSTANCES, Node, peer_toml
from tests.support.orthanc import Orthanc, orthanc
from tests.support.shared import shared_dicom

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted(path for path in shared_dicom().rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def options(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    pairs = kinds(files)
    assert len({syntax for _, syntax in pairs}) >= 12, "the data should come in many transfer syntaxes"
    return ("-nh", *write_profile(tmp_path_factory.mktemp("dcmtk") / "storescu.cfg", pairs))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    with orthanc(tmp_path / "pacs") as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, pacs: Orthanc) -> Iterator[Node]:
    """Results go to the PACS; the senders are modalities that take nothing."""
    node = Node(tmp_path / "node", peer_toml("pacs", "ORTHANC", pacs.dicom_port) + ROUTE)
    node.start()
    try:
        yield node
    finally:
        if node.process is not None:
            node.stop()


ROUTE = """
[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "instance"
match = { modality = ["CR", "DX"], body_part = ["CHEST", "THORAX", ""] }
"""


def sent_well(outcome: Outcome) -> int:
    return outcome.stdout.count("Received Store Response (Success)")


def assert_one_report_each(node: Node, pacs: Orthanc) -> None:
    """Every image that a route took has exactly one SR in the PACS, whatever became of it."""
    jobs = [job for job in node.jobs() if job["state"] in {"DONE", "NOT_ANALYSED"}]
    assert jobs
    assert [job for job in node.jobs() if job["state"] == "PARKED"] == []
    studies = {row["sop_instance_uid"]: row["study_instance_uid"] for row in node.instances()}
    expected = Counter(studies[job["subject"]] for job in jobs)
    in_pacs = Counter(
        pacs.tags(report)["StudyInstanceUID"]
        for report in pacs.find("Instance", Modality="SR")
        if pacs.tags(report).get("Manufacturer") == "radnode"
    )
    assert in_pacs == expected
    delivered = [row for row in node.deliveries() if row["kind"] == "SR"]
    assert len({row["sop_instance_uid"] for row in delivered}) == len(delivered) == len(jobs)
    assert {row["state"] for row in delivered} == {"CONFIRMED"}


def test_one_association(node: Node, pacs: Orthanc, files: list[Path], options: tuple[str, ...]) -> None:
    outcome = storescu(node.dicom_port, shared_dicom(), options=options)
    taken = sent_well(outcome)
    assert taken > 200, outcome.stdout[-3000:]
    node.wait_settled(150, timeout_s=240)
    rows = node.json("instances")
    assert all(row["state"] in SETTLED_INSTANCES for row in rows)
    assert all(row["reason"] for row in rows if row["state"] != "ANALYSED")
    assert Counter(row["state"] for row in rows)["ANALYSED"] >= 10
    assert_one_report_each(node, pacs)


def test_four_associations_at_once(node: Node, pacs: Orthanc, files: list[Path], options: tuple[str, ...]) -> None:
    with ThreadPoolExecutor(4) as senders:
        outcomes = list(senders.map(lambda _: storescu(node.dicom_port, shared_dicom(), options=options), range(4)))
    assert all(sent_well(outcome) > 200 for outcome in outcomes)
    node.wait_settled(150, timeout_s=300)
    # Some files share a SOP Instance UID with other content: set aside, once per sender, and said so.
    rows = node.json("instances")
    kept = [row for row in rows if row["state"] not in {"REFUSED", "CONFLICT", "CONTEXT"}]
    assert len({row["sop_instance_uid"] for row in kept}) == len(kept)
    assert_one_report_each(node, pacs)


@pytest.mark.parametrize("seed", [11, 12])
def test_killed_at_a_random_moment(
    seed: int, node: Node, pacs: Orthanc, files: list[Path], options: tuple[str, ...]
) -> None:
    """kill -9 of the whole process group, then a restart; the sender tries again what it was not told Success for."""
    chest = [path for path in files if path.parent.name in {"cxr", "cxr_wrapped"}]
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(storescu, node.dicom_port, *chest, options=options)
        moment = random.Random(seed).uniform(0.2, 3.0)
        # A pure delay is the point here: the node is to be hit wherever it happens to be.
        with pytest.raises(TimeoutError):
            node.wait_for_exit(moment)
        node.kill()
        sending.result(120)
    node.start()
    storescu(node.dicom_port, *chest, options=options)
    node.wait_settled(20, timeout_s=240)
    assert_one_report_each(node, pacs)
