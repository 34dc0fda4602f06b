"""The demonstration: its images, its sample PACS, what it makes of the record, and that it stands alone."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity

from db.domain import ResultRef
from models.datasets.labels import read_labels
from models.recipes.cxr_pneumonia import one_patient, select, split_rows
from node import header, scu, sending
from node.commitment import COMMITMENT_CLASS, CommitmentReport, parse_report
from node.link import COMMITMENT_CONTEXTS
from node.routing import choose
from node.settings import Peer, Settings, load
from workers.demo import wrap
from workers.demo.cli import DATA
from workers.demo.node import Node, forget_user_settings, free_ports
from workers.demo.orthanc import find_orthanc
from workers.demo.outputs import make_room
from workers.demo.pacs import Address, DemoError, SamplePacs
from workers.demo.process import Process
from workers.demo.watch import View, failed, finished, steps

FILES = sorted(DATA.glob("*.dcm"))
PICTURES = Path(os.environ.get("RADNODE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cxr"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("RADNODE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def settings(clean_environment: None) -> Settings:
    return load(None)


# --- images -------------------------------------------------------------------------------------------------------


def test_each_picture_has_its_file_and_its_attribution() -> None:
    assert [file.stem for file in FILES] == sorted(picture.name for picture in wrap.PICTURES)
    notice = (DATA / "NOTICE").read_text(encoding="utf-8")
    assert "CC BY" in notice or "Attribution 4.0" in notice
    for file in FILES:
        assert file.name in notice


@pytest.mark.skipif(not PICTURES.is_dir(), reason="the published pictures are not on this machine")
@pytest.mark.parametrize("picture", wrap.PICTURES, ids=lambda picture: picture.name)
def test_wrapping_a_picture_again_gives_the_shipped_bytes(picture: wrap.Picture, tmp_path: Path) -> None:
    again = tmp_path / "again.dcm"
    wrap.wrap(picture, PICTURES / picture.file).save_as(again, enforce_file_format=True)
    assert again.read_bytes() == (DATA / f"{picture.name}.dcm").read_bytes()


@pytest.mark.skipif(not PICTURES.is_dir(), reason="the published pictures are not on this machine")
def test_no_picture_shows_a_patient_who_taught_the_model() -> None:
    rows = read_labels(PICTURES / "labels.csv")
    patients = {one_patient(row.patient) for row in rows if row.file in {picture.file for picture in wrap.PICTURES}}
    split = split_rows(select(rows))
    assert len(patients) == len(wrap.PICTURES)
    assert patients.isdisjoint(row.patient for row in (*split.train, *split.validation))


def test_images_say_that_they_are_demonstration_data_of_invented_patients() -> None:
    seen: set[str] = set()
    for file in FILES:
        image = dcmread(file)
        assert str(image.PatientName).startswith("DEMO^")
        assert image.PatientIdentityRemoved == "YES"
        assert image.ImageType[0] == "DERIVED"
        assert "not for diagnosis" in image.ImageComments.lower()
        uids = {str(image.SOPInstanceUID), str(image.StudyInstanceUID), str(image.SeriesInstanceUID)}
        assert len(uids) == 3
        assert not uids & seen
        assert all(uid.startswith("2.25.") for uid in uids)
        seen |= uids


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_independent_validator_finds_no_error(file: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "dciodvfy", file], capture_output=True, text=True, check=False, timeout=60
    )
    assert "DXImageForPresentation" in done.stdout + done.stderr
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


def test_a_node_without_settings_routes_every_image(settings: Settings) -> None:
    for file in FILES:
        facts = header.facts(header.read_file(file), "PACS")
        assert [route.name for route, _ in choose(settings.routes, facts, "first")] == ["chest-radiographs"]


# --- sample PACS --------------------------------------------------------------------------------------------------


@pytest.fixture
def reports() -> queue.Queue[CommitmentReport]:
    return queue.Queue()


@pytest.fixture
def received() -> list[str]:
    return []


@pytest.fixture
def node_address(reports: queue.Queue[CommitmentReport], received: list[str]) -> Iterator[Address]:
    """A provider that takes images and commitment reports, as the node does."""
    address = Address("RADNODE", free_ports(1)[0])
    entity = ApplicationEntity(ae_title=address.ae_title)
    entity.add_supported_context(wrap.DX_FOR_PRESENTATION)
    entity.add_supported_context(COMMITMENT_CLASS, scu_role=False, scp_role=True)

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.put(parse_report(event.event_information))
        return 0x0000, None

    def on_store(event: evt.Event) -> int:
        request: Any = event.request
        received.append(str(request.AffectedSOPInstanceUID))
        return 0x0000

    server = entity.start_server(
        (address.host, address.port),
        block=False,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report), (evt.EVT_C_STORE, on_store)],
    )
    yield address
    server.shutdown()


@pytest.fixture
def pacs(tmp_path: Path, node_address: Address) -> Iterator[SamplePacs]:
    sample = SamplePacs(tmp_path / "pacs", Address("DEMOPACS", free_ports(1)[0]), node_address)
    sample.start()
    yield sample
    sample.stop()


@pytest.fixture
def peer(pacs: SamplePacs) -> Peer:
    return Peer(ae_title=pacs.address.ae_title, host=pacs.address.host, port=pacs.address.port)


def refs(*files: Path) -> list[ResultRef]:
    found = [dcmread(file, stop_before_pixels=True) for file in files]
    return [
        ResultRef(str(f.SOPClassUID), str(f.SOPInstanceUID), str(f.SeriesInstanceUID), str(f.StudyInstanceUID))
        for f in found
    ]


def test_the_sample_pacs_keeps_finds_and_gives_back_what_it_is_sent(
    pacs: SamplePacs, peer: Peer, settings: Settings
) -> None:
    assert scu.echo(peer, settings).ok
    assert [result.ok for result in sending.send_files(peer, settings, FILES[:2])] == [True, True]
    sent = refs(*FILES[:2])
    assert scu.holds(peer, settings, refs(*FILES)) == {ref.sop_instance_uid for ref in sent}
    assert scu.count_instances(peer, settings, sent[0].study_instance_uid) == 1
    (pacs.folder / "back.dcm").write_bytes(pacs.fetch(sent[0].sop_instance_uid))
    assert dcmread(pacs.folder / "back.dcm").PixelData == dcmread(FILES[0]).PixelData
    with pytest.raises(DemoError, match="holds no object"):
        pacs.fetch("1.2.3")


def test_no_name_in_its_folder_comes_from_a_peer(pacs: SamplePacs, peer: Peer, settings: Settings) -> None:
    assert all(result.ok for result in sending.send_files(peer, settings, FILES))
    assert sorted(path.name for path in pacs.folder.iterdir()) == ["1.dcm", "2.dcm", "3.dcm"]


def test_it_commits_to_what_it_holds_and_to_nothing_else(
    pacs: SamplePacs, peer: Peer, settings: Settings, reports: queue.Queue[CommitmentReport]
) -> None:
    pacs.load(FILES[:1])
    held, missing = refs(*FILES[:2])
    link = sending.open_link(peer, settings, COMMITMENT_CONTEXTS)
    link.request_commitment("2.25.42", [(ref.sop_class_uid, ref.sop_instance_uid) for ref in (held, missing)])
    link.release()
    report = reports.get(timeout=20)
    assert report.transaction_uid == "2.25.42"
    assert report.committed == (held.sop_instance_uid,)
    assert report.failed == {missing.sop_instance_uid: 0x0112}


def test_it_routes_what_it_holds_to_the_node(pacs: SamplePacs, received: list[str]) -> None:
    pacs.load(FILES)
    pacs.route()
    assert sorted(received) == sorted(ref.sop_instance_uid for ref in refs(*FILES))


def test_a_node_that_is_away_is_said_so(tmp_path: Path) -> None:
    here, nobody = free_ports(2)
    alone = SamplePacs(tmp_path, Address("DEMOPACS", here), Address("RADNODE", nobody))
    alone.load(FILES[:1])
    with pytest.raises(DemoError, match="cannot be reached"):
        alone.route()
    alone.stop()


def test_a_taken_port_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sample = SamplePacs(tmp_path, Address("DEMOPACS", port), Address("RADNODE", 1))
        with pytest.raises(DemoError, match=f"port {port}"):
            sample.start()
        sample.stop()


def test_orthanc_is_found_beyond_an_ordinary_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "Orthanc"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("workers.demo.orthanc._SYSTEM_FOLDERS", (str(tmp_path),))
    assert find_orthanc() == program
    program.unlink()
    assert find_orthanc() is None


# --- the record ---------------------------------------------------------------------------------------------------

NAMES = {"1.1": "first", "1.2": "second"}


def instance(uid: str, state: str = "ANALYSED", reason: str = "") -> dict[str, Any]:
    return {"sop_instance_uid": uid, "state": state, "reason": reason}


def job(uid: str, state: str = "DONE", reason: str = "") -> dict[str, Any]:
    finding = {"label": "pneumonia", "presence": "present", "probability": 0.9, "threshold": 0.5}
    said = {"sop_instance_uid": uid, "analysed": True, "findings": [finding]}
    return {
        "id": f"job-{uid}",
        "subject": uid,
        "model": "m",
        "state": state,
        "reason": reason,
        "started_at": "2026-01-01T00:00:00+00:00",
        "summary": {"images": [said]},
    }


def delivery(uid: str, state: str = "CONFIRMED", reason: str = "storage commitment") -> dict[str, Any]:
    return {"job_id": f"job-{uid}", "kind": "SR", "state": state, "reason": reason, "sent_at": "2026-01-01"}


def view(
    instances: list[dict[str, Any]] | None = None,
    jobs: list[dict[str, Any]] | None = None,
    deliveries: list[dict[str, Any]] | None = None,
) -> View:
    return View(
        tuple(instances if instances is not None else [instance(uid) for uid in NAMES]),
        tuple(jobs if jobs is not None else [job(uid) for uid in NAMES]),
        tuple(deliveries if deliveries is not None else [delivery(uid) for uid in NAMES]),
    )


def test_it_is_finished_when_every_result_of_every_image_is_confirmed() -> None:
    assert finished(view(), NAMES)
    assert failed(view(), NAMES) == ""


@pytest.mark.parametrize(
    "unfinished",
    [
        view(jobs=[job("1.1")]),
        view(jobs=[job("1.1"), job("1.2", "RUNNING")]),
        view(deliveries=[delivery("1.1")]),
        view(deliveries=[delivery("1.1"), delivery("1.2", "SENT")]),
        view(deliveries=[delivery("1.1"), delivery("1.2"), delivery("1.2", "PENDING")]),
    ],
)
def test_it_goes_on_while_anything_is_open(unfinished: View) -> None:
    assert not finished(unfinished, NAMES)


@pytest.mark.parametrize(
    ("hopeless", "told"),
    [
        (view(instances=[instance("1.1", "STORED", "no route")], jobs=[]), "first is STORED: no route"),
        (view(instances=[instance("1.2", "REFUSED", "cut short")], jobs=[]), "second is REFUSED: cut short"),
        (view(jobs=[job("1.1", "PARKED", "no weights")]), "parked: no weights"),
        (view(deliveries=[]), "nothing is to be delivered"),
        (view(deliveries=[delivery("1.1"), delivery("1.2", "DEAD", "refused")]), "DEAD: refused"),
        (view(deliveries=[delivery("1.1"), delivery("1.2", "UNCONFIRMED", "none")]), "UNCONFIRMED: none"),
    ],
)
def test_it_stops_at_once_where_waiting_is_of_no_use(hopeless: View, told: str) -> None:
    assert told in failed(hopeless, NAMES)


def test_it_tells_what_happened_to_each_image() -> None:
    lines = steps(view(), NAMES)
    assert "first: pneumonia present, probability 0.900 (threshold 0.5)" in lines
    assert "second: structured report confirmed by the PACS (storage commitment)" in lines
    assert len(lines) == len(set(lines))


# --- what it leaves ------------------------------------------------------------------------------------------------


def test_results_of_an_earlier_run_go_and_nothing_else_does(tmp_path: Path) -> None:
    own = ["result.json", "sr.dcm", "sc.png", "sr-1.html", "sc-2-2.dcm"]
    others = ["notes.txt", "sr-old.dcm", "screenshot.png"]
    for name in [*own, *others]:
        (tmp_path / name).touch()
    make_room(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_folder_that_cannot_be_written_is_said_so_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match="--out"):
        make_room(tmp_path / "file" / "out")


# --- standing alone -----------------------------------------------------------------------------------------------


def test_the_nodes_settings_hold_whatever_its_folder_is_called(tmp_path: Path, clean_environment: None) -> None:
    folder = tmp_path / 'a "quoted" \\ name'
    node = Node(folder, Address("RADNODE", 4711), 4712, Address("DEMOPACS", 4713), "cxr-pneumonia")
    assert node.settings.data_dir == folder / "data"
    assert node.settings.peers["pacs"].port == 4713
    assert [route.destinations for route in node.settings.routes] == [("pacs",)]
    assert node.settings.dicom_host == node.settings.web_host == "127.0.0.1"


def test_settings_of_the_user_do_not_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_DATABASE_URL", "postgresql://hospital/record")
    monkeypatch.setenv("radnode_broker_url", "redis://hospital")
    monkeypatch.setenv("RADNODE_MODEL_CACHE", "/somewhere")
    forget_user_settings()
    assert [name for name in os.environ if name.upper().startswith("RADNODE_")] == ["RADNODE_MODEL_CACHE"]


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(4)
    assert len(set(ports)) == 4
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_node_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path, clean_environment: None) -> None:
    node = Node(tmp_path, Address("RADNODE", 4711), 4712, Address("DEMOPACS", 4713), "cxr-pneumonia")
    node.process.argv = [sys.executable, "-c", "import sys; sys.exit('no disk left')"]
    with pytest.raises(DemoError, match="no disk left"):
        node.start()


def test_a_child_that_will_not_end_is_ended(tmp_path: Path) -> None:
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn = f"{ignoring}; print('up', flush=True); time.sleep(60)"
    child = Process("stubborn", [sys.executable, "-c", stubborn], tmp_path / "log")
    child.start()
    while "up" not in child.log_tail():
        assert child.wait(0.05) is None
    child.stop(0.2)
    assert child.wait(0) is not None
