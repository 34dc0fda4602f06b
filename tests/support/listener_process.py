"""A listener process of its own, for tests: prints its port's readiness, serves until SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from db import schema
from db.session import Record
from node import lean, logs
from node.settings import load


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def main() -> None:
    lean.keep_decoders_out()
    from node.listener import run_listener  # noqa: PLC0415 - after that, as `radnode listener` does it

    settings = load(Path(sys.argv[1]))
    logs.configure(settings)
    record = Record(settings.record_url)
    schema.upgrade(record)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run_listener(settings, record, stop, _say_ready)
    record.close()


if __name__ == "__main__":
    main()
