"""Results to an HL7 system: in order, each until it is answered, the same to the byte; on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import hl7
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from sqlalchemy import select, update

from db import circuits, deliveries, hl7_spool, identities, jobs, leftovers, listing, queues
from db.domain import JobOutcome
from db.hl7_tables import SpooledMessage
from db.session import Record
from db.tables import Audit, Delivery, Job, Outbox
from db.types import utcnow
from node.settings import Delivery as DeliverySettings
from node.settings import Settings
from node.settings_hl7 import Hl7, Hl7Destination
from node.web.metrics import render
from tests.support import records
from tests.support.hl7_peer import HANG_UP, SILENT, Receiver
from tests.support.processes import free_port
from workers.deliver import Sender
from workers.messages import run_messages
from workers.queues import hand_back

OWNER = "host:deliver:1"


def sender(record: Record, folder: Path, to: Hl7Destination, **settings: Any) -> Sender:
    given: dict[str, Any] = {"delivery": DeliverySettings(max_attempts=3, connect_timeout_s=2.0), **settings}
    return Sender(Settings(data_dir=folder, hl7=Hl7(destinations={"ris": to}), **given), record, OWNER)


def finished(record: Record, folder: Path, number: int = 1, **changes: Any) -> str:
    """A job that is done and is to be told to the RIS; its report lies where the record says."""
    job_id = records.queued_job(record, f"{records.STUDY}.{number}", number)
    assert records.claim(record, job_id) is not None
    report = replace(records.result(number, study=f"{records.STUDY}.{number}"), path=f"{number}.dcm")
    structured_report(folder / report.path, report.ref.sop_instance_uid)
    done: JobOutcome = records.outcome(
        report,
        records.result(100 + number, "SC"),
        destinations=("pacs",),
        told=("ris",),
        summary=records.FOUND,
        **changes,
    )
    with record.write() as session:
        jobs.finish(session, job_id, records.WORKER, done)
    return job_id


def structured_report(path: Path, uid: str) -> None:
    report = Dataset()
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID, report.SOPInstanceUID = records.SR, uid
    report.PatientID, report.IssuerOfPatientID = "ID-1|x", "HOSP"
    report.PatientName, report.PatientBirthDate, report.PatientSex = "Müller^Eva^^Dr", "19700101", "F"
    report.AccessionNumber, report.StudyDate, report.StudyTime = "ACC-1", "20260301", "1030"
    report.DeviceSerialNumber = "RADNODE"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = records.EXPLICIT
    path.parent.mkdir(parents=True, exist_ok=True)
    report.save_as(path, enforce_file_format=True)


def rows(record: Record, destination: str = "ris") -> list[dict[str, Any]]:
    with record.read() as session:
        return [row for row in listing.deliveries(session) if row["destination"] == destination]


def states(record: Record) -> list[str]:
    return [row["state"] for row in rows(record)]


def hurry(record: Record) -> None:
    """What waits is due, whatever for."""
    with record.write() as session:
        session.execute(update(Delivery).values(next_attempt_at=records.NOON))


def field(message: hl7.Message, segment: str, number: int) -> str:
    return str(message.segment(segment)(number))


def control_id(message: hl7.Message) -> str:
    return str(message["MSH.F10"])


def test_a_result_is_told_and_its_answer_is_the_proof(record: Record, tmp_path: Path) -> None:
    job_id = finished(record, tmp_path)
    with Receiver() as ris:
        run_messages(sender(record, tmp_path, ris.destination(receiving_application="RIS")), "ris")
        message = ris.take()
    assert (field(message, "MSH", 9), message["MSH.F5"], message["MSH.F12"]) == ("ORU^R01^ORU_R01", "RIS", "2.5.1")
    assert message["PID.F3.R1.C1"] == "ID-1|x"
    assert field(message, "PID", 5) == "Müller^Eva^^^Dr^^L^A"
    assert (message["OBR.F18"], message["OBR.F25"]) == ("ACC-1", "P")
    found = {str(one(3)): (str(one(5)), str(one(11))) for one in message.segments("OBX")}
    assert found["233604007^Pneumonia^SCT"] == ("52101004^Present^SCT", "P")
    assert found["122157^Probability^DCM"] == ("0.8712", "P")
    assert found["110180^Study Instance UID^DCM"] == (f"{records.STUDY}.1", "P")
    assert {status for _, status in found.values()} == {"P"}
    (row,) = rows(record)
    assert (row["state"], row["kind"], row["reason"]) == ("CONFIRMED", "SR", "acknowledged (AA)")
    # Pictures are no matter of messages.
    assert [one["kind"] for one in rows(record, "pacs")] == ["SR", "SC"]
    with record.read() as session:
        (said,) = hl7_spool.messages(session)
        told = session.scalars(select(Audit).where(Audit.event == "message_sent")).one()
    assert (said["control_id"], said["answer"], said["job_id"]) == (control_id(message), "AA", job_id)
    assert (told.subject, told.detail["study"]) == (control_id(message), f"{records.STUDY}.1")
    assert len(control_id(message)) == 20


def test_what_was_not_acknowledged_is_sent_again_the_same_to_the_byte(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path)
    with Receiver([HANG_UP, SILENT, "AA"]) as ris:
        mine = sender(record, tmp_path, ris.destination(response_timeout_s=0.3))
        for _ in range(3):
            run_messages(mine, "ris")
            hurry(record)
        sent = {ris.messages.get(timeout=5) for _ in range(3)}
    assert len(sent) == 1
    assert states(record) == ["CONFIRMED"]


def test_a_sender_that_dies_before_the_answer_leaves_the_message_as_it_was(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path)
    with Receiver([HANG_UP]) as ris:
        mine = sender(record, tmp_path, ris.destination())
        run_messages(mine, "ris")
        first = ris.messages.get(timeout=5)
        hurry(record)
        with record.write() as session:
            assert queues.claim_head(session, "ris", "host:killed:1", lease_s=600) is not None
            assert queues.claim_head(session, "ris", OWNER, lease_s=600) is None
            assert [due.destination for due in queues.held(session, "ris", "host:killed:1")] == ["ris"]
        with record.write() as session:
            assert leftovers.free(session, "host:killed:1") == 1
        run_messages(mine, "ris")
        assert ris.messages.get(timeout=5) == first
    assert states(record) == ["CONFIRMED"]


def test_the_queue_is_kept_in_order_whatever_happens_to_its_head(record: Record, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        finished(record, tmp_path, number)
    with Receiver(["AE", "AE", "AR", "AA", "AA"]) as ris:
        mine = sender(record, tmp_path, ris.destination())
        run_messages(mine, "ris")
        assert states(record) == ["PENDING"] * 3
        run_messages(mine, "ris")
        assert ris.messages.qsize() == 1
        hurry(record)
        run_messages(mine, "ris")
        hurry(record)
        run_messages(mine, "ris")
        sent = [control_id(ris.take()) for _ in range(5)]
    assert len(set(sent[:3])) == 1
    assert len(set(sent)) == 3
    assert states(record) == ["DEAD", "CONFIRMED", "CONFIRMED"]
    assert "answered AR" in rows(record)[0]["reason"]


def test_a_dead_letter_is_replayed_under_its_own_id(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path)
    with Receiver(["AR"]) as ris:
        mine = sender(record, tmp_path, ris.destination())
        run_messages(mine, "ris")
        assert states(record) == ["DEAD"]
        with record.write() as session:
            assert deliveries.retry(session, actor="anna", destination="ris") == 1
        run_messages(mine, "ris")
        first, second = ris.take(), ris.take()
    assert control_id(first) == control_id(second)
    assert states(record) == ["CONFIRMED"]


def test_errors_are_answered_a_bounded_number_of_times(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path)
    with Receiver(["AE"] * 3) as ris:
        mine = sender(record, tmp_path, ris.destination(max_errors=2))
        for _ in range(3):
            run_messages(mine, "ris")
            hurry(record)
        assert ris.messages.qsize() == 2
    assert rows(record)[0]["reason"] == "tried 2 times: ORU^R01 was answered AE: try again"


def test_a_system_that_is_away_loses_nothing_however_long(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path, 1)
    finished(record, tmp_path, 2)
    port = free_port()
    mine = sender(record, tmp_path, Hl7Destination(host="127.0.0.1", port=port))
    for _ in range(6):
        run_messages(mine, "ris")
        hurry(record)
    run_messages(mine, "ris")
    with record.read() as session:
        assert queues.waiting(session, "ris")[0] == 2
        # Nothing was ever sent: an identity that changes now is still heeded.
        assert session.scalars(select(SpooledMessage)).all() == []
    told = render(mine.settings, record).decode()
    assert 'radnode_hl7_waiting{destination="ris"} 2.0' in told
    assert 'radnode_hl7_oldest_wait_seconds{destination="ris"}' in told
    (first, second) = rows(record)
    assert (first["state"], first["attempts"], second["attempts"]) == ("PENDING", 0, 0)
    assert first["reason"] == "the destination is left alone after failures"
    with record.write() as session:
        session.query(Outbox).delete()
        deliveries.sweep(session, utcnow() + timedelta(days=1), grace_s=30)
        assert session.query(Outbox).count() > 0
        deliveries.retry(session, actor="anna")
        circuits.note_success(session, "ris")
    with Receiver(port=port):
        run_messages(mine, "ris")
    assert states(record) == ["CONFIRMED"] * 2


@pytest.mark.parametrize("kind", ["ORM^O01", "OMI^O23"])
def test_an_urgent_result_may_be_followed_by_a_change_of_priority(record: Record, tmp_path: Path, kind: str) -> None:
    finished(record, tmp_path)
    with Receiver(["AA", "AE", "AA"]) as ris:
        mine = sender(record, tmp_path, ris.destination(priority_change=kind))
        run_messages(mine, "ris")
        hurry(record)
        run_messages(mine, "ris")
        told, asked, again = ris.take(), ris.take(), ris.take()
    assert field(told, "MSH", 9).startswith("ORU^R01")
    assert field(asked, "MSH", 9).startswith(kind)
    # What was acknowledged before is not said twice.
    assert control_id(asked) == control_id(again) != control_id(told)
    assert asked["ORC.F1"] == "XO"
    urgent = asked["OBR.F27.R1.C6"] if kind == "ORM^O01" else asked["TQ1.F9.R1.C1"]
    assert urgent == "S"
    assert states(record) == ["CONFIRMED"]


def test_a_change_of_identity_reaches_what_was_not_sent_and_nothing_else(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path, 1)
    merge = identities.Change("ID-1", identities.Identity("ID-2", name="Maier^Eva"), "merge", "ADT|HOSP", "77")
    with Receiver([HANG_UP]) as ris:
        mine = sender(record, tmp_path, ris.destination())
        run_messages(mine, "ris")
        first = ris.messages.get(timeout=5)
        with record.write() as session:
            assert identities.change(session, merge, messages_to=["ris"]) == identities.Reached(0, 1)
        finished(record, tmp_path, 2)
        hurry(record)
        run_messages(mine, "ris")
        # May have been taken already: another text under its id would be another message.
        assert ris.messages.get(timeout=5) == first
        # A study that came after the change is taken as its header says.
        assert ris.take()["PID.F3.R1.C1"] == "ID-1|x"
        finished(record, tmp_path, 3)
        with record.write() as session:
            assert identities.change(session, merge, messages_to=["ris"]).applied == 1
        run_messages(mine, "ris")
        third = ris.take()
        assert (third["PID.F3.R1.C1"], third["PID.F5.R1.C1"]) == ("ID-2", "Maier")


def test_what_could_not_be_analysed_is_said_or_kept_as_wanted(record: Record, tmp_path: Path) -> None:
    summary = {"images": [{"sop_instance_uid": "1.2", "analysed": False, "reason": "lateral view"}]}
    for number in (1, 2):
        job_id = finished(record, tmp_path, number)
        with record.write() as session:
            job = session.get_one(Job, job_id)
            job.summary = summary
    with Receiver() as ris:
        run_messages(sender(record, tmp_path, ris.destination()), "ris")
        assert "not analysed: lateral view||||||X" in ris.messages.get(timeout=5)
        hurry(record)
    with Receiver() as ris:
        finished(record, tmp_path, 3)
        with record.write() as session:
            for job in session.scalars(select(Job)):
                job.summary = summary
        run_messages(sender(record, tmp_path, ris.destination(not_analysed=False)), "ris")
        assert ris.messages.empty()
    assert states(record) == ["CONFIRMED", "CONFIRMED", "WITHDRAWN"]


def test_a_report_that_is_gone_is_a_dead_letter_and_the_queue_goes_on(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path, 1)
    finished(record, tmp_path, 2)
    (tmp_path / "1.dcm").unlink()
    with Receiver() as ris:
        run_messages(sender(record, tmp_path, ris.destination()), "ris")
        assert ris.messages.qsize() == 1
    assert states(record) == ["DEAD", "CONFIRMED"]
    assert "restore it" in rows(record)[0]["reason"]


def test_sending_cut_short_is_tried_again_and_then_given_up(record: Record, tmp_path: Path) -> None:
    finished(record, tmp_path)
    mine = sender(record, tmp_path, Hl7Destination(host="127.0.0.1", port=free_port()))
    seen = []
    for _ in range(3):
        hurry(record)
        with record.write() as session:
            assert queues.claim_head(session, "ris", OWNER, lease_s=600) is not None
        hand_back(mine, "ris", "it took too long")
        seen.append(states(record)[0])
    assert seen == ["PENDING", "PENDING", "DEAD"]
