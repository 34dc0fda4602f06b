"""Jobs on both databases, with the shipped model and real files: done, refused, parked, taken over, run again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import event, update

from db import identities, jobs, listing
from db.domain import NewInstance
from db.session import Record
from db.tables import Job
from node.bell import RELAY, Bell
from node.settings import Settings, Work
from node.settings_hl7 import Hl7
from tests.support import hostile, records
from tests.support.hl7_peer import Receiver
from tests.support.jobs import Preloaded, queued, stored
from tests.support.shared import shared_dicom
from workers.deliver import Sender
from workers.loaded import Loaded, LoadedModels
from workers.messages import run_messages
from workers.pipeline import Worker, finish_job, hand_back_unfinished, run_job

POSITIVE = "cxr_wrapped/wrap_09_pneumonia.dcm"
LATERAL = "cxr/nih_udacity_test6.dcm"


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    """The shipped model, loaded once: compiling it takes TensorFlow."""
    return LoadedModels(Settings()).get("cxr-pneumonia")


def queue(
    record: Record, *images: NewInstance, model: str = "cxr-pneumonia", destinations: tuple[str, ...] = ("sender",)
) -> str:
    """A job for the shipped model, unless told otherwise."""
    return queued(record, *images, model=model, destinations=destinations)


def state(record: Record, what: Callable[..., list[dict[str, Any]]] = listing.jobs) -> list[dict[str, Any]]:
    with record.read() as session:
        return what(session)


def result_files(settings: Settings) -> dict[str, bytes]:
    """UID to bytes of everything below results/."""
    found = [path.read_bytes() for path in (settings.data_dir / "results").rglob("*.dcm")]
    paths = (settings.data_dir / "results").rglob("*.dcm")
    return {
        str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): data
        for path, data in zip(paths, found, strict=True)
    }


def test_a_positive_image_becomes_a_report_and_a_picture_for_its_sender(
    worker: Worker, record: Record, settings: Settings
) -> None:
    run_job(worker, queue(record, stored(settings, POSITIVE)))
    (job,) = state(record)
    assert (job["state"], job["model_version"] != "") == ("DONE", True)
    (instance,) = state(record, listing.instances)
    assert instance["state"] == "ANALYSED"
    deliveries = state(record, listing.deliveries)
    assert [(d["kind"], d["destination"], d["state"]) for d in deliveries] == [
        ("SR", "pacs", "PENDING"),
        ("SC", "pacs", "PENDING"),
    ]
    assert set(result_files(settings)) == {d["sop_instance_uid"] for d in deliveries}


def test_a_peer_that_takes_key_objects_gets_one_where_something_was_found_and_the_others_do_not(
    worker: Worker, record: Record, settings: Settings
) -> None:
    plain = settings.peers["pacs"]
    peers = {"pacs": plain, "flags": plain.model_copy(update={"ae_title": "MODALITY", "key_objects": True})}
    route = settings.routes[0].model_copy(update={"destinations": ("pacs", "flags")})
    both = replace(worker, settings=settings.model_copy(update={"peers": peers, "routes": (route,)}))
    run_job(both, queue(record, stored(settings, POSITIVE), destinations=("pacs", "flags")))
    sent = [(d["kind"], d["destination"]) for d in state(record, listing.deliveries)]
    assert sorted(sent) == [("KO", "flags"), *((kind, to) for kind in ("SC", "SR") for to in ("flags", "pacs"))]


def test_a_message_that_comes_twice_does_nothing_the_second_time(
    worker: Worker, record: Record, settings: Settings
) -> None:
    job_id = queue(record, stored(settings, POSITIVE))
    run_job(worker, job_id)
    before = (state(record), result_files(settings))
    run_job(worker, job_id)
    run_job(worker, "no-such-job")
    assert (state(record), result_files(settings)) == before


def test_what_is_done_wakes_the_relay(worker: Worker, record: Record, settings: Settings) -> None:
    hung = Bell(settings.data_dir, RELAY)
    job_id = queue(record, stored(settings, POSITIVE))
    began = time.monotonic()
    run_job(worker, job_id)
    hung.wait(threading.Event(), 120)
    hung.close()
    assert time.monotonic() - began < 60


def test_a_job_is_held_while_its_model_is_being_loaded(
    worker: Worker, record: Record, settings: Settings, loaded: Loaded
) -> None:
    job_id = queue(record, stored(settings, POSITIVE))
    leases: list[Any] = []

    def load() -> None:
        until = time.monotonic() + 30
        while len(set(leases)) < 2 and time.monotonic() < until:
            with record.read() as session:
                leases.append(session.get_one(Job, job_id).lease_until)

    brief = settings.model_copy(update={"work": settings.work.model_copy(update={"lease_s": 1.5})})
    run_job(replace(worker, settings=brief, models=Preloaded(settings, loaded, load)), job_id)
    assert leases[0] < leases[-1]
    assert state(record)[0]["state"] == "DONE"


def test_a_job_taken_over_gives_the_very_same_objects_once(
    worker: Worker, record: Record, settings: Settings, loaded: Loaded
) -> None:
    """The first worker has written its files when it finds its lease gone; the second one's are equal to the byte."""
    job_id = queue(record, stored(settings, POSITIVE))
    stolen: list[bool] = []

    def steal() -> None:
        if not stolen:
            stolen.append(True)
            with record.write() as session:
                jobs.release(session, "host:infer:1")
            assert records.claim(record, job_id, "host:infer:2", lease_s=-1.0) is not None

    first = replace(worker, models=Preloaded(settings, loaded, steal))
    run_job(first, job_id)
    written = result_files(settings)
    assert written
    assert state(record)[0]["state"] == "RUNNING"
    run_job(replace(worker, owner="host:infer:3", settings=settings.model_copy(update={"work": Work()})), job_id)
    assert state(record)[0]["state"] == "DONE"
    assert result_files(settings) == written
    assert len(state(record, listing.deliveries)) == len(written)


