"""The listener as a process, real DCMTK tools and raw sockets as its peers."""

from __future__ import annotations

import io
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from sqlalchemy import select

from db.domain import ResultRef
from db.states import InstanceState, RefusalKind
from db.tables import Audit
from node import scu, sending
from node.commitment import CommitmentReport
from node.link import COMMITMENT_CONTEXTS
from node.listener import listener_name
from node.settings import Peer
from tests.support import raw_association
from tests.support.listening import CR, Listener, chest_file, dataset_bytes, running
from tests.support.processes import free_port
from tests.support.raw_association import associated, store
from workers.links import Links

VERIFICATION = UID("1.2.840.10008.1.1")
STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
pytestmark = pytest.mark.e2e


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with running(tmp_path) as started:
        yield started


def raw_store(
    listener: Listener, data: bytes, *, sop_class: str = CR, sop_instance: str, context: str = CR
) -> int | None:
    """C-STORE bytes as they are, under any command; the status answered, or None where none was."""
    entity = AE("MODALITY")
    entity.dimse_timeout = 10
    entity.add_requested_context(CR, ExplicitVRLittleEndian)
    entity.add_requested_context(VERIFICATION)
    association = entity.associate("127.0.0.1", listener.port, ae_title="RADNODE")
    assert association.is_established
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 2
    request.AffectedSOPClassUID = sop_class
    request.DataSet = io.BytesIO(data)
    context_id = next(c.context_id or 0 for c in association.accepted_contexts if c.abstract_syntax == context)
    association._reactor_checkpoint.clear()
    with warnings.catch_warnings(action="ignore"):
        request.AffectedSOPInstanceUID = sop_instance
        association.dimse.send_msg(request, context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.abort()
    return None if response is None else response.Status


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_echo_and_wrong_called_title(listener: Listener) -> None:
    echo = ["echoscu", "127.0.0.1", str(listener.port)]
    assert subprocess.run([*echo, "-aec", "RADNODE"], timeout=30, check=False).returncode == 0
    assert subprocess.run([*echo, "-aec", "OTHER"], timeout=30, check=False).returncode != 0
    with listener.record.read() as session:
        assert session.scalar(select(Audit.event).where(Audit.event == "association_rejected"))


def test_a_thousand_rejected_associations_are_a_few_rows_that_tell_of_all(listener: Listener) -> None:
    def rejected(number: int) -> bool:
        with raw_association.connected(listener.port, 60) as one:
            one.send(raw_association.request(called="OTHER", calling=f"AE{number}"))
            answer = one.read()
        return answer is not None and answer.kind == raw_association.ASSOCIATE_RJ

    with ThreadPoolExecutor(8) as strangers:
        assert all(strangers.map(rejected, range(1000)))
    assert listener.echoes()
    listener.process.terminate()
    assert listener.process.wait(15) == 0
    with listener.record.read() as session:
        found = list(session.scalars(select(Audit).where(Audit.event == "association_rejected")))
    assert sum(row.detail["attempts"] for row in found) == 1000
    assert len(found) < 20


def test_received_bytes_are_on_disk_and_in_the_record(listener: Listener, tmp_path: Path) -> None:
    sent = chest_file(tmp_path)
    assert listener.storescu(str(sent)).returncode == 0
    (instance,) = listener.instances()
    assert instance.state is InstanceState.RECEIVED
    assert instance.calling_ae == "MODALITY"
    assert instance.facts["modality"] == "CR"
    stored = listener.settings.data_dir / instance.path
    assert dataset_bytes(stored) == dataset_bytes(sent)
    assert dcmread(stored).SOPInstanceUID == instance.sop_instance_uid
    assert instance.sop_instance_uid not in instance.path
    assert listener.incoming() == []


def test_the_same_again_is_answered_success_and_kept_once(listener: Listener, tmp_path: Path) -> None:
    sent = chest_file(tmp_path)
    assert listener.storescu(str(sent), str(sent)).returncode == 0
    assert listener.storescu(str(sent)).returncode == 0
    assert len(listener.instances()) == 1
    assert listener.refusals() == []


def test_other_bytes_for_a_known_uid_are_kept_aside(listener: Listener, tmp_path: Path) -> None:
    first = chest_file(tmp_path)
    second = chest_file(tmp_path / "..", SOPInstanceUID=dcmread(first).SOPInstanceUID, PixelData=b"\1" * 64 * 64)
    assert listener.storescu(str(first)).returncode == 0
    assert listener.storescu(str(second)).returncode == 0
    (instance,) = listener.instances()
    assert dataset_bytes(listener.settings.data_dir / instance.path) == dataset_bytes(first)
    (conflict,) = listener.refusals()
    assert conflict.kind is RefusalKind.CONFLICT
    assert dataset_bytes(listener.settings.data_dir / conflict.path) == dataset_bytes(second)


def test_other_bytes_from_many_at_once_are_kept_aside_once(listener: Listener, tmp_path: Path) -> None:
    first = chest_file(tmp_path)
    uid = str(dcmread(first).SOPInstanceUID)
    second = dataset_bytes(chest_file(tmp_path, "second.dcm", SOPInstanceUID=uid, PixelData=b"\1" * 64 * 64))

    def send(_sender: int) -> list[int | None]:
        with associated(listener.port) as raw:
            return [store(raw, uid, second) for _ in range(20)]

    assert listener.storescu(str(first)).returncode == 0
    with ThreadPoolExecutor(8) as senders:
        assert [status for found in senders.map(send, range(8)) for status in found] == [0] * 160
    (conflict,) = listener.refusals()
    assert conflict.occurrences == 160
    assert dataset_bytes(listener.settings.data_dir / conflict.path) == second
    (instance,) = listener.instances()
    assert dataset_bytes(listener.settings.data_dir / instance.path) == dataset_bytes(first)
    assert len(list((listener.settings.data_dir / "instances").rglob("*.dcm"))) == 1


# The client end warns of its own malformed command.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_refused_is_answered_and_recorded(listener: Listener, tmp_path: Path) -> None:
    sent = chest_file(tmp_path)
    uid = str(dcmread(sent).SOPInstanceUID)
    whole = dataset_bytes(sent)
    other = generate_uid()
    assert raw_store(listener, whole[:-100], sop_instance=uid) == 0xC000
    assert raw_store(listener, whole, sop_instance=other) == 0xA900
    assert raw_store(listener, whole, sop_instance="../../etc/passwd") == 0x0117
    assert raw_store(listener, whole, sop_instance="") == 0x0117
    assert raw_store(listener, whole, sop_instance=uid, context=VERIFICATION) == 0x0122
    assert raw_store(listener, b"rubbish, not a data set", sop_instance=uid) == 0xC000
    assert listener.instances() == []
    assert {r.status for r in listener.refusals()} == {0xC000, 0xA900, 0x0117, 0x0122}
    assert all("Doe" not in r.reason for r in listener.refusals())
    assert raw_store(listener, whole, sop_instance=uid) == 0x0000
    assert listener.incoming() == []


def test_a_missing_study_uid_is_refused(listener: Listener, tmp_path: Path) -> None:
    sent = chest_file(tmp_path, StudyInstanceUID="")
    assert "0xc000" in listener.storescu(str(sent)).stderr.lower() or listener.refusals()
    assert listener.instances() == []
    assert "Study Instance UID" in listener.refusals()[0].reason


def test_a_full_disk_asks_the_sender_to_come_back(tmp_path: Path) -> None:
    with running(tmp_path, f"[limits]\nmin_free_bytes = {2**62}\n") as listener:
        sent = chest_file(tmp_path)
        assert raw_store(listener, dataset_bytes(sent), sop_instance=str(dcmread(sent).SOPInstanceUID)) == 0xA700
        assert listener.instances() == []
        assert "min_free_bytes" in listener.refusals()[0].reason


def test_what_there_is_no_room_for_does_not_reach_the_disk(tmp_path: Path) -> None:
    with running(tmp_path, f"[limits]\nmin_free_bytes = {2**62}\n") as listener:
        process = psutil.Process(listener.process.pid)
        before = process.io_counters().write_chars
        assert raw_store(listener, bytes(8 << 20), sop_instance=generate_uid()) == 0xA700
        assert process.io_counters().write_chars - before < 1 << 20
        assert listener.incoming() == []
        # The association goes on, and so does the next one.
        assert scu.echo(listener.peer, listener.settings).ok


def test_a_listener_removes_what_its_own_last_run_left_and_nothing_that_others_write(tmp_path: Path) -> None:
    with running(tmp_path) as listener:
        settings = listener.settings
    incoming = settings.data_dir / "incoming"
    left = incoming / listener_name(settings) / "half.dcm"
    others = [incoming / "written" / "result.tmp", incoming / "listener-elsewhere" / "half.dcm"]
    for path in (left, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with running(tmp_path, port=settings.dicom_port) as again:
        assert eventually(lambda: not left.exists())
        assert sorted(again.incoming()) == sorted(others)


def test_own_results_are_marked(listener: Listener, tmp_path: Path) -> None:
    assert listener.storescu(str(chest_file(tmp_path, Manufacturer="radnode"))).returncode == 0
    assert listener.instances()[0].own_result


def test_a_rejected_context_is_recorded(listener: Listener) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context("1.2.826.0.1.3680043.9.9999.1", ExplicitVRLittleEndian)
    entity.add_requested_context(VERIFICATION)
    association = entity.associate("127.0.0.1", listener.port, ae_title="RADNODE")
    association.release()
    assert [r.kind for r in listener.refusals()] == [RefusalKind.CONTEXT]


def test_invented_classes_fill_no_table(listener: Listener) -> None:
    for attempt in range(3):
        entity = AE("MODALITY")
        for number in range(126):
            entity.add_requested_context(f"1.2.826.0.1.3680043.9.9999.{attempt}.{number}", ExplicitVRLittleEndian)
        entity.add_requested_context("1.2.840.10008.5.1.1.1", ExplicitVRLittleEndian)
        entity.add_requested_context(VERIFICATION)
        association = entity.associate("127.0.0.1", listener.port, ae_title="RADNODE")
        association.release()
    assert sorted((r.sop_class_uid, r.occurrences) for r in listener.refusals()) == [
        ("", 3),
        ("1.2.840.10008.5.1.1.1", 3),
    ]


def test_silent_and_hostile_connections_stop_nobody(tmp_path: Path) -> None:
    with running(tmp_path, "[limits]\nmin_free_bytes = 0\nacse_timeout_s = 3.0\nmax_associations = 10\n") as listener:
        silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(50)]
        for hostile in silent[:10]:
            hostile.sendall(b"\x01\x00\xff\xff\xff\xff")
        for hostile in silent[10:20]:
            hostile.sendall(b"\x04\x00\x00\x00\x00\x08\x00\x00\x00\x04\x01\x03xx")
        started = time.monotonic()
        assert listener.storescu(str(chest_file(tmp_path))).returncode == 0
        assert time.monotonic() - started < 5
        for connection in silent:
            connection.settimeout(15)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            connection.close()
        assert scu.echo(listener.peer, listener.settings).ok


def test_a_transfer_cut_in_the_middle_leaves_nothing(listener: Listener, tmp_path: Path) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context(CR, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", listener.port, ae_title="RADNODE")
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CR, generate_uid()
    request.DataSet = io.BytesIO(bytes(200_000))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    for count, value in enumerate(message.encode_msg(association.accepted_contexts[0].context_id or 0, 16384)):
        association.dul.send_pdu(value)
        if count == 5:
            break
    assert eventually(lambda: len(listener.incoming()) == 1)
    association.abort()
    assert eventually(lambda: listener.incoming() == [])
    assert listener.instances() == []


def test_an_object_longer_than_the_limit_is_cut_off(tmp_path: Path) -> None:
    more = "[limits]\nmin_free_bytes = 0\nmax_dataset_bytes = 100000\nmax_pdu_bytes = 16384\n"
    with running(tmp_path, more) as listener:
        long = chest_file(tmp_path, Rows=1000, Columns=1000, PixelData=bytes(10**6))
        assert listener.storescu(str(long)).returncode != 0
        assert "longer than" in listener.refusals()[0].reason
        assert listener.instances() == []
        assert eventually(lambda: listener.incoming() == [])
        assert listener.storescu(str(chest_file(tmp_path, "small.dcm"))).returncode == 0


def test_a_commitment_report_for_an_unknown_transaction_is_answered(listener: Listener) -> None:
    entity = AE("PACS")
    entity.add_requested_context(STORAGE_COMMITMENT)
    role = build_role(STORAGE_COMMITMENT, scp_role=True)
    association = entity.associate("127.0.0.1", listener.port, ae_title="RADNODE", ext_neg=[role])
    assert association.is_established
    report = Dataset()
    report.TransactionUID = generate_uid()
    report.ReferencedSOPSequence = []
    status, _ = association.send_n_event_report(report, 1, STORAGE_COMMITMENT, "1.2.840.10008.1.20.1.1")
    association.release()
    assert status.Status == 0x0112


def test_the_node_as_a_user_of_another_node(listener: Listener, tmp_path: Path) -> None:
    files = [chest_file(tmp_path, f"{i}.dcm") for i in range(3)]
    note = tmp_path / "note.txt"
    note.write_text("not DICOM")
    results = {r.path.name: r for r in sending.send_files(listener.peer, listener.settings, [*files, note])}
    assert [results[f.name].ok for f in files] == [True, True, True]
    assert not results["note.txt"].ok
    assert len(listener.instances()) == 3
    with pytest.raises(scu.PeerRefused, match="accepts none"):
        scu.holds(listener.peer, listener.settings, [ResultRef(CR, "1.2.3", "1.2", "1")])


# pynetdicom forgets to close a socket that could not connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_echo_says_what_is_wrong(listener: Listener) -> None:
    wrong_title = Peer(ae_title="OTHER", host="127.0.0.1", port=listener.port)
    assert "Called AE title" in scu.echo(wrong_title, listener.settings).cause
    nobody = Peer(ae_title="X", host="127.0.0.1", port=free_port())
    assert "cannot be reached" in scu.echo(nobody, listener.settings).cause


def test_commitment_reports_reach_the_one_who_asked(listener: Listener) -> None:
    """A PACS that reports on the asking association."""
    seen: list[CommitmentReport] = []

    def on_report(report: CommitmentReport) -> bool:
        seen.append(report)
        return True

    def on_action(event: evt.Event) -> tuple[int, None]:
        return 0x0000, None

    pacs = AE("PACS")
    pacs.add_supported_context(STORAGE_COMMITMENT)
    server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, on_action)])
    assert server is not None
    try:
        peer = Peer(ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
        with closing(Links(listener.settings, on_report)) as links:
            with links.use("pacs", peer, COMMITMENT_CONTEXTS) as link:
                link.request_commitment("1.2.3.4", [(CR, "1.2.3")])
            report = Dataset()
            report.TransactionUID = "1.2.3.4"
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CR, "1.2.3"
            report.ReferencedSOPSequence = [item]
            (asked,) = pacs.active_associations
            status, _ = asked.send_n_event_report(report, 1, STORAGE_COMMITMENT, "1.2.840.10008.1.20.1.1")
            assert status.Status == 0x0000
    finally:
        server.shutdown()
    assert seen[0].committed == ("1.2.3",)
