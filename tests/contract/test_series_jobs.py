"""Jobs on series of slices, on both databases: one report for the series, and an outcome for every image of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from db import jobs, listing
from db.session import Record
from models.registry import load_bundle
from models.runner import load_runner
from node.settings import Settings, Work
from tests.support import records
from tests.support.jobs import Preloaded, queued, stored
from tests.support.series import lively_series_bundle
from tests.support.shared import shared_dicom
from tests.support.validators import dciodvfy
from workers.loaded import Loaded
from workers.pipeline import Worker, run_job

pytestmark = [pytest.mark.tensorflow, pytest.mark.e2e]

CHEST = sorted((shared_dicom() / "ct_chest" / "P001").glob("*.dcm"))[:8]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Its weights are random; Keras needs no compiling."""
    folder = tmp_path_factory.mktemp("series-jobs") / "test-model"
    bundle = load_bundle(lively_series_bundle(folder, runtime={"cpu": "keras", "gpu": "keras"}))
    return Loaded(bundle, load_runner(bundle, "cpu"))


def results(settings: Settings) -> dict[str, bytes]:
    paths = sorted((settings.data_dir / "results").rglob("*.dcm"))
    return {str(path): path.read_bytes() for path in paths}


def test_a_series_becomes_one_report_and_survives_a_worker_that_loses_its_lease(
    worker: Worker, record: Record, settings: Settings, loaded: Loaded
) -> None:
    job_id = queued(record, *(stored(settings, path) for path in CHEST[::-1]), model="test-model")

    def steal() -> None:
        """Another worker takes the job over while this one reads."""
        with record.write() as session:
            jobs.release(session, "host:infer:1")
        assert records.claim(record, job_id, "host:infer:2", lease_s=-1.0) is not None

    run_job(replace(worker, models=Preloaded(settings, loaded, steal)), job_id)
    written = results(settings)
    run_job(replace(worker, owner="host:infer:3", settings=settings.model_copy(update={"work": Work()})), job_id)
    with record.read() as session:
        (job,) = listing.jobs(session)
        instances = listing.instances(session)
        deliveries = listing.deliveries(session)
    assert job["state"] == "DONE"
    assert {one["state"] for one in instances} == {"ANALYSED"}
    assert results(settings) == written
    made = {path: dcmread(path) for path in written}
    assert len(deliveries) == len(written) >= 2
    report = next(one for one in made.values() if one.Modality == "SR")
    evidence = {
        ref.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for ref in series.ReferencedSOPSequence
    }
    read = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in CHEST}
    assert len(evidence & read) == 4
    pictures = {str(one.SOPInstanceUID): one for one in made.values() if one.Modality != "SR"}
    assert set(pictures) == evidence - read
    assert {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in pictures.values()} <= evidence & read
    assert {path: dciodvfy(Path(path)).errors for path in written} == dict.fromkeys(written, ())


def test_a_gap_is_a_reason_and_a_report_that_says_so(worker: Worker, record: Record, settings: Settings) -> None:
    images = [stored(settings, path) for path in CHEST if path != CHEST[4]]
    run_job(worker, queued(record, *images, model="test-model"))
    with record.read() as session:
        (job,) = listing.jobs(session)
        instances = listing.instances(session)
        (delivery,) = listing.deliveries(session)
    assert (job["state"], delivery["kind"]) == ("NOT_ANALYSED", "SR")
    assert job["reason"].startswith("about 1 of 8 slices are missing")
    assert {one["state"] for one in instances} == {"NOT_ANALYSED"}
    assert {path: dciodvfy(Path(path)).errors for path in results(settings)} == dict.fromkeys(results(settings), ())
