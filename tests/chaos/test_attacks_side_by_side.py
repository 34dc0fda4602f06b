"""Bombs, lies, slow sockets and floods: this node, and the same to Orthanc and storescp.

Of this node it is asserted that it refuses, stays within 200 MB over rest in each of its processes, and answers
afterwards; of the others it is only noted what happened.
"""

from __future__ import annotations

import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support.attacks import ATTACKS, Attack, bomb_files, counted, echoes
from tests.support.dcmtk import storescu
from tests.support.figures import note_figure
from tests.support.listening import chest_file
from tests.support.receivers import RECEIVERS, OrthancReceiver, RadnodeReceiver, Receiver

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]

MOST_BYTES = 200_000_000
_SAMPLE_S = 0.1
# What says that it is a chest is read by the model; nothing is sent on.
_ROUTE = """
[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = []
mode = "instance"
match = { body_part = ["CHEST"] }
"""


@dataclass
class Memory:
    """over_rest_bytes: the most that any process of the receiver had resident beyond what it had before."""

    main: psutil.Process
    over_rest_bytes: int = 0
    rest: dict[int, int] = field(default_factory=dict)

    def begin(self) -> None:
        """What each process has now is its rest, and its peak starts again (proc(5))."""
        for pid in self._pids():
            with suppress(OSError, StopIteration):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
                self.rest[pid] = peak_bytes(pid)

    def look(self) -> None:
        """Processes that are new count from the rest of the main one, whose copy they are or resemble."""
        for pid in self._pids():
            with suppress(OSError, StopIteration):
                rest = self.rest.setdefault(pid, self.rest[self.main.pid])
                self.over_rest_bytes = max(self.over_rest_bytes, peak_bytes(pid) - rest)

    def _pids(self) -> list[int]:
        with suppress(psutil.Error):
            return [process.pid for process in (self.main, *self.main.children(recursive=True))]
        return []


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident. Raises OSError, or StopIteration for one that is ending."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@contextmanager
def watched(receiver: Receiver) -> Iterator[Memory]:
    assert receiver.process is not None
    memory = Memory(psutil.Process(receiver.process.pid))
    memory.begin()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            memory.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield memory
    finally:
        over.set()
        watcher.join()
        memory.look()


@pytest.fixture(scope="module", params=list(RECEIVERS))
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == RadnodeReceiver.name:
        one: Receiver = RadnodeReceiver(folder / "data", _ROUTE)
    else:
        one = RECEIVERS[request.param](folder / "data")
    one.start()
    if isinstance(one, RadnodeReceiver):
        # The first image loads the model: no figure is to hold that.
        storescu(one.port, chest_file(folder, BodyPartExamined="CHEST"))
        one.node.wait_settled(1)
    yield one
    assert one.process is not None
    if one.process.poll() is None:
        one.stop()


def alive(receiver: Receiver, within_s: float = 60.0) -> float | None:
    """Seconds until C-ECHO is answered; None where it is not, or the process has ended."""
    assert receiver.process is not None
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        if receiver.process.poll() is not None:
            return None
        if echoes(receiver.port):
            return time.monotonic() - began
    return None


def previewed(receiver: OrthancReceiver) -> str:
    """What Orthanc's decoders make of everything it has stored."""
    said = []
    for one in receiver.server.json("GET", "/instances"):
        try:
            receiver.server.request("GET", f"/instances/{one}/preview")
            said.append("drawn")
        except urllib.error.HTTPError:
            said.append("an error")
        except (urllib.error.URLError, OSError):
            said.append("no answer")
    return counted(said)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: one.__name__)
def test_all_three(receiver: Receiver, attack: Attack) -> None:
    assert receiver.process is not None
    if receiver.process.poll() is not None:
        receiver.start()
    with watched(receiver) as memory:
        said = attack(receiver.port)
        if isinstance(receiver, OrthancReceiver) and attack is bomb_files and receiver.process.poll() is None:
            said += f"; previews: {previewed(receiver)}"
        if isinstance(receiver, RadnodeReceiver):
            # Whatever it took is read by its decoders now.
            receiver.node.wait_settled(1, timeout_s=300)
        answered = alive(receiver)
    status = receiver.process.poll()
    note_figure(
        "attack",
        receiver=receiver.name,
        attack=attack.__name__,
        said=said,
        over_rest_mb=memory.over_rest_bytes // 1_000_000,
        alive="yes" if answered is not None else "no" if status is None else f"it ended with {status}",
    )
    if status is None and answered is None:
        receiver.kill()
    if isinstance(receiver, RadnodeReceiver):
        assert answered is not None
        assert answered < 10
        assert memory.over_rest_bytes < MOST_BYTES
        assert "silent" not in said.replace("silent 0", "")
