"""Jobs of a model that compares: they wait without a worker, read the prior beside the image, and say what they had; on
both databases."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from db import identities, listing, priors
from db.prior_tables import PriorRequest
from db.priors import PriorFile
from db.session import Record
from db.states import JobState, PriorState
from db.tables import Job, Study
from db.types import utcnow
from models.registry import load_bundle
from models.runner import load_runner
from node import storage
from node.header import facts, read_file
from node.settings import Settings
from node.settings_priors import Priors
from tests.support import bundles
from tests.support.jobs import queued, stored
from tests.support.shared import shared_dicom
from tests.support.validators import dciodvfy, dsrdump
from workers.analysis import SourceInput, analyse, limits_for
from workers.loaded import Loaded
from workers.pipeline import Worker, run_job
from workers.priors import NO_PEER, NOT_FETCHED
from workers.sandbox import Decoders, JobFiles

MODEL = "test-comparing"
POSITIVE = "cxr_wrapped/wrap_09_pneumonia.dcm"
JANE = {"PatientID": "ID-1", "PatientName": "Doe^Jane", "PatientBirthDate": "19700102", "PatientSex": "F"}


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    bundle = load_bundle(bundles.comparing_bundle(tmp_path_factory.mktemp("bundle") / MODEL))
    return Loaded(bundle, load_runner(bundle, "cpu"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"priors": Priors(peer="pacs", wait_s=300.0)})


def image(folder: Path, name: str, **changes: Any) -> Path:
    """The positive radiograph as of that patient."""
    dataset = dcmread(shared_dicom() / POSITIVE)
    dataset.decompress()
    uids = {f"{level}InstanceUID": f"1.2.826.7.{number}.{sum(name.encode())}"
            for number, level in enumerate(("Study", "Series", "SOP"))}  # fmt: skip
    for keyword, value in {**JANE, **uids, **changes}.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path = folder / f"{name}.dcm"
    dataset.save_as(path)
    return path


def job(record: Record, settings: Settings, folder: Path) -> str:
    return queued(record, stored(settings, image(folder, "current", StudyDate="20260301")), model=MODEL)


def given(record: Record, settings: Settings, file: Path | None, state: PriorState = PriorState.FOUND) -> None:
    """What the desk would have fetched."""
    images = []
    if file is not None:
        header = read_file(file)
        relative = storage.derived_path(storage.PRIORS, header.sop_instance_uid)
        storage.store_bytes(settings.data_dir, relative, file.read_bytes())
        images.append(
            PriorFile(
                header.study_instance_uid,
                header.series_instance_uid,
                header.sop_instance_uid,
                header.sop_class_uid,
                header.study_date,
                relative.as_posix(),
                file.stat().st_size,
                "a" * 64,
                facts(header, ""),
            )
        )
    with record.write() as session:
        due = priors.claim_due(session, utcnow(), lease_s=60)
        assert due is not None
        assert priors.settle(session, due.id, state, reason="the peer holds none", images=images)


def row(record: Record) -> dict[str, Any]:
    with record.read() as session:
        (found,) = listing.jobs(session)
        return found


def summary(record: Record) -> dict[str, Any]:
    with record.read() as session:
        (found,) = session.scalars(select(Job.summary)).all()
        return dict(found["images"][0])


def report(settings: Settings) -> tuple[Path, Dataset]:
    found = [(path, dcmread(BytesIO(path.read_bytes()))) for path in (settings.data_dir / "results").rglob("*.dcm")]
    return next((path, dataset) for path, dataset in found if dataset.Modality == "SR")


def comments(dataset: Dataset) -> str:
    return "\n".join(item.TextValue for item in dataset.ContentSequence[-1].ContentSequence if "TextValue" in item)


def test_a_job_waits_in_the_queue_and_then_reads_the_prior_beside_the_image(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    job_id = job(record, settings, tmp_path)
    run_job(worker, job_id)
    assert (row(record)["state"], row(record)["reason"]) == ("QUEUED", priors.WAITING)
    # Whoever looks meanwhile finds nothing to do.
    run_job(worker, job_id)
    assert row(record)["state"] == "QUEUED"
    prior = image(tmp_path, "prior", StudyDate="20250301")
    given(record, settings, prior)
    run_job(worker, job_id)
    assert row(record)["state"] == "DONE"
    uids = {"study_instance_uid": "StudyInstanceUID", "sop_instance_uid": "SOPInstanceUID"}
    header = dcmread(prior, stop_before_pixels=True)
    assert summary(record)["prior"] == {key: str(header[keyword].value) for key, keyword in uids.items()}
    # The same picture as a year ago: nothing in it is new.
    assert summary(record)["findings"][0]["presence"] == "absent"

    path, dataset = report(settings)
    (other,) = dataset.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == header.StudyInstanceUID
    assert other.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    library = next(one for one in dataset.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "111028")
    named = [
        one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for group in library.ContentSequence
        for one in group.ContentSequence
    ]
    assert named[1:] == [header.SOPInstanceUID]
    assert f"was read beside an image of a prior study: SOP Instance UID {header.SOPInstanceUID}" in comments(dataset)
    assert dataset.StudyInstanceUID != header.StudyInstanceUID
    assert (dciodvfy(path).errors, dsrdump(path).errors, dsrdump(path).warnings) == ((), (), ())
    with record.read() as session:
        assert [one["sop_instance_uid"] for one in listing.instances(session)] != [header.SOPInstanceUID]
        assert len(listing.instances(session)) == 1


@pytest.mark.parametrize("state", [PriorState.ABSENT, PriorState.REFUSED, PriorState.FAILED])
def test_without_a_prior_it_is_read_alone_and_says_so(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path, state: PriorState
) -> None:
    job_id = job(record, settings, tmp_path)
    run_job(worker, job_id)
    given(record, settings, None, state)
    run_job(worker, job_id)
    assert row(record)["state"] == "DONE"
    assert summary(record)["prior"] == {"reason": "the peer holds none"}
    assert summary(record)["findings"][0]["presence"] == "present"
    _, dataset = report(settings)
    assert "PertinentOtherEvidenceSequence" not in dataset
    assert "was read without a prior study: the peer holds none" in comments(dataset)


def test_when_the_wait_is_over_it_is_read_without(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    job_id = job(record, settings, tmp_path)
    run_job(worker, job_id)
    with record.write() as session:
        session.execute(update(PriorRequest).values(wait_until=utcnow()))
        session.execute(update(Job).values(available_at=utcnow()))
    run_job(worker, job_id)
    assert (row(record)["state"], summary(record)["prior"]) == ("DONE", {"reason": priors.NOT_IN_TIME})


def test_a_node_without_a_peer_for_priors_does_not_wait(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    alone = settings.model_copy(update={"priors": Priors()})
    worker.settings = alone
    run_job(worker, job(record, alone, tmp_path))
    assert (row(record)["state"], summary(record)["prior"]) == ("DONE", {"reason": NO_PEER})


UNFIT: dict[str, tuple[dict[str, str], str]] = {
    "another patient": ({"PatientBirthDate": "19800101"}, "a prior is of another Patient's Birth Date"),
    "lateral": ({"ViewPosition": "LL"}, "a prior is not one the model reads: lateral view"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_prior_is_held_against_patient_and_rules_before_it_is_read(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path, case: str
) -> None:
    changes, reason = UNFIT[case]
    job_id = job(record, settings, tmp_path)
    run_job(worker, job_id)
    given(record, settings, image(tmp_path, "prior", **{"StudyDate": "20250301", **changes}))
    run_job(worker, job_id)
    assert row(record)["state"] == "DONE"
    assert summary(record)["prior"]["reason"].startswith(reason)
    assert "PertinentOtherEvidenceSequence" not in report(settings)[1]


def test_a_patient_who_is_another_since_the_fetch_is_not_compared(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    job_id = job(record, settings, tmp_path)
    run_job(worker, job_id)
    given(record, settings, image(tmp_path, "prior", StudyDate="20250301"))
    with record.write() as session:
        session.execute(update(Study).values(patient_id="ID-1"))
        identities.change(
            session, identities.Change("ID-1", identities.Identity("ID-2", name="Roe^Mary"), "update", "ADT", "1")
        )
    run_job(worker, job_id)
    assert row(record)["state"] == "DONE"
    assert summary(record)["prior"]["reason"] == "a prior is of another Patient ID, Patient's Name"


def test_an_image_that_names_another_patient_than_its_study_does_is_not_compared(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    own = image(tmp_path, "current", StudyDate="20260301")
    other = image(tmp_path, "other", StudyDate="20260301", StudyInstanceUID=read_file(own).study_instance_uid,
                  PatientID="ID-2")  # fmt: skip
    job_id = queued(record, stored(settings, own), stored(settings, other), model=MODEL)
    run_job(worker, job_id)
    given(record, settings, image(tmp_path, "prior", StudyDate="20250301"))
    run_job(worker, job_id)
    with record.read() as session:
        (found,) = session.scalars(select(Job.summary)).all()
    beside = {one["sop_instance_uid"]: one["prior"] for one in found["images"]}
    assert "sop_instance_uid" in beside[read_file(own).sop_instance_uid]
    assert beside[read_file(other).sop_instance_uid] == {"reason": "a prior is of another Patient ID"}


def test_a_prior_whose_file_is_gone_parks_nothing(
    worker: Worker, record: Record, settings: Settings, tmp_path: Path
) -> None:
    job_id = job(record, settings, tmp_path)
    run_job(worker, job_id)
    given(record, settings, image(tmp_path, "prior", StudyDate="20250301"))
    for path in (settings.data_dir / "priors").rglob("*.dcm"):
        path.unlink()
    run_job(worker, job_id)
    with record.read() as session:
        assert session.scalars(select(Job.state)).one() is JobState.DONE
    assert summary(record)["prior"]["reason"] == "a prior's file cannot be opened (FileNotFoundError)"


def test_files_read_without_a_node_say_that_nothing_was_fetched(
    loaded: Loaded, decoders: Decoders, settings: Settings, tmp_path: Path
) -> None:
    files = JobFiles(decoders, limits_for(settings.work))
    analysis = analyse(loaded, [SourceInput(image(tmp_path, "current", StudyDate="20260301"))], files)
    assert analysis.analysed
    assert analysis.sources[0].without_prior == NOT_FETCHED
