"""Studies that are finished and delivered, with files behind them, and a process that keeps house."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import select

from db import deliveries, files, jobs
from db.domain import InstanceOutcome, NewInstance, NewResult
from db.session import Record
from db.states import InstanceState
from db.tables import Delivery, Job, Refusal, Result, Study
from db.types import utcnow
from node import storage
from node.incoming import IncomingFile
from tests.support.records import (
    CR,
    EXPLICIT,
    STUDY,
    WORKER,
    claim,
    image,
    load,
    outcome,
    receive,
    result,
    revision,
    settle,
)

ROOT = Path(__file__).parents[2]
# A keeper's house-keeping alone, under the name by which other keepers know that it has died.
_KEEP_HOUSE = """
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4
from db.session import Record
from node import logs
from node.retention import Housekeeper
from node.settings import load
from workers.alive import sign_in
from workers.upkeep import Upkeep
settings = load(Path(sys.argv[1]))
logs.configure(settings)
record = Record(settings.record_url)
Upkeep(settings, record).run_once()
keeper = Housekeeper(settings, record, sign_in(settings, "retention"))
print("begins", flush=True)
while keeper.run_once():
    pass
"""


def incoming_image(data_dir: Path, number: int, study: str, **changes: Any) -> tuple[Path, NewInstance]:
    """A file as the listener has it when all of it has come, and its row to be."""
    new = image(number, study, **changes)
    folder = storage.incoming_dir(data_dir)
    with IncomingFile(folder, CR, new.sop_instance_uid, EXPLICIT) as file:
        file.write(b"\1" * 64)
        file.sync()
        path = storage.derived_path(storage.INSTANCES, f"{new.sop_instance_uid}:{file.blake3}")
        temp = file.path.rename(folder / f"{uuid4().hex}.tmp")
        return temp, replace(new, path=path.as_posix(), blake3=file.blake3, sha256="", size_bytes=file.file_size)


def stored_image(data_dir: Path, number: int, study: str, **changes: Any) -> NewInstance:
    """The same under its final name."""
    temp, new = incoming_image(data_dir, number, study, **changes)
    storage.adopt(data_dir, temp, Path(new.path))
    return new


def stored_result(data_dir: Path, number: int, study: str) -> NewResult:
    new = result(number, study=study)
    path, data = storage.derived_path(storage.RESULTS, new.ref.sop_instance_uid), b"SR" * 50
    storage.store_bytes(data_dir, path, data)
    digest = hashlib.sha256(data).hexdigest()
    return replace(new, path=path.as_posix(), size_bytes=len(data), sha256=digest)


def delivered_study(record: Record, data_dir: Path, number: int, *, received_at: datetime | None = None) -> str:
    """Received, read, its report sent and confirmed; gives its UID."""
    study = f"{STUDY}.{number}"
    receive(record, stored_image(data_dir, number, study, received_at=received_at or utcnow()))
    view = load(record, study)
    (opened,) = settle(record, view, revision(view))
    with record.read() as session:
        job_id = session.scalars(select(Job.id).where(Job.revision_id == opened)).one()
    assert claim(record, job_id) is not None
    read = (InstanceOutcome(view.instances[0].id, InstanceState.ANALYSED, "read by cxr"),)
    made = replace(outcome(stored_result(data_dir, number, study)), instances=read)
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, made)
        for due in deliveries.claim(session, job_id, "pacs", "sender", lease_s=60):
            deliveries.mark_sent(session, due.id, "sender", due.ref, "Success")
            deliveries.confirm(session, [due.id], "storage commitment")
    return study


def keep_house(config: Path, *, kill_after_s: float = math.inf) -> int:
    """Delete all that may go, in a process of its own; its exit status. It may be killed that long after it began."""
    argv = [sys.executable, "-c", _KEEP_HOUSE, str(config)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        try:
            process.communicate(timeout=min(kill_after_s, 120.0))
        except subprocess.TimeoutExpired:
            process.kill()
    return process.returncode


def files_below(data_dir: Path) -> set[str]:
    """All stored files, relative to the data folder."""
    kinds = (storage.INSTANCES, storage.RESULTS, storage.QUARANTINE)
    return {
        path.relative_to(data_dir).as_posix()
        for kind in kinds
        for path in (data_dir / kind).rglob("*")
        if path.is_file()
    }


def assert_record_and_files_agree(record: Record, data_dir: Path) -> None:
    """No row names a file that is not there, and no file is there that neither a row nor a deletion names."""
    there = files_below(data_dir)
    with record.read() as session:
        named = {one.path for one in files.named_files(session)}
        going = files.going_files(session)
    assert named <= there
    assert there <= named | going


def age(data_dir: Path, paths: set[str], days: float) -> None:
    """Have the files look as if they had been written that long ago."""
    moment = time.time() - days * 86400
    for path in paths:
        os.utime(data_dir / path, (moment, moment))


def make_old(record: Record, by: timedelta) -> None:
    """All that has happened so far has happened that much earlier."""
    columns = {
        Study: ("first_received_at", "last_received_at"),
        Job: ("created_at", "finished_at"),
        Result: ("created_at",),
        Delivery: ("sent_at", "confirmed_at"),
        Refusal: ("at",),
    }
    with record.write() as session:
        for table, names in columns.items():
            for row in session.scalars(select(table)):
                for name in names:
                    if getattr(row, name) is not None:
                        setattr(row, name, getattr(row, name) - by)
