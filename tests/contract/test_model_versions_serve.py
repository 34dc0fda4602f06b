"""Which version reads a job, on both databases: the shipped bundle, and the same one installed as a later version."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db import listing, model_versions
from db.domain import NewJob
from db.model_versions import ModelVersionView, NewModelVersion
from db.session import Record
from db.states import ModelState
from models.registry import SHIPPED, Bundle, load_bundle
from node.settings import Peer, Settings, Work
from tests.support import records
from tests.support.jobs import stored
from workers.loaded import Loaded, LoadedModels, ModelUnusable
from workers.pipeline import Worker, run_job
from workers.sandbox import Decoders

MODEL = "cxr-pneumonia"
POSITIVE, NORMAL, SECOND = (f"cxr_wrapped/wrap_{name}.dcm" for name in ("09_pneumonia", "01_normal", "02_normal"))
LATER = "99.0.1"


@pytest.fixture(scope="session")
def later(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped bundle under a later version: other digest, same answers."""
    folder = tmp_path_factory.mktemp("later") / MODEL
    shutil.copytree(SHIPPED / MODEL, folder)
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps(manifest | {"version": LATER}), encoding="utf-8")
    return load_bundle(folder)


@pytest.fixture(scope="session")
def both(later: Bundle) -> list[Loaded]:
    """Loaded once: compiling them takes TensorFlow."""
    shipped = LoadedModels(Settings()).get(MODEL)
    return [shipped, Loaded(later, type(shipped.runner)(later))]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    peers = {"pacs": Peer(ae_title="MODALITY", host="127.0.0.1")}
    return Settings(data_dir=tmp_path / "data", peers=peers, work=Work(max_attempts=1))


class Warm(LoadedModels):
    """The real thing, with networks that were loaded before."""

    def __init__(self, settings: Settings, record: Record, loaded: list[Loaded]) -> None:
        super().__init__(settings, record)
        for one in loaded:
            self._keep(one)
        self._by_id[MODEL] = loaded[0].bundle.identity.bundle_digest if loaded else ""


@pytest.fixture
def worker(settings: Settings, record: Record, both: list[Loaded], decoders: Decoders) -> Worker:
    return Worker(settings, record, Warm(settings, record, both), decoders, "host:infer:1")


def install(settings: Settings, record: Record, bundle: Bundle, signed_by: str = "key1") -> ModelVersionView:
    """Validated, as `radnode models install` leaves it."""
    digest = bundle.identity.bundle_digest
    shutil.copytree(bundle.folder, settings.data_dir / "models" / digest)
    new = NewModelVersion(MODEL, bundle.manifest.version, digest, f"models/{digest}", "a" * 64, signed_by)
    with record.write() as session:
        found = model_versions.install(session, new, actor="test")
        model_versions.validated(session, MODEL, new.version, actor="test")
    return found


def change(record: Record, act: Callable[..., Any], *arguments: str) -> None:
    with record.write() as session:
        act(session, MODEL, *arguments, actor="test")


def read(worker: Worker, name: str) -> dict[str, Any]:
    """One image's whole way through a job; the job as `radnode jobs` lists it."""
    image = stored(worker.settings, name)
    records.receive(worker.record, image)
    view = records.load(worker.record, image.study_instance_uid)
    records.settle(worker.record, view, records.revision(view, jobs=(NewJob(MODEL, "routine", ("sender",)),)))
    with worker.record.read() as session:
        (job_id,) = [row["id"] for row in listing.jobs(session) if row["state"] == "QUEUED"]
    run_job(worker, job_id)
    with worker.record.read() as session:
        return next(row for row in listing.jobs(session) if row["id"] == job_id)


def deliveries(record: Record, job: dict[str, Any]) -> list[tuple[str, str]]:
    with record.read() as session:
        return [(row["kind"], row["state"]) for row in listing.deliveries(session) if row["job_id"] == job["id"]]


def test_an_activation_takes_effect_at_the_next_job_and_so_does_a_rollback(
    worker: Worker, settings: Settings, record: Record, later: Bundle
) -> None:
    shipped = worker.models.get(MODEL).bundle.manifest.version
    install(settings, record, later)
    assert read(worker, POSITIVE)["model_version"] == shipped
    change(record, model_versions.activate, LATER)
    job = read(worker, NORMAL)
    assert (job["state"], job["model_version"]) == ("DONE", LATER)
    change(record, model_versions.rollback)
    assert read(worker, SECOND)["model_version"] == shipped


