"""A node in parts, as a hospital runs it, with everything around it that may fail: each can be switched off and on.

The record is in PostgreSQL, the broker is Redis, results go to Orthanc through a proxy, and to a picky archive.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread
from pydicom.uid import generate_uid
from sqlalchemy import select

from db.session import Record
from db.tables import Delivery, Job, Result, Study
from tests.support.dcmtk import storescu
from tests.support.node import Node, peer_toml
from tests.support.orthanc import Orthanc, orthanc
from tests.support.peers import PickyArchive, picky_archive
from tests.support.postgres import PostgresServer, cluster, running_cluster
from tests.support.processes import eventually, free_port, listens
from tests.support.proxy import Proxy, proxy
from tests.support.redis_server import redis_server
from tests.support.shared import shared_dicom

SETTINGS = """
[delivery]
backoff_first_s = 0.2
backoff_max_s = 1.0
max_attempts = 500
circuit_open_s = 1.0
connect_timeout_s = 2.0
response_timeout_s = 3.0
commitment_grace_s = 0.5
commitment_timeout_s = 3.0
"""
ROUTE = """
[[routes]]
name = "{name}"
models = ["cxr-pneumonia"]
destinations = ["{name}"]
mode = "instance"
match = {{ modality = ["CR", "DX"], calling_ae = ["{calling}"] }}
"""
PACS, PICKY = "PACS", "PICKY"
_ENDS = {"DONE", "NOT_ANALYSED", "PARKED", "SUPERSEDED"}


class Switch:
    """Something that runs within a `with`, to be ended and begun again."""

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self.make = make
        self._running: ExitStack | None = None

    def on(self) -> None:
        stack = ExitStack()
        stack.enter_context(self.make())
        self._running = stack

    def off(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


@dataclass
class Site:
    """The node and its surroundings. Parts of the node are named as their commands."""

    node: Node
    record: Record
    database: PostgresServer
    database_runs: Switch
    broker_url: str
    broker_runs: Switch
    pacs: Orthanc
    line: Proxy
    picky: PickyArchive
    source: Path
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """One part as a service of its own, in a process group of its own."""
        with (self.node.folder / f"{name}.log").open("ab") as output:
            self.parts[name] = self.node.spawn(name, output=output)
        if name == "listener":
            eventually("the listener listens", lambda: listens(self.node.dicom_port), timeout_s=60)

    def stop(self, name: str) -> int:
        """SIGTERM; the exit status."""
        process = self.parts.pop(name)
        process.terminate()
        return process.wait(60)

    def kill(self, name: str) -> None:
        """kill -9 of a part with all its processes."""
        process = self.parts.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def workers(self, role: str) -> list[psutil.Process]:
        """The processes that do the work of a role, not those that watch them."""
        watching = psutil.Process(self.parts["worker"].pid).children()
        return [child for one in watching if f"{role}-" in " ".join(one.cmdline()) for child in one.children()]

    def send(self, calling: str, count: int = 1) -> list[str]:
        """So many radiographs, each a study of its own, from that AE title; the studies' UIDs."""
        folder = self.node.folder / "sent" / generate_uid()
        folder.mkdir(parents=True)
        studies = []
        for number in range(count):
            dataset = dcmread(self.source)
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.save_as(folder / f"{number}.dcm")
            studies.append(str(dataset.StudyInstanceUID))
        sent = storescu(self.node.dicom_port, folder, calling=calling)
        assert sent.returncode == 0, sent.stdout[-2000:]
        return studies

    def jobs(self, studies: list[str]) -> list[Job]:
        query = select(Job).join(Study, Study.id == Job.study_id).where(Study.study_instance_uid.in_(studies))
        with self.record.read() as session:
            return list(session.scalars(query))

    def results(self, studies: list[str]) -> list[Result]:
        with self.record.read() as session:
            return list(session.scalars(select(Result).where(Result.study_instance_uid.in_(studies))))

    def deliveries(self, studies: list[str]) -> list[Delivery]:
        query = select(Delivery).join(Result, Result.id == Delivery.result_id)
        with self.record.read() as session:
            return list(session.scalars(query.where(Result.study_instance_uid.in_(studies))))

    def wait(self, what: str, probe: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
        try:
            return eventually(what, probe, timeout_s=timeout_s, poll_s=0.05)
        except BaseException:
            for name in ("keeper", "worker"):
                log = self.node.folder / f"{name}.log"
                sys.stderr.write(f"--- {name} ---\n{log.read_text(errors='replace')[-4000:]}\n")
            raise

    def wait_until_running(self, studies: list[str]) -> None:
        self.wait("a worker is at a job", lambda: any(j.state == "RUNNING" for j in self.jobs(studies)))

    def wait_delivered(
        self, studies: list[str], states: frozenset[str] = frozenset({"CONFIRMED"}), *, timeout_s: float = 60.0
    ) -> None:
        """Until each study's job is over and all its deliveries are in `states`."""

        def over() -> bool:
            jobs, deliveries = self.jobs(studies), self.deliveries(studies)
            done = len({job.study_id for job in jobs}) == len(studies) and all(job.state in _ENDS for job in jobs)
            return (
                done
                and {delivery.job_id for delivery in deliveries} == {job.id for job in jobs}
                and all(delivery.state in states for delivery in deliveries)
            )

        self.wait(f"{len(studies)} studies are delivered", over, timeout_s=timeout_s)

    def assert_exactly_once(self, studies: list[str], held: Counter[str] | None = None) -> None:
        """One job a study, one report a job, and the destination holds the record's results and nothing else.

        held: the objects that the destination has, by SOP Instance UID; without it Orthanc is asked.
        """
        jobs, results = self.jobs(studies), self.results(studies)
        assert Counter(job.state for job in jobs) == {"DONE": len(studies)}
        assert Counter(r.job_id for r in results if r.kind == "SR") == Counter(job.id for job in jobs)
        for job in jobs:
            images = job.summary["images"]
            positive = [f for image in images for f in image["findings"] if f["presence"] == "present"]
            assert len([r for r in results if r.job_id == job.id and r.kind == "SC"]) == len(positive)
        expected = Counter(result.sop_instance_uid for result in results)
        assert set(expected.values()) == {1}
        assert (held if held is not None else self.in_pacs(studies)) == expected

    def in_pacs(self, studies: list[str]) -> Counter[str]:
        found: Counter[str] = Counter()
        for study in studies:
            found.update(self.pacs.tags(one)["SOPInstanceUID"] for one in self.pacs.instances(study))
        return found


@contextmanager
def running_site(folder: Path, more: str = "") -> Iterator[Site]:
    """A whole site, all parts running. more: settings beside those above."""
    with ExitStack() as stack:
        database = stack.enter_context(cluster())
        database_runs = Switch(partial(running_cluster, database, crash=True))
        broker_port = free_port()
        broker_runs = Switch(partial(redis_server, folder / "redis", port=broker_port))
        for switch in (database_runs, broker_runs):
            switch.on()
            stack.callback(switch.off)
        pacs = stack.enter_context(orthanc(folder / "pacs"))
        line = stack.enter_context(proxy(pacs.dicom_port))
        picky = stack.enter_context(picky_archive())
        peers = peer_toml("pacs", "ORTHANC", line.port) + peer_toml("picky", PICKY, picky.port)
        routes = ROUTE.format(name="pacs", calling=PACS) + ROUTE.format(name="picky", calling=PICKY)
        record_url, broker_url = database.url(database.new_database()), f"redis://127.0.0.1:{broker_port}/0"
        node = Node(
            folder / "node",
            SETTINGS + more + peers + routes,
            env={"RADNODE_DATABASE_URL": record_url, "RADNODE_BROKER_URL": broker_url},
        )
        node.run("db", "upgrade")
        record = Record(record_url, pool_size=2)
        stack.callback(record.close)
        site = Site(node, record, database, database_runs, broker_url, broker_runs, pacs, line, picky, _source(folder))
        try:
            for name in ("listener", "keeper", "worker"):
                site.start(name)
            yield site
        finally:
            for process in site.parts.values():
                process.terminate()
            for process in site.parts.values():
                process.wait(60)


def _source(folder: Path) -> Path:
    """A radiograph that the model finds positive, so that there are a report and a picture to deliver."""
    dataset = dcmread(shared_dicom() / "cxr_wrapped" / "wrap_09_pneumonia.dcm")
    dataset.decompress()
    path = folder / "source.dcm"
    dataset.save_as(path)
    return path
