"""Radiographs in a row: how many an hour, what share of the time is decoding and inference, and how long STAT waits.

    python -m bench.sustained --images 500 --json queue.json

All images are sent as fast as the node takes them, which is faster than one worker reads them, so that a queue builds
up; then one more from a modality whose studies are STAT. Every image has a finding, the dear case: a picture is drawn,
stored and sent for each. The share is what bare decoding and inference take for one image, one after the other in one
process (`bench.journey`), to what passes from one finished job to the next.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import func, select

from bench.figures import Figures, arguments_of
from bench.journey import bare_work, pacs, send, settings, wait_sent
from bench.radiographs import SOURCE, make_radiographs
from db.states import JobState
from db.tables import Delivery, Instance, Job
from tests.support.dcmtk import storescu
from tests.support.node import Node, running_node

_STAT = (
    '[[routes]]\nname = "stat"\npriority = "stat"\nmodels = ["cxr-pneumonia"]\ndestinations = ["pacs"]\n'
    'mode = "instance"\nmatch = { modality = ["CR"], calling_ae = ["URGENT"] }\n'
)
_BARE_IMAGES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--pacs", choices=("orthanc", "storescp"), default="storescp")
    parser.add_argument("--jobs-at-once", type=int, default=0, help="[work] jobs_at_once; 0 leaves the default.")
    arguments = arguments_of(parser, rounds=1)
    figures = Figures("queue", "ms")
    work = f"[work]\njobs_at_once = {arguments.jobs_at_once}\n" if arguments.jobs_at_once else ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_radiographs(arguments.source, folder / "files", arguments.images + 3)
        warm, urgent, files = files[:2], files[2], files[3:]
        extra = work + _STAT
        with (
            pacs(arguments.pacs, folder / "pacs") as port,
            running_node(folder / "node", settings(port, extra)) as node,
        ):
            for file in warm:
                send(node.dicom_port, file)
            with node.record() as record:
                wait_sent(record, 2 * len(warm))
            storescu(node.dicom_port, *files)
            stat_s, before = _urgent(node, urgent)
            apart_s = _drained(node, len(files))
        for number, bare_s in enumerate(bare_work(files[:_BARE_IMAGES])):
            figures.add(number, "radiograph", "bare work", bare_s * 1e3)
            figures.add(number, "radiograph", "in the queue", apart_s * 1e3)
    figures.report(arguments, against="bare work")
    bare_ms = statistics.median(figures.values("radiograph", "bare work"))
    print(f"{len(files)} in a row: {apart_s * 1e3:.0f} ms each, {3600 / apart_s:.0f} an hour")
    print(f"decoding and inference, as they take alone: {bare_ms / apart_s / 10:.0f} % of the worker's time")
    print(f"STAT behind {before} waiting jobs: {stat_s:.2f} s from its last byte to both objects at the PACS")


def _urgent(node: Node, file: Path) -> tuple[float, int]:
    """Seconds until both its objects are at the PACS, and how many jobs waited when it was sent."""
    uid = str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    waiting = select(func.count()).select_from(Job).where(Job.state == JobState.QUEUED)
    sent = (
        select(func.count(Delivery.sent_at), func.max(Delivery.sent_at))
        .join(Job, Job.id == Delivery.job_id)
        .join(Instance, Instance.study_id == Job.study_id)
        .where(Instance.sop_instance_uid == uid)
    )
    with node.record() as record:
        with record.read() as session:
            before = session.scalar(waiting) or 0
        last_byte = send(node.dicom_port, file, calling="URGENT")

        def both() -> object:
            with record.read() as session:
                count, at = session.execute(sent).one()
            return at if count >= 2 else None

        at = node.wait("the urgent one is at the PACS", lambda _: both(), poll_s=0.02)
    return (at - last_byte).total_seconds(), before


def _drained(node: Node, images: int) -> float:
    """Seconds from one finished job to the next, over the whole queue."""
    with node.record() as record:
        wait_sent(record, 2 * (images + 3), timeout_s=2.0 * images + 60)
        query = select(func.min(Job.finished_at), func.max(Job.finished_at)).where(
            Job.id.in_(select(Job.id).order_by(Job.created_at.desc()).limit(images))
        )
        with record.read() as session:
            first, last = session.execute(query).one()
    if first is None or last is None:
        raise SystemExit("no job has finished; see the node's log")
    return float((last - first).total_seconds() / (images - 1))


if __name__ == "__main__":
    main()