def test_the_shadow_reads_along_and_nothing_it_says_is_sent(
    worker: Worker, settings: Settings, record: Record, later: Bundle
) -> None:
    found = install(settings, record, later)
    change(record, model_versions.shadow, LATER)
    job = read(worker, POSITIVE)
    said = job["summary"]["shadow"]
    assert job["model_version"] == worker.models.get(MODEL).bundle.manifest.version != LATER
    assert (said["version"], said["digest"], said["analysed"]) == (LATER, found.digest, True)
    # The same network under another version says the same of the same image.
    assert said["images"] == job["summary"]["images"]
    assert deliveries(record, job) == [("SR", "PENDING"), ("SC", "PENDING")]
    files = [path.read_bytes() for path in (settings.data_dir / "results").rglob("*.dcm")]
    assert len(files) == 2
    assert all(LATER.encode() not in data for data in files)


def test_a_shadow_that_cannot_even_be_loaded_harms_no_job(
    worker: Worker, settings: Settings, record: Record, later: Bundle, both: list[Loaded]
) -> None:
    found = install(settings, record, later)
    (settings.data_dir / found.folder / "weights.npz").write_bytes(b"damaged")
    change(record, model_versions.shadow, LATER)
    job = read(replace(worker, models=Warm(settings, record, both[:1])), POSITIVE)
    assert job["state"] == "DONE"
    assert len(deliveries(record, job)) == 2
    said = job["summary"]["shadow"]
    assert said["analysed"] is False
    assert "weights.npz is not what it was" in said["reason"]


def test_a_shadow_that_breaks_in_an_unforeseen_way_harms_no_job(
    worker: Worker, settings: Settings, record: Record, later: Bundle, both: list[Loaded]
) -> None:
    class Broken:
        head = None

        def run(self, batch: Any) -> Any:
            raise ZeroDivisionError

    install(settings, record, later)
    change(record, model_versions.shadow, LATER)
    job = read(replace(worker, models=Warm(settings, record, [both[0], Loaded(later, Broken())])), POSITIVE)
    assert (job["state"], job["summary"]["shadow"]["reason"]) == ("DONE", "unforeseen ZeroDivisionError")
    assert len(deliveries(record, job)) == 2


def test_an_active_version_that_was_changed_on_disk_parks_the_job(
    worker: Worker, settings: Settings, record: Record, later: Bundle, both: list[Loaded]
) -> None:
    found = install(settings, record, later)
    manifest = settings.data_dir / found.folder / "model.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(LATER, "99.0.2"), encoding="utf-8")
    change(record, model_versions.activate, LATER)
    job = read(replace(worker, models=Warm(settings, record, both[:1])), POSITIVE)
    assert job["state"] == "PARKED"
    assert "not what was installed" in job["reason"]
    assert deliveries(record, job) == []


def test_clinical_mode_reads_with_no_version_that_nobody_signed(
    settings: Settings, record: Record, later: Bundle
) -> None:
    install(settings, record, later, signed_by="")
    change(record, model_versions.activate, LATER)
    models = LoadedModels(settings.model_copy(update={"clinical_mode": True}), record)
    with pytest.raises(ModelUnusable, match="nobody signed it"):
        models.get(MODEL)


def test_a_model_that_is_kept_is_there_while_another_is_being_loaded(
    settings: Settings, record: Record, both: list[Loaded], tmp_path: Path
) -> None:
    slow = tmp_path / "more" / "slow" / "model.json"
    slow.parent.mkdir(parents=True)
    os.mkfifo(slow)
    work = settings.work.model_copy(update={"model_dirs": (tmp_path / "more",)})
    models = Warm(settings.model_copy(update={"work": work}), record, both)
    with ThreadPoolExecutor(2) as threads:
        loading = threads.submit(models.get, "slow")
        with slow.open("wb"):
            # It is being read: from here on until the file ends.
            assert threads.submit(models.get, MODEL).result(30) is both[0]
        with pytest.raises(ModelUnusable):
            loading.result(30)


def test_as_many_models_are_kept_as_the_settings_say(
    settings: Settings, record: Record, later: Bundle, both: list[Loaded]
) -> None:
    version = install(settings, record, later)
    change(record, model_versions.shadow, LATER)
    roomy = Warm(settings, record, both)
    assert (roomy.get(MODEL), roomy.installed(version)) == tuple(both)
    narrow = Warm(settings.model_copy(update={"work": Work(models_kept=1)}), record, both)
    # The one used last is there, the other was dropped and is loaded anew.
    assert narrow.installed(version) is both[1]
    anew = narrow.get(MODEL)
    assert anew is not both[0]
    assert anew.bundle.identity == both[0].bundle.identity
    assert narrow.get(MODEL) is anew
    assert narrow.version_in(ModelState.ACTIVE, MODEL) is None
