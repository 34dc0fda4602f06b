"""How long a radiograph takes from its last byte to report and picture stored in the PACS, with the worker warm.

    python -m bench.journey --images 20 --json study.json

One image at a time, on what should be an idle machine; quiet period zero; every image has a finding, and so a report
and a picture. The last byte is the moment at which the sender has handed it to its socket; stored is the moment at
which the PACS has answered Success for the second object. The parts are the record's own moments. Beside them, in the
same run, what the bare work costs: decoding, one forward pass and its map, in one process and nothing around it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, build_context, evt
from sqlalchemy import func, select

from bench.figures import Figures, arguments_of
from bench.radiographs import SOURCE, make_radiographs
from db.session import Record
from db.tables import Delivery, Instance, Job
from models.reading import read_image
from node.settings import Settings
from tests.support.node import Node, peer_toml, running_node
from tests.support.orthanc import orthanc
from tests.support.processes import free_port, listens, program, running
from workers.analysis import limits_for, terms_for
from workers.loaded import LoadedModels
from workers.sandbox import Decoders, JobFiles

PARTS = ("to the job", "to a worker", "at the worker", "report to PACS", "picture to PACS", "whole")
_POLL_S, _TIMEOUT_S, _PAUSE_S = 0.02, 60.0, 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--pacs", choices=("orthanc", "storescp"), default="orthanc")
    arguments = arguments_of(parser, rounds=1)
    figures = Figures("study", "ms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_radiographs(arguments.source, folder / "files", arguments.images + 2)
        with pacs(arguments.pacs, folder / "pacs") as port, running_node(folder / "node", settings(port)) as node:
            journeys = [_journey(node, number, file) for number, file in enumerate(files, 1)]
        # The first two find nothing warm.
        for number, (parts, bare) in enumerate(zip(journeys[2:], bare_work(files[2:]), strict=True)):
            for part, seconds in zip((*PARTS, "bare work"), (*parts, bare), strict=True):
                figures.add(number, "radiograph", part, seconds * 1e3)
    figures.report(arguments, against="bare work")


def settings(port: int, extra: str = "") -> str:
    """A route on which each image is a study of its own, and its results go to the peer at that port."""
    return (
        peer_toml("pacs", "ORTHANC", port, proof="none")
        + "[completeness]\nquiet_period_s = 0\n"
        + extra
        + '[[routes]]\nname = "chest"\nmodels = ["cxr-pneumonia"]\ndestinations = ["pacs"]\nmode = "instance"\n'
        + 'match = { modality = ["CR"] }\n'
    )


@contextmanager
def pacs(kind: str, folder: Path) -> Iterator[int]:
    """The port of a PACS: Orthanc, which stores and indexes, or DCMTK's storescp, which keeps nothing."""
    os.environ["TCP_NODELAY"] = "1"
    if kind == "orthanc":
        with orthanc(folder, options={"MaximumPduLength": 131072}) as server:
            yield server.dicom_port
        return
    folder.mkdir(parents=True)
    port = free_port()
    argv = [program("storescp", "dcmtk"), "--fork", "--ignore", "-pdu", "131072", str(port)]
    with running(argv, lambda: listens(port), log=folder / "storescp.log", env=dict(os.environ)):
        yield port


def send(port: int, file: Path, calling: str = "MODALITY") -> datetime:
    """C-STORE one file; returns when its last byte was handed to the socket."""
    dataset = dcmread(file)
    entity = AE(calling)
    entity.requested_contexts = [build_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)]
    sent: list[datetime] = []

    def note(_: evt.Event) -> None:
        sent.append(datetime.now(UTC))

    association = entity.associate(
        "127.0.0.1", port, ae_title="RADNODE", max_pdu=131072, evt_handlers=[(evt.EVT_DATA_SENT, note)]
    )
    status = association.send_c_store(dataset).Status
    last = sent[-1]
    association.release()
    if status != 0x0000:
        raise SystemExit(f"the node answered {status:#06x}; see its log")
    return last


def wait_sent(record: Record, results: int, timeout_s: float = _TIMEOUT_S) -> None:
    """Until so many objects have been taken by the PACS."""
    until = time.monotonic() + timeout_s
    query = select(func.count()).select_from(Delivery).where(Delivery.sent_at.is_not(None))
    while time.monotonic() < until:
        with record.read() as session:
            if (session.scalar(query) or 0) >= results:
                return
        time.sleep(_POLL_S)
    raise SystemExit("the results did not reach the PACS; see the node's log")


def _journey(node: Node, number: int, file: Path) -> tuple[float, ...]:
    """Seconds of each part."""
    last_byte = send(node.dicom_port, file)
    with node.record() as record:
        wait_sent(record, 2 * number)
        query = (
            select(
                Job.created_at, Job.started_at, Job.finished_at, func.min(Delivery.sent_at), func.max(Delivery.sent_at)
            )
            .join(Delivery, Delivery.job_id == Job.id)
            .join(Instance, Instance.study_id == Job.study_id)
            .where(Instance.sop_instance_uid == str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID))
            .group_by(Job.id)
        )
        with record.read() as session:
            known = session.execute(query).one()
        moments = [last_byte, *(at for at in known if at is not None)]
    time.sleep(_PAUSE_S)
    steps = [(after - before).total_seconds() for before, after in pairwise(moments)]
    return (*steps, sum(steps))


def bare_work(files: list[Path]) -> list[float]:
    """Seconds for each file: decoded by a decoder, preprocessed, one pass and its map, nothing beside it."""
    settings = Settings()
    model = LoadedModels(settings).get("cxr-pneumonia")
    decoders = Decoders(terms_for(settings.work))
    reader = JobFiles(decoders, limits_for(settings.work))
    found = []
    for file in [*files[:2], *files]:
        began = time.perf_counter()
        read_image(model.bundle, model.runner, reader.grey(file))
        found.append(time.perf_counter() - began)
    decoders.close()
    return found[2:]


if __name__ == "__main__":
    main()
