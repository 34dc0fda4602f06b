"""DCMTK's command-line tools as modality, PACS and reader: an implementation of DICOM that is not ours."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import free_port, listens, program, running

PACKAGE = "dcmtk"
_TIMEOUT_S = 120.0

Outcome = subprocess.CompletedProcess[str]


def run(name: str, *arguments: str, timeout_s: float = _TIMEOUT_S) -> Outcome:
    """Run one tool to its end; both its outputs are in `stdout`, and its exit status is the caller's to judge."""
    return subprocess.run(
        [program(name, PACKAGE), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        # Its Nagle delays every image by some 40 ms otherwise.
        env={**os.environ, "TCP_NODELAY": "1"},
    )


def storescu(
    port: int, *files: Path, called: str = "RADNODE", calling: str = "MODALITY", options: tuple[str, ...] = ()
) -> Outcome:
    """Send files, or whole folders, to 127.0.0.1; `options` go before the peer."""
    return run(
        "storescu",
        "-v",
        "-aec",
        called,
        "-aet",
        calling,
        "+sd",
        "+r",
        *options,
        "127.0.0.1",
        str(port),
        *map(str, files),
    )


def answers(outcome: Outcome) -> dict[Path, str]:
    """File to what the peer answered: "Success" or another status; files that `storescu` never sent are not in it."""
    found: dict[Path, str] = {}
    current: Path | None = None
    for line in outcome.stdout.splitlines():
        if sending := re.search(r"Sending file: (.*)$", line):
            current = Path(sending[1])
        elif (answer := re.search(r"Received Store Response \((.*)\)", line)) and current is not None:
            found[current] = answer[1].split(":")[0]
    return found


def echoscu(port: int, *, called: str = "RADNODE", calling: str = "MODALITY", options: tuple[str, ...] = ()) -> Outcome:
    return run("echoscu", "-v", "-aec", called, "-aet", calling, *options, "127.0.0.1", str(port))


def findscu(port: int, *keys: str, called: str = "ORTHANC", calling: str = "RADNODE") -> Outcome:
    """Study Root C-FIND; keys as in ``0020,000D=1.2.3``."""
    wanted = [part for key in keys for part in ("-k", key)]
    return run("findscu", "-v", "-S", "-aec", called, "-aet", calling, *wanted, "127.0.0.1", str(port))


def dsrdump(file: Path, *options: str) -> Outcome:
    """Read a structured report as text; warnings about its content come with it."""
    return run("dsrdump", *options, str(file))


def dcmdump(file: Path, *options: str) -> Outcome:
    return run("dcmdump", *options, str(file))


@contextmanager
def storescp(
    folder: Path, *, ae_title: str = "ARCHIVE", port: int | None = None, options: tuple[str, ...] = ()
) -> Iterator[int]:
    """A receiver that can neither commit nor be asked; what it gets lies in `folder`. Gives its port."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    argv = [program("storescp", PACKAGE), "-v", "-aet", ae_title, "-od", str(folder), "+xa", *options, str(port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with running(argv, lambda: listens(port), log=folder.with_suffix(".log"), env=environment):
        yield port
