"""`radnode hl7 listen` against somebody else's MLLP client: what is acknowledged is in the record."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db import hl7_received, schema
from db.errors import ConfigError, PeerUnavailable
from db.order_tables import Order
from db.session import Record
from db.tables import Audit
from node.settings import Settings, Tls
from node.settings_hl7 import Hl7, Hl7Listener
from node.tls import client_context
from node.worklist.hl7.link import Link
from node.worklist.hl7.server import run_server
from tests.support import hl7_peer
from tests.support.certificates import authority
from tests.support.node import Node, part
from tests.support.processes import eventually, free_port

ORDER = (
    "MSH|^~\\&|RIS|HOSP|RADNODE||20260301||ORM^O01^ORM_O01|{}|P|2.5.1||||||UNICODE UTF-8\r"
    "PID|1||ID-1^^^HOSP^MR||Müller^Eva||19700101|F\r"
    "ORC|NW|PL-1|FI-1\r"
    "OBR|1|PL-1|FI-1|^Chest PA||||||||||||||ACC-1|||||||||^^^^^S\r"
)
START, END = b"\x0b", b"\x1c\x0d"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return listening(tmp_path)


def listening(folder: Path, tls_files: Tls | None = None, **changes: Any) -> Settings:
    listener = {"enabled": True, "port": free_port(), **changes}
    return Settings(data_dir=folder, tls=tls_files or Tls(), hl7=Hl7(listener=Hl7Listener(**listener)))


@pytest.fixture
def record(settings: Settings) -> Iterator[Record]:
    opened = Record(settings.record_url)
    schema.upgrade(opened)
    yield opened
    opened.close()


@contextmanager
def serving(settings: Settings, record: Record) -> Iterator[int]:
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=run_server, args=(settings, record, stop, ready.set))
    thread.start()
    try:
        assert ready.wait(20)
        yield settings.hl7.listener.port
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def code(answer: Any) -> tuple[str, str]:
    return str(answer.segment("MSA")(1)), str(answer.segment("MSA")(2))


def reason(answer: Any) -> str:
    return str(answer.segment("ERR")(8))


def raw(port: int, data: bytes) -> bytes:
    """What comes back for some bytes, until the other side closes or breaks off."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(65536):
            received += more
    return received


def test_an_order_is_in_the_record_once_it_is_acknowledged(settings: Settings, record: Record) -> None:
    with serving(settings, record) as port, hl7_peer.sender(port) as send:
        answer = send(ORDER.format("1"))
        assert code(answer) == ("AA", "1")
        assert str(answer.segment("MSH")(5)) == "RIS"
        with record.read() as session:
            order = session.scalars(select(Order)).one()
        assert (order.accession_number, order.priority, order.patient_name) == ("ACC-1", "stat", "Müller^Eva")
        # Sent again, because the answer got lost: the same answer, and nothing done twice.
        assert code(send(ORDER.format("1"))) == ("AA", "1")
        # Under an id that was used before, by a sender that has segments end as it likes: another message.
        assert code(send(ORDER.format("1").replace("^^^^^S", "^^^^^R").replace("\r", "\n"))) == ("AA", "1")
        assert code(send(ORDER.format("1").replace("20260301", "20260302"))) == ("AA", "1")
    with record.read() as session:
        assert session.scalars(select(Order.priority)).all() == ["routine"]
        assert hl7_received.counts(session) == {"ORM^O01": 2}
        audited = session.scalars(select(Audit).where(Audit.event == "order_received")).all()
    assert [row.actor for row in audited] == ["RIS^HOSP"] * 2
    assert "ID-1" not in str([row.detail for row in audited])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ORDER.replace("ORM^O01^ORM_O01", "ORU^R01").format("9"), "takes ADT"),
        (ORDER.replace("|ID-1^^^HOSP^MR|", "||").format("9"), "patient identifier"),
        (ORDER.replace("|FI-1", "").replace("ACC-1", "").format("9"), "accession number"),
        (ORDER.format("9" * 201), "longer than"),
        (ORDER.replace("UNICODE UTF-8", "KLINGON").format("9"), "character set"),
    ],
)
def test_what_will_never_be_taken_is_refused_with_its_reason(
    settings: Settings, record: Record, text: str, why: str
) -> None:
    with serving(settings, record) as port, hl7_peer.sender(port) as send:
        answer = send(text)
        assert code(answer)[0] == "AR"
        assert why in reason(answer)
        # The connection goes on.
        assert code(send(ORDER.format("10"))) == ("AA", "10")


