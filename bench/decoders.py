"""What it costs to read images in processes of their own, beside reading them in this one.

    python -m bench.decoders --rounds 15 --source FILE [--series FOLDER]

A radiograph of 2500 x 2048 again and again, both ways in turn; wall and CPU time are medians of the rounds, CPU time is
that of both processes. With a folder of slices, each once: headers and pixels here, and through two decoders at once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import RLELossless

from bench.radiographs import SOURCE, make_radiographs
from workers.pixels import Here, Limits
from workers.sandbox import Decoders, JobFiles, Terms


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--series", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (plain,) = make_radiographs(arguments.source, Path(name), 1)
        packed = dcmread(plain)
        packed.compress(RLELossless)
        packed.save_as(Path(name) / "rle.dcm")
        for what, path in (("uncompressed, 10 MB", plain), ("RLE", Path(name) / "rle.dcm")):
            _radiograph(what, path, arguments.rounds)
    if arguments.series is not None:
        _series(sorted(path for path in arguments.series.iterdir() if path.suffix == ".dcm"))


def _radiograph(what: str, path: Path, rounds: int) -> None:
    decoders = Decoders(Terms(processes=1))
    beside = JobFiles(decoders, Limits())
    here = Here()
    for _ in range(5):
        here.grey(path)
        beside.grey(path)
    (pid,) = decoders.pids()
    found: list[tuple[float, float, float, float]] = []
    for _ in range(rounds):
        found.append((*_timed(lambda: here.grey(path), pid), *_timed(lambda: beside.grey(path), pid)))
    wall_here, cpu_here, wall_beside, cpu_beside = (statistics.median(column) for column in zip(*found, strict=True))
    print(
        f"{what:<22} here {wall_here:6.1f} ms wall {cpu_here:6.1f} ms CPU   "
        f"decoder {wall_beside:6.1f} ms wall {cpu_beside:6.1f} ms CPU"
    )
    decoders.close()


def _timed(action: Callable[[], object], pid: int) -> tuple[float, float]:
    """Milliseconds of wall time, and of CPU time of this process and that one."""
    cpu, wall = time.process_time() * 1e3 + _cpu_ms(pid), time.perf_counter()
    action()
    return (time.perf_counter() - wall) * 1e3, time.process_time() * 1e3 + _cpu_ms(pid) - cpu


def _cpu_ms(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e6


def _series(paths: list[Path]) -> None:
    decoders = Decoders(Terms(processes=2))
    decoders.warm_up()
    files, here = JobFiles(decoders, Limits()), Here()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(files.grey, paths[:8]))
        for what, read in (
            ("headers here", lambda: [here.slice_headers(path) for path in paths]),
            ("headers by decoders", lambda: [files.slice_headers(path) for path in paths]),
            ("pixels here", lambda: [here.grey(path) for path in paths]),
            ("pixels by one decoder", lambda: [files.grey(path) for path in paths]),
            ("pixels by two decoders", lambda: list(threads.map(files.grey, paths))),
        ):
            began = time.perf_counter()
            read()
            print(f"{len(paths)} slices, {what:<24} {(time.perf_counter() - began) * 1e3 / len(paths):6.2f} ms each")
    decoders.close()


if __name__ == "__main__":
    main()
