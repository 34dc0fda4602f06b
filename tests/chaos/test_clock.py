"""The wall clock is set by hours, both ways, while the node works. Observed: nothing waits for it or is done twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.clock import WallClock
from tests.support.dcmtk import storescu
from tests.support.figures import note_figure
from tests.support.node import Node, Row, part, peer_toml
from tests.support.orthanc import Orthanc, orthanc
from tests.support.processes import free_port
from tests.support.proxy import PASS, Fault, Proxy, proxy
from tests.support.redis_server import redis_server
from tests.support.shared import shared_dicom
from tests.support.site import Switch

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

SETTINGS = """
[delivery]
connect_timeout_s = 2.0
commitment_grace_s = 0.2
backoff_first_s = 1.0
backoff_max_s = {backoff_max_s}

[completeness]
quiet_period_s = 2.0

[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "study"
match = {{ modality = ["CR", "DX"] }}
"""
HOUR = timedelta(hours=1)
WITHIN_S = 30.0


@dataclass
class Timed:
    node: Node
    pacs: Orthanc
    line: Proxy
    clock: WallClock
    folder: Path

    def send(self, images: int = 1) -> str:
        """A study of so many images; its UID. One image is read faster than a test can see it being read."""
        dataset = dcmread(shared_dicom() / "cxr_wrapped" / "wrap_09_pneumonia.dcm")
        dataset.decompress()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        paths = []
        for _ in range(images):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            paths.append(self.folder / f"{dataset.SOPInstanceUID}.dcm")
            dataset.save_as(paths[-1])
        assert storescu(self.node.dicom_port, *paths).returncode == 0
        return str(dataset.StudyInstanceUID)

    def deliveries(self, study: str) -> list[Row]:
        return [row for row in self.node.deliveries() if row["study_instance_uid"] == study]

    def wait(self, study: str, states: set[str], what: str) -> float:
        """Seconds until its deliveries are in these states."""
        at = time.monotonic()

        def there(_: Node) -> bool:
            rows = self.deliveries(study)
            return bool(rows) and {row["state"] for row in rows} <= states

        self.node.wait(what, there, timeout_s=WITHIN_S)
        return time.monotonic() - at

    def assert_exactly_once(self, study: str) -> None:
        expected = Counter(row["sop_instance_uid"] for row in self.deliveries(study))
        assert set(expected.values()) == {1}
        assert Counter(row["kind"] for row in self.deliveries(study))["SR"] == 1
        held = [self.pacs.tags(one)["SOPInstanceUID"] for one in self.pacs.instances(study)]
        assert Counter(held) == expected


def timed(folder: Path, backoff_max_s: float, broker_url: str = "") -> Iterator[Timed]:
    clock = WallClock(folder)
    with ExitStack() as stack:
        pacs = stack.enter_context(orthanc(folder / "pacs"))
        line = stack.enter_context(proxy(pacs.dicom_port))
        settings = peer_toml("pacs", "ORTHANC", line.port) + SETTINGS.format(backoff_max_s=backoff_max_s)
        broker = {"RADNODE_BROKER_URL": broker_url} if broker_url else {}
        node = Node(folder / "node", settings, env=clock.env | broker)
        node.start()
        try:
            yield Timed(node, pacs, line, clock, folder)
        finally:
            node.stop()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Timed]:
    yield from timed(tmp_path, 5.0)


def test_set_back_an_hour_and_forward_two(site: Timed) -> None:
    site.line.set(Fault(refuse=True))
    waiting = site.send()
    site.wait(waiting, {"PENDING"}, "its delivery waits for another try")
    silent = site.send()
    site.clock.set(-HOUR)
    site.line.set(PASS)
    back_s = site.wait(waiting, {"CONFIRMED"}, "what waited is sent, though by the clock it is not yet due")
    site.wait(silent, {"CONFIRMED"}, "the study is quiet, though by the clock its image comes in an hour")
    at_work = site.send(images=30)
    site.node.wait("it is in a worker's hands", lambda n: any(job["state"] == "RUNNING" for job in n.jobs()))
    site.clock.set(HOUR)
    forward_s = site.wait(at_work, {"CONFIRMED"}, "it is done, though by the clock its lease has run out")
    last = site.send()
    site.wait(last, {"CONFIRMED"}, "all goes on")
    note_figure("clock set back by 1 h: all delivered", rounds=1, longest_s=back_s)
    note_figure("clock set forward by 2 h: all delivered", rounds=1, longest_s=forward_s)
    for study in (waiting, silent, at_work, last):
        site.assert_exactly_once(study)


def test_redis_is_away_for_an_hour(tmp_path: Path) -> None:
    """By a clock that goes forward a minute a second. Images are taken all the while; with Redis back all is done."""
    port = free_port()
    broker = Switch(partial(redis_server, tmp_path / "redis", port=port))
    broker.on()
    with ExitStack() as stack:
        stack.callback(broker.off)
        for site in timed(tmp_path, 5.0, broker_url=f"redis://127.0.0.1:{port}/0"):
            stack.enter_context(part(site.node, "worker"))
            studies = [site.send()]
            site.wait(studies[0], {"CONFIRMED"}, "the workers are at work")
            broker.off()
            for minute in range(1, 61):
                site.clock.set(timedelta(minutes=minute))
                if minute % 20 == 0:
                    studies.append(site.send())
                time.sleep(1.0)
            broker.on()
            seconds = max(site.wait(study, {"CONFIRMED"}, "it is delivered") for study in studies)
            note_figure("Redis away for an hour by the clock: all delivered", rounds=1, longest_s=seconds)
            for study in studies:
                site.assert_exactly_once(study)
            stack.close()


@pytest.mark.timeout(900)
def test_the_pacs_is_away_for_a_day(tmp_path: Path) -> None:
    """By the defaults of the waits, with a clock that goes forward ten minutes a second."""
    for site in timed(tmp_path, 1800.0):
        site.line.set(Fault(refuse=True))
        study = site.send()
        site.wait(study, {"PENDING"}, "its delivery waits for another try")
        for step in range(1, 24 * 6 + 1):
            site.clock.set(timedelta(minutes=10 * step))
            time.sleep(1.0)
        rows = site.deliveries(study)
        assert {row["state"] for row in rows} <= {"PENDING", "SENDING"}
        attempts = max(row["attempts"] for row in rows)
        site.line.set(PASS)
        site.clock.set(timedelta(hours=24, minutes=40))
        seconds = site.wait(study, {"CONFIRMED"}, "it is delivered once the PACS is back")
        note_figure("PACS away for a day: all delivered", rounds=1, attempts=attempts, longest_s=seconds)
        site.assert_exactly_once(study)