def test_a_sender_that_is_not_named_is_refused_and_told_of(tmp_path: Path, record: Record) -> None:
    settings = listening(tmp_path, sending_applications=("HIS",))
    with serving(settings, record) as port, hl7_peer.sender(port) as send:
        assert code(send(ORDER.format("1"))) == ("AR", "1")
    with record.read() as session:
        (told,) = session.scalars(select(Audit).where(Audit.event == "message_refused")).all()
    assert (told.actor, told.outcome) == ("RIS^HOSP", "failure")


def test_a_record_that_is_away_has_the_message_sent_again(settings: Settings, record: Record) -> None:
    with serving(settings, record) as port, hl7_peer.sender(port) as send:
        (settings.data_dir / "radnode.db").rename(settings.data_dir / "away")
        record.engine.dispose()
        (settings.data_dir / "radnode.db").mkdir()
        assert code(send(ORDER.format("1"))) == ("AE", "1")
        (settings.data_dir / "radnode.db").rmdir()
        (settings.data_dir / "away").rename(settings.data_dir / "radnode.db")
        assert code(send(ORDER.format("1"))) == ("AA", "1")


def test_what_the_record_does_not_take_is_to_be_sent_again(settings: Settings, record: Record) -> None:
    with serving(settings, record) as port, hl7_peer.sender(port) as send:
        with record.engine.begin() as connection:
            refuse = "CREATE TRIGGER refuse BEFORE INSERT ON orders BEGIN SELECT RAISE(ABORT, 'ID-1'); END"
            connection.exec_driver_sql(refuse)
        answer = send(ORDER.format("1"))
        assert code(answer) == ("AE", "1")
        assert "ID-1" not in str(answer)
        with record.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER refuse")
        assert code(send(ORDER.format("1"))) == ("AA", "1")
    with record.read() as session:
        assert session.scalars(select(Order.accession_number)).all() == ["ACC-1"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        START + b"MSH|^~\\&|RIS",
        START + b"X" * 5000,
        END,
    ],
)
def test_what_is_no_mllp_ends_its_connection_and_no_other(tmp_path: Path, record: Record, data: bytes) -> None:
    settings = listening(tmp_path, max_message_bytes=4096, message_timeout_s=2.0)
    with serving(settings, record) as port, hl7_peer.sender(port) as send:
        assert raw(port, data) == b""
        assert code(send(ORDER.format("1"))) == ("AA", "1")


def test_a_block_that_is_no_message_is_answered_all_the_same(settings: Settings, record: Record) -> None:
    with serving(settings, record) as port:
        answered = raw(port, b"\r\n" + START + b"hello" + END + b"\r\n" + START + ORDER.format("3").encode() + END)
    assert answered.count(b"MSA|AR") == 1
    assert b"MSA|AA|3" in answered


def test_silence_and_crowds_are_bounded(tmp_path: Path, record: Record) -> None:
    settings = listening(tmp_path, max_connections=1, idle_timeout_s=0.5)
    with serving(settings, record) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
            assert raw(port, b"") == b""
            assert silent.recv(1) == b""
        eventually("there is room again", lambda: b"MSA|AA" in raw(port, START + ORDER.format("1").encode() + END))


