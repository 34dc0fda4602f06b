"""How fast images are received, side by side: this node's listener, Orthanc, DCMTK's storescp, pynetdicom's storescp.

    python -m bench.compare --rounds 5 --json receive.json --plot receive.svg

All of them get the same generated files from `storescu`, in turn, in one run; every round starts each of them anew with
an empty store. Time counts from a sender's request for its association to its request for release, by its own log, so
that neither its start nor its search for files is in it. The node and Orthanc sync every file and keep an index;
the other two neither sync nor index. Prints medians, ratios to Orthanc and to storescp taken within each round, peak
memory, CPU seconds per GB, and how long a sender waits from its request to the answer: the median and the slowest
twentieth and hundredth. Five rounds take some four minutes; `--short` takes half a minute and says little.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.figures import Figures, arguments_of, percentile, plot
from bench.images import make_images
from bench.receivers import ENVIRONMENT, PDU_BYTES, RECEIVERS, Server
from tests.support.processes import program

CASES = (("CT", 1), ("CT", 4), ("CR", 1), ("CR", 4))
AGAINST = ("Orthanc", "storescp")
MEASURED = ("images_per_s", "cpu_s_per_gb", "peak_mb", "p50_ms", "p95_ms", "p99_ms")
LOG_CONFIG = """\
log4cplus.rootLogger = INFO, out
log4cplus.appender.out = log4cplus::ConsoleAppender
log4cplus.appender.out.layout = log4cplus::PatternLayout
log4cplus.appender.out.layout.ConversionPattern = %D{%s.%q} %m%n
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=int, default=300, help="CT images per association")
    parser.add_argument("--cr", type=int, default=30, help="CR images per association")
    parser.add_argument("--only", choices=RECEIVERS, action="append", help="May be repeated; without it, all of them.")
    parser.add_argument("--short", action="store_true", help="One round of 60 CT and 6 CR images.")
    arguments = arguments_of(parser, rounds=5)
    if arguments.short:
        arguments.rounds, arguments.ct, arguments.cr = 1, 60, 6
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        seen = run(Path(name), arguments.only or list(RECEIVERS), arguments.rounds, arguments.ct, arguments.cr)
    print(f"{os.cpu_count()} cores, load {load_before:.1f} before and {os.getloadavg()[0]:.1f} after")
    rows = summary(seen)
    print_table(rows)
    if arguments.json:
        load = [load_before, os.getloadavg()[0]]
        document = {"bench": "receive", "cores": os.cpu_count(), "load": load, "summary": rows, "measured": seen}
        arguments.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    if arguments.plot:
        rates = Figures("receive", "images per second")
        for one in seen:
            rates.add(one["round"], f"{one['kind']} x{one['associations']}", one["receiver"], one["images_per_s"])
        plot(rates, arguments.plot)


def run(folder: Path, names: Sequence[str], rounds: int, ct: int, cr: int) -> list[dict[str, Any]]:
    """Every measurement. names: of `RECEIVERS`. ct, cr: images per association."""
    (folder / "log.cfg").write_text(LOG_CONFIG)
    counts = {"CT": ct, "CR": cr}
    images = {
        (kind, associations): [
            make_images(kind, folder / f"{kind}{associations}-{number}", counts[kind]) for number in range(associations)
        ]
        for kind, associations in CASES
    }
    warm_up = make_images("CT", folder / "warm-up", 5)
    seen = []
    for number in range(rounds):
        for name in names:
            with RECEIVERS[name](folder / "stores" / f"{name}{number}") as server:
                _send(server, [warm_up], folder)
                for kind, associations in CASES:
                    case = {"round": number, "receiver": name, "kind": kind, "associations": associations}
                    seen.append({**case, **measure(server, images[kind, associations], folder)})
            _give_back_room(folder / "stores")
    return seen


def _give_back_room(stores: Path) -> None:
    """Their bytes, and not their names: an ext4 without a journal looks through all inodes that were freed within the
    last minutes whenever a file is made, and whoever comes next would pay for it (a quarter of the node's time).
    """
    for path in stores.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


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


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    # storescp forks a process for each association.
    return times.user + times.system + times.children_user + times.children_system


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def summary(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each case and receiver: medians over the rounds, and medians of the ratios within each round."""
    names = list(dict.fromkeys(one["receiver"] for one in seen))
    rows = []
    for kind, associations in CASES:
        here = [one for one in seen if (one["kind"], one["associations"]) == (kind, associations)]
        rates = {name: [one["images_per_s"] for one in here if one["receiver"] == name] for name in names}
        for name in names:
            mine = [one for one in here if one["receiver"] == name]
            row = {"case": f"{kind} x{associations}", "receiver": name}
            row |= {what: statistics.median(one[what] for one in mine) for what in MEASURED}
            row |= {"least": min(rates[name]), "most": max(rates[name])}
            for other in set(names) & set(AGAINST):
                paired = zip(rates[name], rates[other], strict=True)
                row[f"to_{other}"] = statistics.median(own / theirs for own, theirs in paired)
            rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line per case and receiver."""
    print("case   receiver   images/s (least to most)    to Orthanc  to storescp   CPU s/GB   peak MB   ms p50/p95/p99")
    for row in rows:
        ratios = [f"{row[f'to_{other}']:10.2f}" if f"to_{other}" in row else " " * 9 + "-" for other in AGAINST]
        waits = "/".join(f"{row[f'p{share}_ms']:.1f}" for share in (50, 95, 99))
        print(
            f"{row['case']}  {row['receiver']:<10}  {row['images_per_s']:7.1f} ({row['least']:.1f} to "
            f"{row['most']:.1f})  {'  '.join(ratios)}  {row['cpu_s_per_gb']:9.2f}  {row['peak_mb']:8.0f}   {waits}"
        )


if __name__ == "__main__":
    main()
