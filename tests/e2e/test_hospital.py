"""The parts as a hospital runs them: PostgreSQL, Redis, and each part of the node a service of its own."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import redis

from tests.support.association_profile import kinds, write_profile
from tests.support.dcmtk import storescu
from tests.support.hl7_peer import Receiver
from tests.support.node import Node, part, peer_toml
from tests.support.orthanc import orthanc
from tests.support.postgres import postgres_server
from tests.support.processes import eventually, listens
from tests.support.redis_server import redis_server
from tests.support.shared import shared_dicom

pytestmark = pytest.mark.e2e

ROUTE = """
[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "instance"
match = { modality = ["CR", "DX"] }
"""


def test_services_of_their_own_on_postgresql_and_redis(tmp_path: Path) -> None:
    with ExitStack() as site:
        database = site.enter_context(postgres_server())
        broker = site.enter_context(redis_server(tmp_path / "redis"))
        pacs = site.enter_context(orthanc(tmp_path / "pacs"))
        ris = site.enter_context(Receiver())
        told = f'[hl7.destinations.ris]\nhost = "127.0.0.1"\nport = {ris.port}\n'
        node = Node(
            tmp_path / "node",
            peer_toml("pacs", "ORTHANC", pacs.dicom_port) + told + ROUTE.replace('["pacs"]', '["pacs", "ris"]'),
            env={"RADNODE_DATABASE_URL": database.url(database.new_database()), "RADNODE_BROKER_URL": broker},
        )
        node.run("db", "upgrade")
        for name in ("listener", "keeper", "web"):
            site.enter_context(part(node, name))
        eventually("the listener listens", lambda: listens(node.dicom_port), timeout_s=60)
        file = shared_dicom() / "cxr_wrapped" / "wrap_06_pneumonia.dcm"
        # No worker runs yet: what arrives waits in the record.
        assert storescu(node.dicom_port, file).returncode == 0
        eventually("a job waits", lambda: [j["state"] for j in node.json("jobs")] == ["QUEUED"], timeout_s=60)
        with part(node, "worker", "--role", "infer"), part(node, "worker", "--role", "deliver"):
            eventually(
                "the results are confirmed",
                lambda: {d["state"] for d in node.json("deliveries")} == {"CONFIRMED"},
                timeout_s=120,
                poll_s=0.5,
            )
        deliveries = node.json("deliveries")
        assert pacs.count() == len([d for d in deliveries if d["destination"] == "pacs"])
        assert [d["kind"] for d in deliveries if d["destination"] == "ris"] == ["SR"]
        assert str(ris.take().segment("MSH")(9)) == "ORU^R01^ORU_R01"
        eventually("the web side answers", lambda: node.get("/readyz")[0] == 200, timeout_s=30)


def test_a_worker_that_is_killed_loses_no_job(tmp_path: Path) -> None:
    """Its lease runs out and another process takes the job, though Redis has been emptied meanwhile."""
    with ExitStack() as site:
        broker = site.enter_context(redis_server(tmp_path / "redis"))
        pacs = site.enter_context(orthanc(tmp_path / "pacs"))
        settings = "[work]\nlease_s = 2.0\n" + peer_toml("pacs", "ORTHANC", pacs.dicom_port) + ROUTE
        node = Node(tmp_path / "node", settings, env={"RADNODE_BROKER_URL": broker})
        for name in ("listener", "keeper"):
            site.enter_context(part(node, name))
        eventually("the listener listens", lambda: listens(node.dicom_port), timeout_s=60)
        files = sorted((shared_dicom() / "cxr_wrapped").glob("*.dcm"))
        with part(node, "worker", "--role", "infer") as worker:
            options = write_profile(tmp_path / "storescu.cfg", kinds(files))
            assert storescu(node.dicom_port, *files, options=options).returncode == 0
            eventually("some job runs", lambda: any(j["state"] == "RUNNING" for j in node.jobs()), poll_s=0.005)
            for process in [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]:
                process.send_signal(signal.SIGKILL)
        with redis.Redis.from_url(broker) as client:
            client.flushall()
        with part(node, "worker"):
            node.wait_settled(len(files), timeout_s=180)
        assert {job["state"] for job in node.jobs()} <= {"DONE", "NOT_ANALYSED"}
        assert {d["state"] for d in node.deliveries()} == {"CONFIRMED"}