def test_an_address_that_is_not_named_gets_no_connection(tmp_path: Path, record: Record) -> None:
    settings = listening(tmp_path, addresses=("10.0.0.0/8",))
    with serving(settings, record) as port:
        for _ in range(20):
            assert raw(port, START + ORDER.format("1").encode() + END) == b""
    with record.read() as session:
        assert session.scalars(select(Order)).all() == []
        told = session.scalars(select(Audit.detail).where(Audit.event == "message_refused")).all()
    # Each attempt is told, in few rows.
    assert sum(detail["attempts"] for detail in told) == 20
    assert len(told) < 10


def test_tls_wants_a_certificate_of_the_hospital(tmp_path: Path, record: Record) -> None:
    ca = authority(tmp_path)
    certificate, key = ca.issue("node")
    mine, my_key = ca.issue("ris")
    settings = listening(tmp_path, tls_files=Tls(certificate=certificate, private_key=key, ca=ca.ca), tls=True)
    trusted = client_context(Tls(certificate=mine, private_key=my_key, ca=ca.ca))
    trusted.check_hostname = False
    stranger = ssl.create_default_context(cafile=str(ca.ca))
    with serving(settings, record) as port:
        with hl7_peer.sender(port, tls=trusted) as send:
            assert code(send(ORDER.format("1"))) == ("AA", "1")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            stranger.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            suppress(ssl.SSLError, ConnectionError),
        ):
            connection.sendall(START + ORDER.format("2").encode() + END)
            # In TLS 1.3 a client learns of it at its first read.
            assert connection.recv(1) == b""
    with record.read() as session:
        assert hl7_received.counts(session) == {"ORM^O01": 1}


def test_messages_go_out_over_tls_to_whom_the_hospital_vouches_for(tmp_path: Path) -> None:
    ca, other = authority(tmp_path), authority(tmp_path, "other")
    mine = ca.issue("node")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(*ca.issue("ris"))
    with hl7_peer.Receiver(tls=served) as ris:
        to = ris.destination(tls=True)
        for trusted, fails in ((ca, False), (other, True)):
            settings = Settings(tls=Tls(certificate=mine[0], private_key=mine[1], ca=trusted.ca))
            with Link(settings, to) as link:
                if fails:
                    with pytest.raises(PeerUnavailable, match="no connection"):
                        link.exchange(ORDER.format("1").encode(), "1")
                else:
                    assert link.exchange(ORDER.format("1").encode(), "1").accepted
        assert ris.messages.qsize() == 1


def test_a_port_that_is_taken_is_named(settings: Settings, record: Record) -> None:
    with (
        socket.create_server(("127.0.0.1", settings.hl7.listener.port)),
        pytest.raises(ConfigError, match=r"hl7\.listener cannot listen"),
    ):
        run_server(settings, record, threading.Event(), lambda: None)


def test_the_command_takes_messages_and_lists_them(tmp_path: Path) -> None:
    port = free_port()
    node = Node(tmp_path / "node", f"[hl7.listener]\nenabled = true\nport = {port}\n")
    with part(node, "hl7", "listen") as process:

        def up() -> bool:
            assert process.poll() is None, (node.folder / "hl7.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually("it listens", up)
        with hl7_peer.sender(port) as send:
            assert code(send(ORDER.format("1"))) == ("AA", "1")
            merge = ORDER.split("ORC", maxsplit=1)[0].replace("ORM^O01^ORM_O01", "ADT^A40^ADT_A39").format("2")
            assert code(send(f"{merge}MRG|ID-0^^^HOSP\r")) == ("AA", "2")
    listed = node.json("hl7", "received")
    assert [(row["kind"], row["control_id"]) for row in listed] == [("ADT^A40", "2"), ("ORM^O01", "1")]
    assert listed[0]["outcome"].startswith("work on 0 studies")
    assert node.json("hl7", "identity") == []
    log = (node.folder / "hl7.log").read_text()
    assert "message_taken" in log
    assert not [secret for secret in ("ID-1", "ID-0", "Müller", "ACC-1") if secret in log]
