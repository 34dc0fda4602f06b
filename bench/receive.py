"""How fast images are received, side by side: this node's listener, Orthanc, DCMTK's storescp, pynetdicom's storescp.

    python -m bench.receive --rounds 5 --json receive.json --plot receive.svg

All of them get the same generated files from `storescu`, in turn, in one run; every round starts each of them anew with
an empty store. Time counts from a sender's request for its association to its request for release, by its own log, so
that neither its start nor its search for files is in it. The node and Orthanc sync every file and keep an index;
the other two neither sync nor index. Prints medians, ratios to Orthanc and to storescp taken within each round, peak
memory, CPU seconds per GB, and how long a sender waits from its request to the answer: the median and the slowest
twentieth and hundredth.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.figures import Figures, arguments_of, percentile, plot
from bench.images import make_images
from tests.support.listening import running
from tests.support.orthanc import orthanc
from tests.support.processes import free_port, listens, program
from tests.support.processes import running as process

CASES = (("CT", 1), ("CT", 4), ("CR", 1), ("CR", 4))
PDU_BYTES = "131072"
# Neither DCMTK nor Debian's Orthanc switches Nagle's algorithm off by itself: 45 ms an image.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
LOG_CONFIG = """\
log4cplus.rootLogger = INFO, out
log4cplus.appender.out = log4cplus::ConsoleAppender
log4cplus.appender.out.layout = log4cplus::PatternLayout
log4cplus.appender.out.layout.ConversionPattern = %D{%s.%q} %m%n
"""


@dataclass(frozen=True)
class Server:
    port: int
    pid: int


Receiver = Callable[[Path], AbstractContextManager[Server]]


@contextmanager
def _node(folder: Path) -> Iterator[Server]:
    folder.mkdir(parents=True)
    with running(folder, os.environ.get("BENCH_TOML", "")) as listener:
        yield Server(listener.port, listener.process.pid)


@contextmanager
def _orthanc(folder: Path) -> Iterator[Server]:
    with orthanc(folder, options={"MaximumPduLength": int(PDU_BYTES), "LimitFindResults": 0}) as server:
        yield Server(server.dicom_port, _listening(server.dicom_port))


@contextmanager
def _storescp(folder: Path) -> Iterator[Server]:
    port = free_port()
    folder.mkdir(parents=True)
    argv = [program("storescp", "dcmtk"), "--fork", "+B", "-pdu", PDU_BYTES, "-od", str(folder), "+xa", str(port)]
    with process(argv, lambda: listens(port), log=folder.with_suffix(".log"), env=ENVIRONMENT) as server:
        yield Server(port, server.pid)


@contextmanager
def _pynetdicom(folder: Path) -> Iterator[Server]:
    port = free_port()
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-od", str(folder), "--max-pdu", PDU_BYTES, "-q"]
    with process(argv, lambda: listens(port), log=folder.with_suffix(".log"), env=ENVIRONMENT) as server:
        yield Server(port, server.pid)


RECEIVERS: dict[str, Receiver] = {
    "radnode": _node,
    "Orthanc": _orthanc,
    "storescp": _storescp,
    "pynetdicom": _pynetdicom,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=int, default=300, help="CT images per association")
    parser.add_argument("--cr", type=int, default=30, help="CR images per association")
    parser.add_argument("--only", choices=RECEIVERS, action="append")
    arguments = arguments_of(parser, rounds=5)
    receivers = {name: RECEIVERS[name] for name in arguments.only or RECEIVERS}
    seen: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log.cfg").write_text(LOG_CONFIG)
        counts = {"CT": arguments.ct, "CR": arguments.cr}
        images = {
            (kind, associations): [
                make_images(kind, folder / f"{kind}{associations}-{number}", counts[kind])
                for number in range(associations)
            ]
            for kind, associations in CASES
        }
        warm_up = make_images("CT", folder / "warm-up", 5)
        for number in range(arguments.rounds):
            for receiver, start in receivers.items():
                with start(folder / "stores" / f"{receiver}{number}") as server:
                    _send(server, [warm_up], folder)
                    for kind, associations in CASES:
                        one = measure(server, images[kind, associations], folder)
                        seen.append(
                            {"round": number, "receiver": receiver, "kind": kind, "associations": associations, **one}
                        )
                subprocess.run(["rm", "-rf", str(folder / "stores")], check=True)
    report(seen, list(receivers))
    if arguments.json:
        arguments.json.write_text(json.dumps(seen, indent=1))
    if arguments.plot:
        rates = Figures("receive", "images per second")
        for one in seen:
            rates.add(
                int(one["round"]),
                f"{one['kind']} x{one['associations']}",
                str(one["receiver"]),
                float(one["images_per_s"]),
            )
        plot(rates, arguments.plot)


def measure(server: Server, parts: list[list[Path]], folder: Path) -> dict[str, float]:
    """Images per second, CPU seconds per GB, the most memory the receiver had resident since its start, in MB, and
    milliseconds from request to answer.
    """
    before = _cpu_s(server.pid)
    rate, waited_ms = _send(server, parts, folder)
    sent_gb = sum(path.stat().st_size for part in parts for path in part) / 1e9
    return {
        "images_per_s": rate,
        "cpu_s_per_gb": (_cpu_s(server.pid) - before) / sent_gb,
        "peak_mb": _peak_mb(server.pid),
        **{f"p{int(share * 100)}_ms": percentile(waited_ms, share) for share in (0.5, 0.95, 0.99)},
    }


def _send(server: Server, parts: list[list[Path]], folder: Path) -> tuple[float, list[float]]:
    """Images per second, and each one's milliseconds from request to answer, the shortest first."""
    command = [program("storescu", "dcmtk"), "--log-config", str(folder / "log.cfg"), "-aec", "RADNODE"]
    command += ["-pdu", PDU_BYTES, "--max-send-pdu", PDU_BYTES, "+sd", "127.0.0.1", str(server.port)]
    senders = [
        subprocess.Popen(
            [*command, str(part[0].parent)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for part in parts
    ]
    logs = [sender.communicate()[0] for sender in senders]
    if any(sender.returncode for sender in senders):
        raise SystemExit(logs[0][-2000:])
    if any(log.count("Received Store Response (Success)") != len(part) for log, part in zip(logs, parts, strict=True)):
        raise SystemExit("not every image was answered Success")
    began = min(_moment(log, "Requesting Association") for log in logs)
    ended = max(_moment(log, "Releasing Association") for log in logs)
    return sum(map(len, parts)) / (ended - began), sorted(1e3 * wait for log in logs for wait in _waits(log))


def _waits(log: str) -> list[float]:
    asked, answered = (
        [float(at) for at in re.findall(rf"^([0-9]+\.[0-9]+) {event}", log, re.MULTILINE)]
        for event in ("Sending Store Request", "Received Store Response")
    )
    return [after - before for before, after in zip(asked, answered, strict=True)]


def _moment(log: str, event: str) -> float:
    found = re.search(rf"^([0-9]+\.[0-9]+) {event}", log, re.MULTILINE)
    if found is None:
        raise SystemExit(f"storescu does not tell of its {event}:\n{log[-2000:]}")
    return float(found[1])


def _listening(port: int) -> int:
    return next(c.pid for c in psutil.net_connections("tcp") if c.laddr.port == port and c.pid is not None)


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    # storescp forks a process for each association.
    return times.user + times.system + times.children_user + times.children_system


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def report(seen: list[dict[str, object]], receivers: list[str]) -> None:
    """Print one line per case and receiver."""

    def values(kind: str, associations: int, receiver: str, what: str) -> list[float]:
        return [
            float(str(one[what]))
            for one in seen
            if (one["kind"], one["associations"], one["receiver"]) == (kind, associations, receiver)
        ]

    print("case   receiver   images/s (least to most)    to Orthanc  to storescp   CPU s/GB   peak MB   ms p50/p95/p99")
    for kind, associations in CASES:
        for receiver in receivers:
            rates = values(kind, associations, receiver, "images_per_s")
            ratios = []
            for other in ("Orthanc", "storescp"):
                theirs = values(kind, associations, other, "images_per_s")
                paired = [mine / yours for mine, yours in zip(rates, theirs, strict=False)]
                ratios.append(f"{statistics.median(paired):10.2f}" if paired else "         -")
            cpu = statistics.median(values(kind, associations, receiver, "cpu_s_per_gb"))
            peak = statistics.median(values(kind, associations, receiver, "peak_mb"))
            slow = [statistics.median(values(kind, associations, receiver, f"p{share}_ms")) for share in (50, 95, 99)]
            waits = "/".join(f"{value:.1f}" for value in slow)
            print(
                f"{kind} x{associations}  {receiver:<10}  {statistics.median(rates):7.1f} ({min(rates):.1f} to "
                f"{max(rates):.1f})  {ratios[0]}  {ratios[1]}  {cpu:9.2f}  {peak:8.0f}   {waits}"
            )


if __name__ == "__main__":
    main()
