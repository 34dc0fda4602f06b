"""Studies that end decoders, or the worker itself. Observed: parked with a reason, those around them not held up."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from tests.support import hostile
from tests.support.dcmtk import storescu
from tests.support.figures import note_figure
from tests.support.shared import shared_dicom
from tests.support.site import PACS, Site

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

# Sent by itself, a study of this site is delivered within a second or two.
HELD_UP_S = 20.0
DECODER_MEMORY = "RADNODE_WORK__DECODE_MEMORY_BYTES"


def send(site: Site, file: Path, *options: str) -> str:
    """One file as PACS; its study."""
    outcome = storescu(site.node.dicom_port, file, calling=PACS, options=options)
    assert outcome.returncode == 0, outcome.stdout[-2000:]
    return str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)


def wait_parked(site: Site, study: str) -> str:
    """Until a study's job is parked; why."""
    return str(
        site.wait("it is parked", lambda: [job.reason for job in site.jobs([study]) if job.state == "PARKED"])[0]
    )


def test_a_poison_study_between_good_ones(site: Site, tmp_path: Path) -> None:
    lossless = shared_dicom() / "ct_chest" / "P001" / "P001_054.dcm"
    before = site.send(PACS)
    poison = [send(site, hostile.deadly(tmp_path / f"{n}.dcm", lossless), "-xs") for n in range(3)]
    began = time.monotonic()
    after = site.send(PACS, 3)
    site.wait_delivered([*before, *after])
    seconds = time.monotonic() - began
    assert seconds < HELD_UP_S
    assert all("its decoder died 2 times: it was ended by SIGABRT" in wait_parked(site, study) for study in poison)
    note_figure("three poison studies before three good ones", rounds=1, longest_s=seconds)
    site.assert_exactly_once([*before, *after])
    assert [job.attempts for job in site.jobs(poison)] == [1, 1, 1]
    listed = site.node.json("parked", "list", "--json")
    assert {row["study_instance_uid"] for row in listed} >= set(poison)
    site.node.run("parked", "give-up", *(row["id"] for row in listed if row["study_instance_uid"] in poison))
    assert {job.state.value for job in site.jobs(poison)} == {"NOT_ANALYSED"}


def test_a_study_that_takes_all_memory(site: Site, tmp_path: Path) -> None:
    """Of its decoder, that is: it is refused with the reason, reported so, and its neighbours are read by the next."""
    site.stop("worker")
    site.node.env[DECODER_MEMORY] = str(64 << 20)
    site.start("worker")
    try:
        before = site.send(PACS)
        site.wait_delivered(before, timeout_s=120)
        greedy = [send(site, hostile.greedy(tmp_path / f"{n}.dcm")) for n in range(3)]
        began = time.monotonic()
        after = site.send(PACS, 3)
        site.wait_delivered([*before, *after, *greedy])
        seconds = time.monotonic() - began
    finally:
        del site.node.env[DECODER_MEMORY]
        site.stop("worker")
        site.start("worker")
    assert seconds < HELD_UP_S
    assert [job.attempts for job in site.jobs(greedy)] == [1, 1, 1]
    refused = {("NOT_ANALYSED", "too large: not enough memory to read the image")}
    assert {(job.state.value, job.reason) for job in site.jobs(greedy)} == refused
    note_figure("three studies that take all memory before three good ones", rounds=1, longest_s=seconds)
    site.assert_exactly_once([*before, *after])


def test_a_study_that_kills_its_worker_every_time(site: Site, tmp_path: Path) -> None:
    """Tried `work.max_attempts` times; the record counts, as no worker lives to tell. Retried, it is read."""
    began = time.monotonic()
    study = send(site, hostile.slow(tmp_path / "slow.dcm"))
    killed: set[psutil.Process] = set()

    def parked() -> bool:
        (job,) = site.jobs([study]) or [None]
        if job is not None and job.state == "RUNNING":
            for worker in set(site.workers("infer")) - killed:
                # Its name in the record ends with its process id.
                if str(worker.pid) in job.lease_owner:
                    worker.send_signal(signal.SIGKILL)
                    killed.add(worker)
        return job is not None and job.state == "PARKED"

    good = site.send(PACS)
    site.wait("it is parked", parked, timeout_s=120)
    note_figure("a study that kills its worker: parked", attempts=len(killed), longest_s=time.monotonic() - began)
    assert len(killed) == 3
    assert "tried 3 times, the worker never finished" in wait_parked(site, study)
    began = time.monotonic()
    site.wait_delivered([*good, *site.send(PACS)])
    assert time.monotonic() - began < HELD_UP_S
    (job,) = site.jobs([study])
    site.node.run("retry", "--job", job.id)
    site.wait_delivered([study])
