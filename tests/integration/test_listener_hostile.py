"""Peers that are slow, silent, many, or lie about sizes: what they cost the others, and what they leave behind."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support import raw_association as raw
from tests.support.certificates import authority
from tests.support.listening import Listener, chest_file, dataset_bytes, running
from tests.support.processes import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_QUICK = "[limits]\nmin_free_bytes = 0\nacse_timeout_s = 3.0\ndimse_timeout_s = 3.0\nnetwork_timeout_s = 3.0\n"
_MEMORY_BYTES = 200 << 20


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with running(tmp_path) as started:
        yield started


def image(folder: Path, name: str = "image.dcm", **changes: object) -> tuple[str, bytes]:
    """(SOP Instance UID, data set) of an image of its own."""
    path = chest_file(folder, name, SOPInstanceUID=generate_uid(), **changes)
    return str(dcmread(path).SOPInstanceUID), dataset_bytes(path)


def head(data: bytes) -> bytes:
    """A data set up to its pixels."""
    return data[: data.index(struct.pack("<HH", 0x7FE0, 0x0010))]


def store_s(listener: Listener, uid: str, data: bytes) -> float:
    """Seconds for one image on an association of its own."""
    began = time.monotonic()
    with raw.associated(listener.port) as one:
        assert raw.store(one, uid, data) == 0
        one.send(raw.RELEASE_RQ)
    return time.monotonic() - began


def opened(listener: Listener, stack: ExitStack, first: bytes, count: int) -> list[socket.socket]:
    """Connections that have said `first` and say no more."""
    sockets = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", listener.port), timeout=60)
        stack.callback(connection.close)
        connection.sendall(first)
        sockets.append(connection)
    return sockets


def gone_after_s(connection: socket.socket, since: float) -> float:
    """When the listener closed it. Raises TimeoutError where it does not."""
    with suppress(ConnectionError):
        while connection.recv(4096):
            continue
    return time.monotonic() - since


@contextmanager
def dripping(sockets: list[socket.socket], data: bytes) -> Iterator[None]:
    """One byte of `data` a second on each, for as long as somebody listens."""
    stop = threading.Event()

    def drip() -> None:
        at = 0
        while not stop.wait(1.0):
            for connection in sockets:
                try:
                    connection.send(data[at % len(data) : at % len(data) + 1])
                except OSError:
                    continue
            at += 1

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def hostile_sockets(listener: Listener, folder: Path, within_s: float) -> None:
    """200 of five kinds are dropped in time, and cost an honest sender less than a second."""
    asked = raw.request()
    store = raw.message(raw.STORE, raw.with_length(raw.store_command("1.2.3")), bytes(10_000))
    at_rest = store_s(listener, *image(folder, "before.dcm"))
    before = listener.usage()
    with ExitStack() as stack:
        since = time.monotonic()
        drops = opened(listener, stack, b"", 40)
        slow_data = opened(listener, stack, asked, 10)
        rest = [
            *opened(listener, stack, b"", 60),
            *opened(listener, stack, asked[: len(asked) // 2], 60),
            # Idle after the association, and in the middle of a message.
            *opened(listener, stack, asked, 15),
            *opened(listener, stack, asked + store[:-5000], 15),
        ]
        with dripping(drops, asked), dripping(slow_data, store):
            during = [store_s(listener, *image(folder, f"during{number}.dcm")) for number in range(5)]
            with ThreadPoolExecutor(200) as watchers:
                ages = list(watchers.map(lambda one: gone_after_s(one, since), [*drops, *slow_data, *rest]))
    assert len(ages) == 200
    assert max(ages) < within_s
    assert max(during) < at_rest + 1.0
    eventually("threads are back", lambda: listener.usage().threads <= before.threads + 2)
    eventually("sockets are back", lambda: listener.usage().files <= before.files + 10)
    assert listener.incoming() == []
    assert listener.echoes()


def test_200_hostile_sockets(tmp_path: Path) -> None:
    with running(tmp_path, _QUICK) as listener:
        hostile_sockets(listener, tmp_path, within_s=12.0)


@pytest.mark.soak
def test_200_hostile_sockets_with_the_settings_that_ship(listener: Listener, tmp_path: Path) -> None:
    hostile_sockets(listener, tmp_path, within_s=30.0)


def test_half_tls_handshakes_are_dropped_in_time(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    certificate, key = ca.issue("node")
    tls = f'[tls]\ncertificate = "{certificate}"\nprivate_key = "{key}"\nca = "{ca.ca}"\n'
    with running(tmp_path, tls + _QUICK) as listener, ExitStack() as stack:
        before = listener.usage()
        since = time.monotonic()
        # A TLS record of a handshake that announces 500 bytes.
        sockets = opened(listener, stack, b"\x16\x03\x01\x01\xf4\x01\x00\x01\xf0", 200)
        with ThreadPoolExecutor(200) as watchers:
            assert max(watchers.map(lambda one: gone_after_s(one, since), sockets)) < 12
        eventually("threads are back", lambda: listener.usage().threads <= before.threads + 2)


def test_thirty_associations_at_once_store_everything(listener: Listener, tmp_path: Path) -> None:
    each = 20
    _, data = image(tmp_path)
    uid_at = data.index(dcmread(tmp_path / "image.dcm").SOPInstanceUID.encode())
    uid_length = len(str(dcmread(tmp_path / "image.dcm").SOPInstanceUID))

    def send(sender: int) -> list[int | None]:
        statuses = []
        with raw.associated(listener.port, timeout_s=60) as one:
            for number in range(each):
                uid = f"1.2.{sender + 10}.{number + 10}".ljust(uid_length, "1")
                changed = data[:uid_at] + uid.encode() + data[uid_at + uid_length :]
                statuses.append(raw.store(one, uid, changed))
            one.send(raw.RELEASE_RQ)
            assert [answer.kind for answer in one.rest()] == [raw.RELEASE_RP]
        return statuses

    before = listener.usage()
    with ThreadPoolExecutor(30) as senders:
        assert [s for found in senders.map(send, range(30)) for s in found] == [0] * 600
    assert len(listener.instances()) == 600
    assert len({instance.study_id for instance in listener.instances()}) == 1
    eventually("threads are back", lambda: listener.usage().threads <= before.threads + 2)
    assert listener.usage().files <= before.files + 50


def test_a_flood_beyond_the_limit_is_told_to_come_again(listener: Listener) -> None:
    before = listener.usage()
    with ExitStack() as stack:
        flood = [stack.enter_context(raw.connected(listener.port, 30)) for _ in range(120)]
        for one in flood:
            one.send(raw.request())
        answers = [one.read() for one in flood]
        kinds = [answer.kind if answer else None for answer in answers]
        assert kinds.count(raw.ASSOCIATE_AC) == listener.settings.limits.max_associations
        assert kinds.count(raw.ASSOCIATE_RJ) == 120 - listener.settings.limits.max_associations
        # Rejected transient, by the presentation service: local limit exceeded.
        assert {a.body for a in answers if a and a.kind == raw.ASSOCIATE_RJ} == {b"\x00\x02\x03\x02"}
    eventually("threads are back", lambda: listener.usage().threads <= before.threads + 2)
    assert listener.usage().files <= before.files + 10
    assert listener.echoes()


@contextmanager
def bounded_memory(listener: Listener) -> Iterator[None]:
    """The most the process has resident inside the block stays within 200 MB of what it had before."""
    process = Path(f"/proc/{listener.process.pid}")
    rest = listener.usage().resident_bytes
    # Makes the peak start again (proc(5)).
    (process / "clear_refs").write_text("5")
    yield
    peak = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    assert int(peak.split()[1]) * 1024 - rest < _MEMORY_BYTES


def test_announced_lengths_take_no_memory(listener: Listener) -> None:
    with bounded_memory(listener), ExitStack() as stack:
        for kind in (1, 4, 5, 7, 99):
            for claimed in (0xFFFFFFFF, 0x7FFFFFFF, 1 << 28):
                one = stack.enter_context(raw.connected(listener.port))
                one.send((raw.request() if kind != 1 else b"") + struct.pack(">BxL", kind, claimed) + bytes(1000))
                assert one.rest()[-1].kind == raw.ABORT
        # Within the limit, but it does not come: memory follows what does.
        for one in [stack.enter_context(raw.connected(listener.port)) for _ in range(200)]:
            one.send(struct.pack(">BxL", 1, 260_000))
    assert listener.echoes()


def test_endless_messages_are_answered_and_cut_off(tmp_path: Path) -> None:
    limits = f"[limits]\nmin_free_bytes = 0\nmax_dataset_bytes = {64 << 20}\n"
    with running(tmp_path, limits) as listener, bounded_memory(listener):
        with raw.associated(listener.port) as one:
            one.send(raw.pdu(raw.P_DATA, raw.value(raw.STORE, 3, raw.with_length(raw.store_command("1.2.3")))))
            _, data = image(tmp_path)
            endless = struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", 0x7FFFFFFE)
            one.send(raw.pdu(raw.P_DATA, raw.value(raw.STORE, 0, head(data) + endless)))
            piece = raw.pdu(raw.P_DATA, raw.value(raw.STORE, 0, bytes(131_000)))
            began = time.monotonic()
            with suppress(ConnectionError):
                while time.monotonic() - began < 20:
                    one.send(piece)
            assert time.monotonic() - began < 20
        # An endless command is no message at all.
        with raw.associated(listener.port) as one:
            one.send(raw.pdu(raw.P_DATA, raw.value(raw.STORE, 1, bytes(60_000))) * 2)
            assert [answer.kind for answer in one.rest()] == [raw.ABORT]
        (refusal,) = listener.refusals()
        assert (refusal.status, "longer than" in refusal.reason) == (0xC000, True)
        eventually("the unfinished file is gone", lambda: listener.incoming() == [])


def test_what_is_too_long_hears_its_status_before_the_abort(tmp_path: Path) -> None:
    with running(tmp_path, "[limits]\nmin_free_bytes = 0\nmax_dataset_bytes = 100000\n") as listener:
        uid, data = image(tmp_path, Rows=1000, Columns=1000, PixelData=bytes(1_000_000))
        with raw.associated(listener.port) as one:
            one.send(raw.message(raw.STORE, raw.with_length(raw.store_command(uid)), data))
            answered, aborted = one.rest()
        assert (answered.status, aborted.kind) == (0xC000, raw.ABORT)


def test_bombs_are_refused_in_bounded_memory(listener: Listener, tmp_path: Path) -> None:
    uid, data = image(tmp_path)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(head(data) + struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", 0x7FFFFFFE))
    bomb += b"".join(deflater.compress(bytes(1 << 20)) for _ in range(1024)) + deflater.flush()
    item = struct.pack("<HH2s2xL", 0x0008, 0x1115, b"SQ", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = item * 20_000
    fixed = struct.pack("<HH2s2xL", 0x0008, 0x1115, b"SQ", 0x7FFFFFFE) + struct.pack("<HHL", 0xFFFE, 0xE000, 0x7FFFFFF0)
    crowded = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * 2_100_000
    with bounded_memory(listener), raw.associated(listener.port, timeout_s=60) as one:
        assert raw.store(one, uid, bomb, raw.STORE_DEFLATED) == 0xC000
        for hostile in (nested, fixed * 1000, crowded, b"\xff" * 1_000_000):
            assert raw.store(one, uid, hostile) == 0xC000
        assert raw.store(one, uid, data) == 0x0000
    assert listener.incoming() == []
    assert len(listener.instances()) == 1


def test_service_returns_with_the_disk(listener: Listener, tmp_path: Path) -> None:
    uid, data = image(tmp_path)
    (own,) = (listener.settings.data_dir / "incoming").iterdir()
    own.rmdir()
    own.write_text("in the way")
    with raw.associated(listener.port) as one:
        assert raw.store(one, uid, data) == 0xA700
        own.unlink()
        assert raw.store(one, uid, data) == 0x0000
    assert len(listener.instances()) == 1