def test_what_the_model_must_not_read_gets_a_report_that_says_so(
    worker: Worker, record: Record, settings: Settings
) -> None:
    run_job(worker, queue(record, stored(settings, LATERAL)))
    (job,) = state(record)
    assert (job["state"], job["reason"]) == ("NOT_ANALYSED", "view not stated")
    (delivery,) = state(record, listing.deliveries)
    assert delivery["kind"] == "SR"


def test_pixels_that_cannot_be_decoded_are_a_reason_too(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    broken = dcmread(shared_dicom() / "cxr_wrapped/wrap_01_normal.dcm")
    # One fragment that holds the start and the end of a JPEG stream and nothing between them.
    item, delimiter = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
    broken.PixelData = item + bytes(4) + item + b"\x04\x00\x00\x00\xff\xd8\xff\xd9" + delimiter + bytes(4)
    broken.save_as(tmp_path / "broken.dcm")
    run_job(worker, queue(record, stored(settings, tmp_path / "broken.dcm")))
    (job,) = state(record)
    assert job["state"] == "NOT_ANALYSED"
    assert job["reason"]
    assert [d["kind"] for d in state(record, listing.deliveries)] == ["SR"]


def test_one_unreadable_image_does_not_keep_the_others_from_being_read(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    good = stored(settings, POSITIVE)
    lateral = dcmread(shared_dicom() / POSITIVE)
    lateral.SOPInstanceUID = lateral.file_meta.MediaStorageSOPInstanceUID = f"{lateral.SOPInstanceUID[:50]}.2"
    lateral.ViewPosition = "LL"
    lateral.save_as(tmp_path / "lateral.dcm")
    run_job(worker, queue(record, good, stored(settings, tmp_path / "lateral.dcm")))
    (job,) = state(record)
    assert job["state"] == "DONE"
    assert "1 of 2 images were not analysed: lateral view" in job["reason"]
    assert [i["state"] for i in state(record, listing.instances)] == ["ANALYSED", "NOT_ANALYSED"]
    assert [d["kind"] for d in state(record, listing.deliveries)] == ["SR", "SC"]


def poison(settings: Settings, folder: Path, like: Path) -> NewInstance:
    """An image of the same study that ends every decoder which reads it."""
    study = dcmread(like, stop_before_pixels=True)
    file = hostile.deadly(
        folder / "poison.dcm",
        shared_dicom() / "ct_chest/P001/P001_054.dcm",
        StudyInstanceUID=study.StudyInstanceUID,
        SeriesInstanceUID=study.SeriesInstanceUID,
    )
    return stored(settings, file)


def test_a_poison_image_costs_itself_and_no_other(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    good = shared_dicom() / POSITIVE
    run_job(worker, queue(record, poison(settings, tmp_path, good), stored(settings, good)))
    (job,) = state(record)
    assert job["state"] == "DONE"
    assert "1 of 2 images were not analysed: its decoder died 2 times: it was ended by SIGABRT" in job["reason"]
    assert [i["state"] for i in state(record, listing.instances)] == ["NOT_ANALYSED", "ANALYSED"]
    assert [d["kind"] for d in state(record, listing.deliveries)] == ["SR", "SC"]


def test_where_poison_is_all_there_is_the_job_is_parked_until_a_person_retries_it(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    job_id = queue(record, poison(settings, tmp_path, shared_dicom() / POSITIVE))
    for _ in range(2):
        run_job(worker, job_id)
        (job,) = state(record)
        assert (job["state"], job["attempts"]) == ("PARKED", 1)
        assert "its decoder died 2 times: it was ended by SIGABRT" in job["reason"]
        assert "radnode parked" in job["reason"]
        assert [i["state"] for i in state(record, listing.instances)] == ["FAILED"]
        assert state(record, listing.deliveries) == []
        with record.write() as session:
            assert jobs.retry(session, job_id, actor="test")


def test_a_file_damaged_on_the_disk_is_reported_by_what_the_record_knows_of_it(
    worker: Worker, record: Record, settings: Settings
) -> None:
    image = stored(settings, POSITIVE)
    job_id = queue(record, image)
    (settings.data_dir / image.path).write_bytes(b"nothing of it is left")
    run_job(worker, job_id)
    (job,) = state(record)
    assert (job["state"], job["reason"]) == ("NOT_ANALYSED", "not a DICOM dataset")
    (report,) = result_files(settings).values()
    (evidence,) = dcmread(BytesIO(report)).CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == [image.sop_instance_uid]


def test_an_unknown_model_parks_the_job_and_names_what_there_is(
    worker: Worker, record: Record, settings: Settings
) -> None:
    run_job(worker, queue(record, stored(settings, POSITIVE), model="no-such-model"))
    (job,) = state(record)
    assert job["state"] == "PARKED"
    assert "cxr-pneumonia" in job["reason"]
    assert state(record, listing.instances)[0]["state"] == "FAILED"


def test_a_file_that_is_gone_parks_the_job(worker: Worker, record: Record, settings: Settings) -> None:
    image = stored(settings, POSITIVE)
    job_id = queue(record, image)
    (settings.data_dir / image.path).unlink()
    run_job(worker, job_id)
    (job,) = state(record)
    assert job["state"] == "PARKED"
    assert "restore it" in job["reason"]


def test_work_cut_short_is_tried_again_and_parked_in_the_end(
    worker: Worker, record: Record, settings: Settings
) -> None:
    job_id = queue(record, stored(settings, POSITIVE))
    assert records.claim(record, job_id, worker.owner, max_attempts=2) is not None
    hand_back_unfinished(worker, job_id, "it took too long")
    assert state(record)[0]["state"] == "QUEUED"
    with record.write() as session:
        session.execute(update(Job).values(available_at=records.NOON))
    assert records.claim(record, job_id, worker.owner, max_attempts=2) is not None
    hand_back_unfinished(worker, job_id, "it took too long")
    (job,) = state(record)
    assert (job["state"], job["reason"]) == ("PARKED", "tried 2 times: it took too long")


def test_a_job_whose_time_is_up_is_tried_again_and_counts_as_tried(
    worker: Worker, record: Record, settings: Settings
) -> None:
    short = settings.model_copy(update={"work": settings.work.model_copy(update={"soft_time_limit_s": 0})})
    run_job(replace(worker, settings=short), queue(record, stored(settings, POSITIVE)))
    (job,) = state(record)
    assert (job["state"], job["attempts"]) == ("QUEUED", 1)
    assert "work.soft_time_limit_s = 0" in job["reason"]


def test_what_nobody_foresaw_is_handed_back_and_said(
    worker: Worker, record: Record, settings: Settings, loaded: Loaded
) -> None:
    def fail() -> None:
        raise LookupError("of a library")

    finish_job(replace(worker, models=Preloaded(settings, loaded, fail)), queue(record, stored(settings, POSITIVE)))
    (job,) = state(record)
    assert (job["state"], job["attempts"]) == ("QUEUED", 1)
    assert job["reason"] == "unforeseen LookupError; see the worker's log"


def test_results_for_a_sender_nobody_configured_stay_and_say_so(
    worker: Worker, record: Record, settings: Settings
) -> None:
    lonely = replace(worker, settings=settings.model_copy(update={"peers": {}}))
    run_job(lonely, queue(record, stored(settings, POSITIVE)))
    (job,) = state(record)
    assert job["state"] == "DONE"
    assert "results stay on this node" in job["reason"]
    assert state(record, listing.deliveries) == []


def merge(record: Record, settings: Settings) -> None:
    """The patient of the one study is another one from now on."""
    change = identities.Change("", identities.Identity("ID-2", name="Müller^Eva"), "merge", "ADT^HOSP", "88")
    with record.write() as session:
        assert identities.change(session, change, messages_to=list(settings.hl7.destinations)).applied == 1


def test_a_merge_reaches_the_objects_of_a_job_that_has_not_run(
    worker: Worker, record: Record, settings: Settings
) -> None:
    job_id = queue(record, stored(settings, POSITIVE))
    merge(record, settings)
    run_job(worker, job_id)
    made = [dcmread(BytesIO(data)) for data in result_files(settings).values()]
    assert len(made) == 2
    source = dcmread(shared_dicom() / POSITIVE, stop_before_pixels=True)
    for result in made:
        assert (result.PatientID, str(result.PatientName)) == ("ID-2", "Müller^Eva")
        (original,) = result.OriginalAttributesSequence
        assert original.ModifyingSystem == "ADT^HOSP"
        (before,) = original.ModifiedAttributesSequence
        assert (before.PatientID, before.PatientName) == (source.PatientID, source.PatientName)


def test_a_merge_while_a_job_runs_has_it_read_again(
    worker: Worker, record: Record, settings: Settings, other_record: Callable[[], Record]
) -> None:
    job_id = queue(record, stored(settings, POSITIVE))
    elsewhere = other_record()
    asked: list[str] = []

    def meanwhile(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # Right after the worker has asked whom it works for.
        if "FROM identity_changes" in statement and not asked:
            asked.append(statement)
            merge(elsewhere, settings)

    event.listen(record.engine, "after_cursor_execute", meanwhile)
    run_job(worker, job_id)
    (job,) = state(record)
    assert (job["state"], job["attempts"]) == ("QUEUED", 0)
    with record.write() as session:
        session.execute(update(Job).values(available_at=records.NOON))
    run_job(worker, job_id)
    assert state(record)[0]["state"] == "DONE"
    assert {str(dcmread(BytesIO(data)).PatientID) for data in result_files(settings).values()} == {"ID-2"}


def test_a_result_is_told_with_the_codes_of_its_model(worker: Worker, record: Record, settings: Settings) -> None:
    with Receiver() as ris:
        hl7 = Hl7(destinations={"ris": ris.destination(assigning_authority="HOSP")})
        settings = settings.model_copy(update={"hl7": hl7})
        job_id = queue(record, stored(settings, POSITIVE))
        with record.write() as session:
            session.execute(update(Job).values(destinations=["sender", "ris"]))
        run_job(replace(worker, settings=settings), job_id)
        run_messages(Sender(settings, record, "host:deliver:1"), "ris")
        message = ris.take()
    assert [(d["kind"], d["destination"], d["state"]) for d in state(record, listing.deliveries)] == [
        ("SR", "pacs", "PENDING"),
        ("SR", "ris", "CONFIRMED"),
        ("SC", "pacs", "PENDING"),
    ]
    source = dcmread(shared_dicom() / POSITIVE, stop_before_pixels=True)
    assert message["PID.F3.R1.C1"] == source.PatientID
    observed = {str(one(3)): str(one(5)) for one in message.segments("OBX")}
    assert observed["233604007^Pneumonia^SCT"] == "52101004^Present^SCT"
    assert observed["110180^Study Instance UID^DCM"] == source.StudyInstanceUID
