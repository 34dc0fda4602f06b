"""Success means durable: the system calls before each answer, and what is left of transfers that are cut."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.listening import Listener, chest_file, dataset_bytes, running
from tests.support.processes import eventually, program
from tests.support.raw_association import STORE, associated, message, store, store_command, with_length

pytestmark = pytest.mark.e2e

_CALLS = "fsync,fdatasync,rename,renameat,renameat2,sendto"


@contextmanager
def traced(listener: Listener, log: Path) -> Iterator[None]:
    """Write down the listener's syncs, renames and answers while the block runs."""
    errors = log.with_suffix(".err")
    command = [program("strace", "strace"), "-f", "-y", "-s", "8", "-e", f"trace={_CALLS}", "-o", str(log)]
    with errors.open("wb") as output:
        tracer = subprocess.Popen([*command, "-p", str(listener.process.pid)], stderr=output)
    try:
        eventually("strace is attached", lambda: b"attached" in errors.read_bytes())
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


@dataclass
class Trace:
    """What has become durable so far; `answered` counts answers, each checked as it is sent."""

    synced: set[str] = field(default_factory=set)
    # Thread -> the temporary file it synced last, until its answer.
    waiting: dict[str, str] = field(default_factory=dict)
    # Temporary file -> the file it was renamed to; that one -> whether its folder and then the record were synced.
    renamed: dict[str, str] = field(default_factory=dict)
    in_folder: set[str] = field(default_factory=set)
    recorded: set[str] = field(default_factory=set)
    answered: int = 0

    def sync(self, thread: str, path: str) -> None:
        if "/incoming/" in path:
            self.synced.add(path)
            self.waiting[thread] = path
        elif path.endswith(("-wal", ".db")):
            self.recorded |= self.in_folder
        else:
            self.in_folder |= {name for name in self.renamed.values() if str(Path(name).parent) == path}

    def rename(self, source: str, target: str) -> None:
        assert source in self.synced, "a file is named before it is durable"
        self.renamed[source] = target

    def answer(self, thread: str) -> None:
        temp = self.waiting.pop(thread)
        assert self.renamed[temp] in self.recorded, "an answer before folder and record are durable"
        self.answered += 1


def followed(log: Path) -> Trace:
    trace = Trace()
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.startswith("sendto(") and '"\\4\\0' in call:
            trace.answer(thread)
            continue
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
            continue
        if call.startswith("<... ") and "resumed>" in call:
            # What had begun before the tracer came is none of ours.
            call = begun.pop(thread, "") + call
        if not re.search(r"= 0$", call):
            continue
        if match := re.match(r"f(?:data)?sync\(\d+<([^>]+)>", call):
            trace.sync(thread, match[1])
        elif match := re.match(r'rename\w*\(.*?"([^"]+)".*"([^"]+)"', call):
            trace.rename(match[1], match[2])
    return trace


@pytest.mark.parametrize("associations", [1, 4])
def test_syncs_precede_every_acknowledgement(tmp_path: Path, associations: int) -> None:
    each = 12

    def send(sender: int) -> list[int | None]:
        with associated(listener.port) as raw:
            return [store(raw, uid, data) for uid, data in images[sender]]

    images = [[image(tmp_path, f"{sender}-{number}.dcm") for number in range(each)] for sender in range(associations)]
    log = tmp_path / "calls.log"
    with running(tmp_path) as listener, traced(listener, log), ThreadPoolExecutor(associations) as senders:
        statuses = [status for found in senders.map(send, range(associations)) for status in found]
    assert statuses == [0] * (each * associations)
    trace = followed(log)
    assert trace.answered == each * associations
    assert len(trace.synced) == each * associations


def image(folder: Path, name: str, **changes: object) -> tuple[str, bytes]:
    """(SOP Instance UID, data set) of an image of its own."""
    path = chest_file(folder, name, SOPInstanceUID=generate_uid(), **changes)
    return str(dcmread(path).SOPInstanceUID), dataset_bytes(path)


def test_a_hundred_cut_transfers_leave_nothing_and_every_resend_succeeds(tmp_path: Path) -> None:
    rng = random.Random(7)
    images = [image(tmp_path, f"{n}.dcm", Rows=300, Columns=300, PixelData=bytes(90_000)) for n in range(100)]
    with running(tmp_path) as listener:
        for uid, data in images:
            whole = message(STORE, with_length(store_command(uid)), data)
            with associated(listener.port) as raw:
                raw.send(whole[: rng.randrange(len(whole))])
        eventually("the unfinished files are gone", lambda: listener.incoming() == [])
        assert listener.instances() == []
        assert not any((listener.settings.data_dir / "instances").rglob("*.dcm"))
        with associated(listener.port) as raw:
            assert [store(raw, uid, data) for uid, data in images] == [0] * 100
        assert len(listener.instances()) == 100


def test_data_sets_cut_anywhere_are_answered_with_a_failure(tmp_path: Path) -> None:
    """Cut inside a complete message: the sender said "last fragment" too early."""
    rng = random.Random(11)
    uid, data = image(tmp_path, "whole.dcm")
    with running(tmp_path) as listener, associated(listener.port) as raw:
        for _ in range(100):
            assert store(raw, uid, data[: rng.randrange(len(data))]) == 0xC000
        assert listener.instances() == []
        assert store(raw, uid, data) == 0x0000
        assert listener.incoming() == []
