"""How fast images are received, side by side: this node's listener, Orthanc, and DCMTK's storescp.

    python -m bench.receive --images 30 --rounds 3 --associations 1

All three get the same files from `storescu`, in turn, in one run; each round starts with an empty store. Orthanc
indexes and does not sync; storescp neither indexes nor syncs; the node does both before it answers. Prints medians and
ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.radiographs import make_radiographs
from tests.support.dcmtk import storescp, storescu
from tests.support.node import Node
from tests.support.orthanc import orthanc

Receiver = Callable[[Path], AbstractContextManager[int]]


@contextmanager
def _node(folder: Path) -> Iterator[int]:
    # No route matches: what is measured is receiving, not reading.
    node = Node(folder, '[[routes]]\nname = "none"\nmodels = ["cxr-pneumonia"]\nmatch = { modality = ["XX"] }\n')
    node.start()
    try:
        yield node.dicom_port
    finally:
        node.stop()


@contextmanager
def _orthanc(folder: Path) -> Iterator[int]:
    with orthanc(folder) as server:
        yield server.dicom_port


RECEIVERS: dict[str, Receiver] = {"radnode": _node, "Orthanc": _orthanc, "storescp": storescp}


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--associations", type=int, default=1)
    parser.add_argument("--source", type=Path, default=Path("workers/demo/data/child-pneumonia.dcm"))
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in RECEIVERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_radiographs(arguments.source, folder / "warm-up", 1)
        parts = [
            make_radiographs(arguments.source, folder / f"part{number}", arguments.images)
            for number in range(arguments.associations)
        ]
        for number in range(arguments.rounds):
            for receiver, start in RECEIVERS.items():
                with start(folder / f"{receiver}{number}") as port:
                    storescu(port, folder / "warm-up")
                    rates[receiver].append(_rate(port, parts))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{arguments.images} CR of 10 MB per association, {arguments.associations} at once; images per second")
    for name, value in medians.items():
        print(f"  {name:<9} median {value:7.1f}  ratio to radnode {value / medians['radnode']:.2f}")


def _rate(port: int, parts: list[list[Path]]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(len(parts)) as senders:
        outcomes = list(
            senders.map(lambda part: storescu(port, part[0].parent, options=("--max-send-pdu", "131072")), parts)
        )
    if any(outcome.returncode for outcome in outcomes):
        raise SystemExit(outcomes[0].stdout[-2000:])
    return sum(len(part) for part in parts) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
