"""Every real file, the odd and the broken ones included, sent by DCMTK: each gets a stated outcome; none is lost.

Also with four senders at once, and with the whole node killed while it works. What is expected is computed from the
files, not from what the node says of itself.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info, read_partial
from sqlalchemy import select

from db.tables import Instance
from tests.support.association_profile import kinds, write_profile
from tests.support.dcmtk import Outcome, answers, storescu
from tests.support.node import SETTLED_INSTANCES, Node, Row, peer_toml
from tests.support.orthanc import Orthanc, orthanc
from tests.support.shared import shared_dicom

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    # Some of the files are there because they are wrong.
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

_SERIES_INSTANCE_UID = 0x0020000E
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
ROUTE = """
[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "instance"
match = { modality = ["CR", "DX"], body_part = ["CHEST", "THORAX", ""] }
"""


@dataclass(frozen=True)
class Site:
    """Results go to the PACS; the senders are modalities that take nothing."""

    pacs: Orthanc
    node: Node


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    with orthanc(folder / "pacs") as pacs:
        node = Node(folder / "node", peer_toml("pacs", "ORTHANC", pacs.dicom_port) + ROUTE)
        node.start()
        try:
            yield Site(pacs, node)
        finally:
            if node.process is not None:
                node.stop()


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted(path for path in shared_dicom().rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def options(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    pairs = kinds(files)
    assert len({syntax for _, syntax in pairs}) >= 12, "the data should come in many transfer syntaxes"
    return ("-nh", *write_profile(tmp_path_factory.mktemp("dcmtk") / "storescu.cfg", pairs))


def header(path: Path) -> Dataset:
    """Up to the UIDs of the series; of a file that pydicom cannot read even so far, what its meta information says."""
    try:
        with path.open("rb") as file:
            return read_partial(file, lambda tag, vr, length: tag > _SERIES_INSTANCE_UID, force=True)
    except OSError:
        meta, found = read_file_meta_info(path), Dataset()
        found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        return found


def taken(outcomes: Iterable[Outcome]) -> set[Path]:
    return {path for outcome in outcomes for path, answer in answers(outcome).items() if answer == "Success"}


def to_be_read(paths: Iterable[Path]) -> set[str]:
    """SOP Instance UIDs of the images that the route takes, read from their headers by pydicom."""
    found = set()
    for path in paths:
        image = header(path)
        wanted = image.get("Modality") in {"CR", "DX"} and image.get("BodyPartExamined", "") in {"CHEST", "THORAX", ""}
        if image.get("SOPClassUID") in {CR, DX} and wanted:
            found.add(str(image.SOPInstanceUID))
    return found


def reports_by_image(pacs: Orthanc) -> Counter[str]:
    """How many SRs in the PACS are about each image: the one in its Image Library, which stands in every report."""
    found: Counter[str] = Counter()
    for report in pacs.find("Instance", Modality="SR"):
        dataset = dcmread(pacs_file(pacs, report))
        if dataset.get("Manufacturer") == "radnode":
            found.update(set(library(dataset)))
    return found


def pacs_file(pacs: Orthanc, instance: str) -> Path:
    path = pacs.folder / f"{instance}.dcm"
    path.write_bytes(pacs.file(instance))
    return path


def library(report: Dataset) -> Iterator[str]:
    """UIDs of the images in the Image Library container (111028, DCM)."""
    for item in report.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == "111028":
            for group in item.ContentSequence:
                for entry in group.get("ContentSequence", ()):
                    for reference in entry.get("ReferencedSOPSequence", ()):
                        yield str(reference.ReferencedSOPInstanceUID)


def assert_one_report_each(site: Site, paths: Iterable[Path]) -> None:
    """Every image that the route takes has exactly one SR in the PACS, and nothing else has any."""
    expected = to_be_read(paths)
    assert len(expected) >= 12
    assert reports_by_image(site.pacs) == Counter(expected)
    assert {job["state"] for job in site.node.jobs()} <= {"DONE", "NOT_ANALYSED"}
    assert {row["state"] for row in site.node.deliveries()} == {"CONFIRMED"}


def assert_stored(node: Node, paths: Iterable[Path]) -> None:
    """All of these are on record, and the bytes the record names are on the disk."""
    with node.record() as record, record.read() as session:
        rows = {row.sop_instance_uid: row for row in session.scalars(select(Instance))}
    for uid in {str(header(path).SOPInstanceUID) for path in paths}:
        row = rows[uid]
        stored = (node.data_dir / row.path).read_bytes()
        # The data set follows the preamble, "DICM", and the file meta group, whose length is its first value.
        start = 144 + int.from_bytes(stored[140:144], "little")
        assert blake3(stored[start:]).hexdigest() == row.blake3


def kept(rows: list[Row]) -> dict[str, tuple[str, str]]:
    """UID to state and reason of what is stored; refusals and conflicts are counted per sender."""
    stored = [row for row in rows if row["state"] not in {"REFUSED", "CONFLICT", "CONTEXT"}]
    found = {row["sop_instance_uid"]: (row["state"], row["reason"]) for row in stored}
    assert len(found) == len(stored)
    return found


def test_one_association_and_then_four_at_once(
    files: list[Path], options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Everything gets its outcome; what comes again from four senders at once changes none of it."""
    with running_site(tmp_path_factory.mktemp("site")) as site:
        node = site.node
        outcome = storescu(node.dicom_port, shared_dicom(), options=options)
        told = answers(outcome)
        stored = {path for path, answer in told.items() if answer == "Success"}
        assert len(stored) > 200
        node.wait_settled(150, timeout_s=240)
        rows = node.json("instances")
        by_uid = {row["sop_instance_uid"]: row for row in rows}
        for path in told:
            row = by_uid[str(header(path).SOPInstanceUID)]
            assert row["state"] in SETTLED_INSTANCES
            assert row["state"] == "ANALYSED" or row["reason"]
        assert_stored(node, stored)
        assert_one_report_each(site, stored)
        with ThreadPoolExecutor(4) as senders:
            again = list(senders.map(lambda _: storescu(node.dicom_port, shared_dicom(), options=options), range(4)))
        assert [taken([each]) for each in again] == [stored] * 4
        node.wait_settled(len(rows), timeout_s=240)
        assert kept(node.json("instances")) == kept(rows)
        assert_one_report_each(site, stored)
        assert node.peak_bytes("listener") < 250 * 1024**2


def test_killed_at_a_random_moment_under_four_senders(
    files: list[Path], options: tuple[str, ...], tmp_path: Path
) -> None:
    """kill -9 of the whole process group, then a restart; the senders try again what they were not told Success for."""
    chest = [path for path in files if path.parent.name in {"cxr", "cxr_wrapped"}]
    moment_s = random.SystemRandom().uniform(0.1, 2.5)
    # Shown when the test fails, so that the moment can be tried again.
    print(f"killed after {moment_s:.3f} s")  # noqa: T201
    with running_site(tmp_path) as site, ThreadPoolExecutor(4) as senders:
        node = site.node
        sending = [senders.submit(storescu, node.dicom_port, *chest[n::4], options=options) for n in range(4)]
        # A pure delay is the point here: the node is to be hit wherever it happens to be.
        with pytest.raises(TimeoutError):
            node.wait_for_exit(moment_s)
        node.kill()
        told = taken(each.result(120) for each in sending)
        node.start()
        assert_stored(node, told)
        rest = [path for path in chest if path not in told]
        told |= taken([storescu(node.dicom_port, *rest, options=options)]) if rest else set()
        node.wait_settled(20, timeout_s=240)
        assert_one_report_each(site, told)
