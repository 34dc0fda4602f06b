"""Jobs on real files without a listener: files stored and recorded as it would have, and models loaded beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from db.domain import NewInstance, NewJob
from db.session import Record
from db.states import Scope
from node import storage
from node.header import facts, read_file
from node.settings import Settings
from tests.support import records
from tests.support.shared import shared_dicom
from workers.loaded import Loaded, LoadedModels


class Preloaded(LoadedModels):
    """The real models, one of them loaded already; `before` runs whenever a job asks for its model."""

    def __init__(self, settings: Settings, loaded: Loaded, before: Callable[[], None] = lambda: None) -> None:
        super().__init__(settings)
        self._by_id[loaded.bundle.manifest.id] = self._keep(loaded).bundle.identity.bundle_digest
        self._before = before

    def get(self, model_id: str) -> Loaded:
        self._before()
        return super().get(model_id)


def stored(settings: Settings, file: str | Path) -> NewInstance:
    """Put a file into the data folder; what the listener would record of it. file: below the real ones, or absolute."""
    source = shared_dicom() / file
    header = read_file(source)
    relative = storage.derived_path(storage.INSTANCES, header.sop_instance_uid)
    (settings.data_dir / relative).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, settings.data_dir / relative)
    return records.image(
        study=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        path=relative.as_posix(),
        facts=facts(header, "MODALITY"),
        patient_id="",
    )


def queued(record: Record, *images: NewInstance, model: str, destinations: tuple[str, ...] = ("sender",)) -> str:
    """One job on all of these images, which are of one study."""
    records.receive(record, *images)
    view = records.load(record, images[0].study_instance_uid)
    revision = records.revision(view, scope=Scope.STUDY, jobs=(NewJob(model, "routine", destinations),))
    records.settle(record, view, revision)
    (job_id,) = records.job_ids(record)
    return job_id
