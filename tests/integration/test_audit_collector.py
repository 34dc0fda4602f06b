"""The audit trail on its way to a collector: rsyslog over TLS, and receivers that misbehave."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from db import audit, audit_chain, schema
from db.errors import ConfigError
from db.session import Record
from node.audit import service
from node.audit.collector import CollectorAway
from node.settings import Settings
from tests.support.audit_message import frames, parsed, validated
from tests.support.certificates import authority
from tests.support.collector import rsyslog
from tests.support.processes import eventually, free_port


@dataclass
class Node:
    """A record, and the two loops of a keeper that look after its audit."""

    settings: Settings
    record: Record

    def note(self, count: int) -> None:
        with self.record.write() as session:
            for number in range(count):
                audit.note(session, "study_viewed", actor="anna", subject=f"1.2.{number}")

    def sent(self) -> int:
        with self.record.read() as session:
            return audit_chain.cursor(session, self.settings.audit.collector)

    @contextmanager
    def keeper(self) -> Iterator[None]:
        stop = threading.Event()
        threads = [
            threading.Thread(target=loop, args=(stop,)) for loop in service.loops(self.settings, self.record).values()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


@contextmanager
def node(folder: Path, **trail: Any) -> Iterator[Node]:
    given = {"collector_host": "127.0.0.1", "seal_interval_s": 0.05, "backoff_max_s": 0.1, "send_timeout_s": 5.0}
    settings = Settings(data_dir=folder, audit={**given, **trail})  # type: ignore[arg-type]
    record = Record(settings.record_url)
    schema.upgrade(record)
    try:
        yield Node(settings, record)
    finally:
        record.close()


def positions(messages: list[bytes]) -> list[int]:
    return [int(parsed(one).data["meta"]["sequenceId"]) for one in messages]


def test_rsyslog_gets_everything_in_order_over_tls(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    certificate, key = ca.issue("node")
    port = free_port()
    with (
        node(tmp_path / "n", collector_port=port, ca=ca.ca, certificate=certificate, private_key=key, batch=100) as one,
        rsyslog(tmp_path / "collector", port, ca, ask_certificate=True) as collector,
        one.keeper(),
    ):
        one.note(430)
        eventually("everything is sent", lambda: one.sent() == 430)
        eventually("everything is written", lambda: len(collector.received()) == 430)
    received = collector.received()
    assert positions(received) == list(range(1, 431))
    for message in received[::50]:
        validated(parsed(message).body.partition("?>")[2])


# Python's ssl leaves its half-made socket to the garbage collector when the reset comes before the handshake.
@pytest.mark.filterwarnings("ignore:.*SSLSocket.*:pytest.PytestUnraisableExceptionWarning")
def test_a_collector_that_comes_late_and_goes_meanwhile_misses_nothing(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    port = free_port()
    with node(tmp_path / "n", collector_port=port, ca=ca.ca, batch=7) as one, one.keeper():
        one.note(50)
        with one.record.read() as session:
            assert one.sent() == 0
            assert audit_chain.head(session).position <= 50
        for more in (0, 40, 40):
            with rsyslog(tmp_path / "collector", port, ca) as collector:
                eventually("what waited is sent", lambda: one.sent() >= 50)
                one.note(more)
            # Ended by SIGTERM while the node was perhaps sending.
        with rsyslog(tmp_path / "collector", port, ca) as collector:
            eventually("all the rest is sent", lambda: one.sent() == 130)
    found = positions(collector.received())
    assert list(dict.fromkeys(found)) == list(range(1, 131)), "in order, and what came twice came after its first time"


def test_in_the_clear_on_this_machine(tmp_path: Path) -> None:
    port = free_port()
    with (
        rsyslog(tmp_path / "collector", port) as collector,
        node(tmp_path / "n", collector_port=port, transport="tcp") as one,
        one.keeper(),
    ):
        one.note(3)
        eventually("all are sent", lambda: one.sent() == 3)
    assert positions(collector.received()) == [1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"transport": "tcp", "collector_host": "collector.example.org"},
        {"certificate": "node.pem"},
    ],
)
def test_what_would_be_unsafe_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"in the clear|come together"):
        Settings(audit=wrong)  # type: ignore[arg-type]


def test_a_collector_with_a_certificate_of_another_authority_gets_nothing(tmp_path: Path) -> None:
    ours, theirs = authority(tmp_path, "ours"), authority(tmp_path, "theirs")
    port = free_port()
    with (
        rsyslog(tmp_path / "collector", port, theirs) as collector,
        node(tmp_path / "n", collector_port=port, ca=ours.ca) as one,
    ):
        one.note(1)
        service.Sealer(one.settings, one.record).once()
        with pytest.raises(CollectorAway, match="does not vouch"):
            service.Sender(one.settings, one.record).once()
    assert collector.received() == []
    assert one.sent() == 0


def test_a_collector_that_refuses_this_node_does_not_count_as_served(tmp_path: Path) -> None:
    """It ends the connection after the handshake, when all of a small batch may be on its way already."""
    ca = authority(tmp_path)
    port = free_port()
    with (
        rsyslog(tmp_path / "collector", port, ca, ask_certificate=True) as collector,
        node(tmp_path / "n", collector_port=port, ca=ca.ca) as one,
    ):
        one.note(1)
        service.Sealer(one.settings, one.record).once()
        sender = service.Sender(one.settings, one.record)
        for _ in range(20):
            with pytest.raises(CollectorAway, match="certificate"):
                sender.once()
    assert collector.received() == []
    assert one.sent() == 0


def test_certificates_that_cannot_be_read_are_a_wrong_setting(tmp_path: Path) -> None:
    with node(tmp_path / "n", ca=tmp_path / "nowhere.pem", collector_port=free_port()) as one, socket.socket() as open_:
        open_.bind(("127.0.0.1", one.settings.audit.collector_port))
        open_.listen()
        one.note(1)
        service.Sealer(one.settings, one.record).once()
        with pytest.raises(ConfigError, match=r"\[audit\]"):
            service.Sender(one.settings, one.record).once()


@dataclass
class Receiver:
    """Takes connections in the clear. cuts: after how many octets it breaks each one off; then it takes whole ones."""

    cuts: list[int]
    silent: bool = False
    whole: list[bytes] = field(default_factory=list)
    broken: int = 0

    @contextmanager
    def running(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=self._serve, args=(server,))
            thread.start()
            try:
                yield int(server.getsockname()[1])
            finally:
                server.shutdown(socket.SHUT_RDWR)
                thread.join(10)
        assert not thread.is_alive()

    def _serve(self, server: socket.socket) -> None:
        held = []
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                break
            if self.silent:
                held.append(connection)
            else:
                with connection:
                    self._take(connection)
        for connection in held:
            connection.close()

    def _take(self, connection: socket.socket) -> None:
        if self.cuts:
            left = self.cuts.pop(0)
            while left > 0 and (data := connection.recv(min(left, 4096))):
                left -= len(data)
            # Ends with a reset, like a process that dies.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.broken += 1
            return
        stream = b""
        while data := connection.recv(4096):
            stream += data
        self.whole += frames(stream)


def test_what_a_collector_broke_off_is_sent_again_from_the_first_of_its_batch(tmp_path: Path) -> None:
    receiver = Receiver(cuts=[0, 1, 100, 3000, 9000])
    with (
        receiver.running() as port,
        node(tmp_path / "n", collector_port=port, transport="tcp", batch=10) as one,
        one.keeper(),
    ):
        one.note(35)
        eventually("all are sent", lambda: one.sent() == 35)
    assert receiver.broken == 5
    assert positions(receiver.whole) == list(range(1, 36))


def test_a_collector_that_never_answers_holds_up_nothing(tmp_path: Path) -> None:
    receiver = Receiver(cuts=[], silent=True)
    with (
        receiver.running() as port,
        node(tmp_path / "n", collector_port=port, transport="tcp", send_timeout_s=0.3) as one,
    ):
        with one.keeper():
            started = time.monotonic()
            one.note(300)
            eventually("the rows get their places", lambda: _waiting(one) == 0)
            assert time.monotonic() - started < 5
        assert one.sent() == 0


def _waiting(one: Node) -> int:
    with one.record.read() as session:
        return audit_chain.waiting(session)
