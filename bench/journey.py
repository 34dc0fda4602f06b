"""How long a radiograph takes from its last byte received to its report stored in the PACS, with the worker warm.

    python -m bench.journey --images 20 --source FILE

One image at a time, an idle machine, Orthanc as the PACS. Prints the median, the slowest, and the parts; beside them,
measured in the same run, what the bare work costs: decoding, one forward pass, building the objects.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from bench.radiographs import SOURCE, make_radiographs
from db.tables import Delivery, Instance, Job, Result
from node.settings import Settings
from tests.support.dcmtk import storescu
from tests.support.node import Node, peer_toml
from tests.support.orthanc import orthanc
from workers.analysis import SourceInput, analyse, limits_for, terms_for
from workers.loaded import LoadedModels
from workers.sandbox import Decoders, JobFiles


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--source", type=Path, default=SOURCE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_radiographs(arguments.source, folder / "files", arguments.images + 1)
        journeys = _journeys(folder, files)
        bare = _bare(files)
    columns = ("received to job", "job to results", "results to PACS", "whole")
    print(f"{len(journeys)} radiographs of 2500 x 2048, one at a time; seconds")
    for place, column in enumerate(columns):
        values = [journey[place] for journey in journeys]
        print(f"  {column:<16} median {statistics.median(values):.3f}  slowest {max(values):.3f}")
    print(f"  bare decode, forward pass and map, in one process: median {statistics.median(bare):.3f}")


def _journeys(folder: Path, files: list[Path]) -> list[tuple[float, float, float, float]]:
    node = Node(folder / "node")
    with orthanc(folder / "pacs") as pacs:
        node.write_settings(
            peer_toml("pacs", "ORTHANC", pacs.dicom_port)
            + '[[routes]]\nname = "chest"\nmodels = ["cxr-pneumonia"]\ndestinations = ["pacs"]\nmode = "instance"\n'
            + 'match = { modality = ["CR"] }\n'
        )
        node.start()
        try:
            for number, file in enumerate(files, 1):
                storescu(node.dicom_port, file)
                node.wait_settled(number)
            return _moments(node)[1:]
        finally:
            node.stop()


def _moments(node: Node) -> list[tuple[float, float, float, float]]:
    with node.record() as record, record.read() as session:
        rows = session.execute(
            select(Instance.received_at, Job.started_at, Job.finished_at, Delivery.sent_at)
            .join(Job, Job.study_id == Instance.study_id)
            .join(Result, Result.job_id == Job.id)
            .join(Delivery, Delivery.result_id == Result.id)
            .where(Result.kind == "SR", Instance.own_result.is_(False))
            .order_by(Instance.id)
        ).all()
    return [_parts(*row) for row in rows]


def _parts(
    received: datetime, started: datetime | None, finished: datetime | None, sent: datetime | None
) -> tuple[float, float, float, float]:
    if started is None or finished is None or sent is None:
        raise SystemExit("a report did not reach the PACS; see the node's log")
    steps = (started - received, finished - started, sent - finished, sent - received)
    waiting, working, sending, whole = (step.total_seconds() for step in steps)
    return waiting, working, sending, whole


def _bare(files: list[Path]) -> list[float]:
    settings = Settings()
    model = LoadedModels(settings).get("cxr-pneumonia")
    decoders = Decoders(terms_for(settings.work))
    found = []
    for file in files:
        started = time.perf_counter()
        analyse(model, [SourceInput(file)], JobFiles(decoders, limits_for(settings.work)))
        found.append(time.perf_counter() - started)
    decoders.close()
    return found[1:]


if __name__ == "__main__":
    main()
