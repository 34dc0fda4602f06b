"""A day with the real parts: a node as `radnode serve` runs it, PostgreSQL that syncs, Redis, Orthanc as the PACS, and
DCMTK's `storescu` as what sends. The PACS is away for a while.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from bench.day.hospital import DAY_S, READ, Kind, Study
from bench.day.outcome import Done, Outcome
from db.session import Record
from db.tables import Delivery, Instance, Job, Result
from db.tables import Study as StudyRow
from tests.support.dcmtk import answers, storescu
from tests.support.node import SETTLED_DELIVERIES, SETTLED_JOBS, Node, part, peer_toml
from tests.support.orthanc import Modality, orthanc
from tests.support.postgres import cluster, running_cluster
from tests.support.processes import free_port
from tests.support.redis_server import redis_server
from tests.support.series import lively_series_bundle
from tests.support.site import Switch

CT_MODEL = "test-model"
READ_SLICES = 24
# Quiet periods and back-off are minutes in a hospital; the day is compressed, so they are, too.
_SETTINGS = """
[completeness]
quiet_period_s = 2.0
[delivery]
backoff_first_s = 0.5
backoff_max_s = 3.0
circuit_open_s = 2.0
max_attempts = 1000
connect_timeout_s = 2.0
commitment_grace_s = 2.0
commitment_timeout_s = 20.0
[work]
infer_processes = {workers}
jobs_at_once = {at_once}
model_dirs = ["{models}"]
"""
_ROUTE = """
[[routes]]
name = "{name}-{priority}"
models = ["{model}"]
destinations = ["pacs"]
priority = "{priority}"
mode = "{mode}"
match = {{ modality = ["{name}"], calling_ae = ["{calling}"] }}
"""
CALLING = {"stat": "EMERGENCY", "urgent": "WARD", "routine": "CLINIC"}
ARCHIVE = "ARCHIVE"
_PARTS = ("infer", "deliver", "listener", "keeper", "web")
_WITH_RESULTS = ("DONE", "NOT_ANALYSED")
WARM_UP = -1
_SENDERS = 8
_TAIL_S = 600.0


@dataclass
class Site:
    node: Node
    record: Record
    pacs: Switch
    worker_pid: int


@contextmanager
def site(folder: Path, workers: int, at_once: int, models: Path) -> Iterator[Site]:
    """A node that is ready, with its surroundings. at_once: jobs that a worker has under way at a time."""
    with ExitStack() as stack:
        database = stack.enter_context(cluster())
        stack.enter_context(running_cluster(database, durable=True))
        broker = stack.enter_context(redis_server(folder / "redis"))
        url = database.url(database.new_database())
        ports = free_port(), free_port()
        routes = "".join(
            _ROUTE.format(name=kind, model=model, mode=mode, priority=priority, calling=calling)
            for kind, model, mode in (("CR", "cxr-pneumonia", "instance"), ("CT", CT_MODEL, "study"))
            for priority, calling in CALLING.items()
        )
        node = Node(
            folder / "node",
            _SETTINGS.format(workers=workers, at_once=at_once, models=models)
            + peer_toml("pacs", "ORTHANC", ports[0])
            + routes,
            env={"RADNODE_DATABASE_URL": url, "RADNODE_BROKER_URL": broker},
        )
        known = (Modality("radnode", "RADNODE", node.dicom_port),)
        pacs = Switch(partial(orthanc, folder / "pacs", modalities=known, ports=ports))
        pacs.on()
        stack.callback(pacs.off)
        node.run("db", "upgrade")
        record = Record(url, pool_size=2)
        stack.callback(record.close)
        stack.callback(lambda: node.process and node.stop())
        node.start()
        # With a broker of its own `serve` would run the workers, too.
        worker = stack.enter_context(part(node, "worker"))
        yield Site(node, record, pacs, worker.pid)


def series_model(folder: Path) -> Path:
    """A folder of bundles with one of series, whose network is small and random: it reads as a real one does."""
    lively_series_bundle(folder / CT_MODEL, slices=READ_SLICES)
    return folder


def run_day(
    there: Site,
    workers: int,
    studies: list[Study],
    folders: dict[int, Path],
    seconds: float,
    outage: tuple[float, float],
) -> Outcome:
    """Send a day within that many seconds. outage: hours of the day from and to which the PACS is away."""
    node = there.node
    warm = _warm_up(there, folders)
    away = (outage[0] * seconds / 24, outage[1] * seconds / 24)
    found = Outcome(workers, seconds, outage_s=away)
    idle = _idle_writes(there.record)
    before, cpu = _written(there.record), _cpu(there)
    began, began_at = time.monotonic(), time.time()
    due: list[tuple[float, Callable[[], None]]] = [(away[0], there.pacs.off), (away[1], there.pacs.on)]
    sent: list[Future[None]] = []
    with _load_watched(found.loads), ThreadPoolExecutor(_SENDERS) as pool:

        def give(study: Study, at: float) -> None:
            found.lag_s.append(time.monotonic() - began - at)
            sent.append(pool.submit(_send, node, study, folders[study.number]))

        for study in studies:
            at = study.at_s * seconds / DAY_S
            due.append((at, partial(give, study, at)))
        for at, act in sorted(due, key=lambda one: one[0]):
            time.sleep(max(0.0, began + at - time.monotonic()))
            act()
        for one in sent:
            one.result()
        read = sum(study.kind in READ for study in studies)
        _settle(there, warm + read)
        found.drained_s = time.monotonic() - began
    after = _written(there.record)
    found.writes = {name: after[name] - before[name] - idle[name] * found.drained_s for name in after}
    found.cpu_s = {name: used - cpu.get(name, 0.0) for name, used in _cpu(there).items()}
    with there.record.read() as session:
        _read(session, found, began_at)
    if (told := sum(job.sent_s is not None for job in found.jobs)) != read:
        raise RuntimeError(f"{told} of {read} studies had results that went to the PACS; see the worker's log")
    return found


def _warm_up(there: Site, folders: dict[int, Path]) -> int:
    """A study for each model and worker, so that none is loaded within the day; how many jobs that were."""
    sent = [folder for number, folder in folders.items() if number <= WARM_UP]
    for folder in sent:
        storescu(there.node.dicom_port, folder, calling=CALLING["routine"])
    _settle(there, len(sent))
    return len(sent)


def _send(node: Node, study: Study, folder: Path) -> None:
    calling = ARCHIVE if study.kind is Kind.PRIOR else CALLING[study.priority]
    for _ in range(1 + study.again):
        outcome = storescu(node.dicom_port, folder, calling=calling, options=("-pdu", "131072"))
        if outcome.returncode or set(answers(outcome).values()) != {"Success"}:
            raise RuntimeError(f"study {study.number} was not taken: {outcome.stdout[-500:]}")


def _settle(there: Site, studies: int) -> None:
    """Until so many studies have a job that is done, and nothing is left to do."""
    until = time.monotonic() + _TAIL_S
    while time.monotonic() < until:
        with there.record.read() as session:
            done = session.scalar(select(func.count(Job.study_id.distinct())).where(Job.state.in_(_WITH_RESULTS)))
            jobs = select(func.count()).select_from(Job).where(Job.state.not_in(SETTLED_JOBS))
            deliveries = select(func.count()).select_from(Delivery).where(Delivery.state.not_in(SETTLED_DELIVERIES))
            left = [session.scalar(jobs), session.scalar(deliveries)]
        if done == studies and left == [0, 0]:
            return
        time.sleep(0.25)
    raise RuntimeError(f"{done} of {studies} studies are read, {left} jobs and deliveries are open; see the node's log")


def _read(session: Session, found: Outcome, began_at: float) -> None:
    def since(moment: datetime | None) -> float:
        if moment is None:
            raise RuntimeError("a job or a delivery of the day has not come to its end")
        return moment.timestamp() - began_at

    arrived = (
        select(Instance.study_id, func.max(Instance.received_at).label("last"))
        .where(Instance.own_result.is_(False))
        .group_by(Instance.study_id)
        .subquery()
    )
    at_pacs = (
        select(Result.job_id, func.max(Delivery.sent_at).label("sent"))
        .join(Delivery, Delivery.result_id == Result.id)
        .group_by(Result.job_id)
        .subquery()
    )
    rows = session.execute(
        select(Job, arrived.c.last, at_pacs.c.sent)
        .join(StudyRow, StudyRow.id == Job.study_id)
        .join(arrived, arrived.c.study_id == Job.study_id)
        .outerjoin(at_pacs, at_pacs.c.job_id == Job.id)
        .where(Job.started_at.is_not(None), Job.finished_at.is_not(None))
    )
    for job, last, sent in rows:
        if since(job.created_at) < 0:
            continue
        found.jobs.append(
            Done(
                Kind.CT if job.model == CT_MODEL else Kind.CR,
                job.priority,
                *map(since, (last, job.created_at, job.started_at, job.finished_at)),
                None if sent is None else since(sent),
            )
        )
    for made, sent in session.execute(select(Delivery.created_at, Delivery.sent_at)):
        if since(made) >= 0:
            found.deliveries.append((since(made), since(sent)))
    sizes = session.execute(
        select(Instance.received_at, Instance.size_bytes).where(Instance.own_result.is_(False))
    ).all()
    in_day = [size for at, size in sizes if since(at) >= 0]
    found.instances, found.received_bytes = len(in_day), sum(in_day)


def _written(record: Record) -> dict[str, float]:
    """Rows inserted, updated and deleted, and bytes of the write-ahead log, since the database was made."""
    with record.read() as session:
        rows = session.execute(
            text("SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) FROM pg_stat_user_tables")
        ).one()
        log = session.execute(text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")).scalar_one()
    return dict(zip(("inserted", "updated", "deleted", "wal_bytes"), map(float, (*rows, log)), strict=True))


def _idle_writes(record: Record, seconds: float = 5.0) -> dict[str, float]:
    """What an idle node writes in a second."""
    before = _written(record)
    time.sleep(seconds)
    return {name: (value - before[name]) / seconds for name, value in _written(record).items()}


def _cpu(there: Site) -> dict[str, float]:
    """CPU seconds so far of each part with all its processes, those that have ended and been waited for included."""
    assert there.node.process is not None
    parts = [psutil.Process(pid).children() for pid in (there.node.process.pid, there.worker_pid)]
    used: dict[str, float] = {}
    for one in (child for children in parts for child in children):
        words = " ".join(one.cmdline())
        name = next(known for known in _PARTS if known in words)
        used[name] = used.get(name, 0.0) + sum(map(_cpu_s, [one, *one.children(recursive=True)]))
    return used


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@contextmanager
def _load_watched(loads: list[float]) -> Iterator[None]:
    """Add the machine's load every five seconds. Ends with the day, also with one that fails."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(5.0):
            loads.append(os.getloadavg()[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
