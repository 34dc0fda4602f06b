"""What a study costs in the record, empty and with a large archive in it, on SQLite and on PostgreSQL.

    python -m bench.record --studies 100000 --images 50 --rounds 300 --json record.json

Both records of a database are asked in turn within each round: an image is received, as the listener does it, and its
commit waited for (PostgreSQL syncs, as it comes); a study with one image is routed, its job claimed and finished;
the first page of the worklist is read; the metrics are made. Milliseconds. A hundred thousand studies of fifty
images take some minutes to write, and 3 GB of disk for each database.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.figures import Figures, arguments_of
from db import schema, worklist
from db.domain import Intake
from db.intake import record_instances
from db.session import Record
from db.worklist import Filter
from node.settings import Settings
from node.web import metrics
from tests.support.archive import fill
from tests.support.postgres import cluster, running_cluster
from tests.support.records import finished_job, image

# Beside the archive's, whose UIDs begin otherwise.
_FIRST = 1_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=50, help="In each study of the archive.")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    arguments = arguments_of(parser, rounds=300)
    figures = Figures("record", "ms")
    for database in arguments.database or ("sqlite", "postgresql"):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            empty, full = stack.enter_context(_records(database, folder))
            fill(full, arguments.studies, arguments.images)
            for number in range(-20, arguments.rounds):
                for way, record in (("empty", empty), ("full", full)):
                    for what, work in _work(record, number, folder).items():
                        began = time.perf_counter()
                        work()
                        took_ms = (time.perf_counter() - began) * 1e3
                        if number >= 0:
                            figures.add(number, f"{database}: {what}", way, took_ms)
    figures.report(arguments, against="empty")


def _work(record: Record, number: int, folder: Path) -> dict[str, Callable[[], object]]:
    at = _FIRST + 2 * number
    new = image(at, f"1.2.9.{at // 100}")

    def receive() -> None:
        with record.write_rows() as connection:
            if record_instances(connection, [new], most_aside_bytes=1 << 30) != [Intake.NEW]:
                raise SystemExit("the record has that image already")

    def page() -> None:
        with record.read() as session:
            worklist.page(session, Filter())

    return {
        "image received": receive,
        "study read": lambda: finished_job(record, number=at + 1),
        "worklist, first page": page,
        "metrics": lambda: metrics.render(Settings(data_dir=folder), record),
    }


@contextmanager
def _records(database: str, folder: Path) -> Iterator[tuple[Record, Record]]:
    with ExitStack() as stack:
        if database == "sqlite":
            urls = [f"sqlite:///{folder / name}.db" for name in ("empty", "full")]
        else:
            server = stack.enter_context(cluster())
            stack.enter_context(running_cluster(server, durable=True))
            urls = [server.url(server.new_database()) for _ in range(2)]
        records = [Record(url) for url in urls]
        for record in records:
            schema.upgrade(record)
            stack.callback(record.close)
        yield records[0], records[1]


if __name__ == "__main__":
    main()
