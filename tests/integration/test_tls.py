"""The listener behind mutual TLS: who gets in, who does not, and what silent connections cost the others."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from db import audit
from db.audit import Wanted
from node import scu, sending
from node.settings import Peer, Settings, Tls
from node.tls import client_context
from tests.support.certificates import Authority, authority
from tests.support.listening import Listener, chest_file, running

pytestmark = pytest.mark.e2e


@dataclass
class Guarded:
    """A listener that wants certificates of `ca`, and the settings of a peer that has one."""

    listener: Listener
    ca: Authority
    settings: Settings

    @property
    def peer(self) -> Peer:
        return Peer(ae_title="RADNODE", host="127.0.0.1", port=self.listener.port, tls=True)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.listener.port), timeout=10)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    ca = authority(tmp_path)
    certificate, key = ca.issue("node")
    more = (
        f'[tls]\ncertificate = "{certificate}"\nprivate_key = "{key}"\nca = "{ca.ca}"\n'
        "[limits]\nmin_free_bytes = 0\nmax_associations = 10\n"
    )
    own_certificate, own_key = ca.issue("peer")
    settings = Settings(tls=Tls(certificate=own_certificate, private_key=own_key, ca=ca.ca))
    with running(tmp_path, more) as listener:
        yield Guarded(listener, ca, settings)


def test_a_peer_with_a_certificate_is_served(guarded: Guarded, tmp_path: Path) -> None:
    assert scu.echo(guarded.peer, guarded.settings).ok
    sent = chest_file(tmp_path, Rows=1000, Columns=1000, PixelData=bytes(10**6))
    (result,) = sending.send_files(guarded.peer, guarded.settings, [sent])
    assert result.ok
    assert [i.calling_ae for i in guarded.listener.instances()] == ["RADNODE"]


def test_a_peer_without_one_or_with_a_strangers_is_not(guarded: Guarded, tmp_path: Path) -> None:
    stranger = authority(tmp_path, "stranger")
    certificate, key = stranger.issue("intruder")
    for tls in (Tls(ca=guarded.ca.ca), Tls(ca=guarded.ca.ca, certificate=certificate, private_key=key)):
        assert closes(guarded, client_context(tls))
    with guarded.connect() as plain:
        plain.sendall(b"\x01\x00\x00\x00\x00\x44")
        assert ends(plain)
    assert scu.echo(guarded.peer, guarded.settings).ok


def test_failed_handshakes_are_on_record_and_a_thousand_of_them_are_a_few_rows(guarded: Guarded) -> None:
    def attempt(number: int) -> None:
        with guarded.connect() as plain, suppress(ConnectionError):
            # Every tenth only tries the port, as health checks do.
            if number % 10:
                plain.sendall(b"\x01\x00\x00\x00\x00\x44")
            else:
                plain.shutdown(socket.SHUT_WR)
            ends(plain)

    with ThreadPoolExecutor(8) as strangers:
        list(strangers.map(attempt, range(1000)))
    assert scu.echo(guarded.peer, guarded.settings).ok
    stopped = guarded.listener.process
    stopped.terminate()
    assert stopped.wait(15) == 0
    with guarded.listener.record.read() as session:
        found = list(audit.entries(session, Wanted(events=("handshake_failed",))))
    assert sum(row.detail["attempts"] for row in found) == 900
    assert len(found) < 20
    assert {(row.actor, row.outcome) for row in found} == {("127.0.0.1", "failure")}


def closes(guarded: Guarded, context: ssl.SSLContext) -> bool:
    """Whether the listener ends the connection; TLS 1.3 tells a client of its refusal only afterwards."""
    with guarded.connect() as connection:
        try:
            with context.wrap_socket(connection, server_hostname="127.0.0.1") as greeted:
                return ends(greeted)
        except (ssl.SSLError, ConnectionError):
            return True


def ends(connection: socket.socket) -> bool:
    """Raises TimeoutError where the other side keeps it open."""
    try:
        while connection.recv(4096):
            continue
    except (ssl.SSLError, ConnectionError):
        return True
    return True


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_version_of_tls_is_refused(guarded: Guarded) -> None:
    old = client_context(guarded.settings.tls)
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with guarded.connect() as connection, pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        old.wrap_socket(connection, server_hostname="127.0.0.1")


def test_silent_connections_are_given_up_for_those_that_come_after(guarded: Guarded, tmp_path: Path) -> None:
    silent = [guarded.connect() for _ in range(80)]
    began = time.monotonic()
    assert scu.echo(guarded.peer, guarded.settings).ok
    (result,) = sending.send_files(guarded.peer, guarded.settings, [chest_file(tmp_path)])
    assert result.ok
    # Their own time would be acse_timeout_s, half a minute.
    for connection in silent[:20]:
        connection.settimeout(5)
        assert connection.recv(1) == b""
    assert time.monotonic() - began < 10
    silent[-1].settimeout(0.5)
    with pytest.raises(TimeoutError):
        silent[-1].recv(1)
    for connection in silent:
        connection.close()
    assert scu.echo(guarded.peer, guarded.settings).ok


def test_only_the_named_authority_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, systems = authority(tmp_path, "named"), authority(tmp_path, "system")
    monkeypatch.setenv("SSL_CERT_FILE", str(systems.ca))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))

    def trusted(tls: Tls) -> list[str]:
        return [str(found["subject"]) for found in client_context(tls).get_ca_certs()]

    (only,) = trusted(Tls(ca=named.ca))
    assert "named" in only
    (only,) = trusted(Tls())
    assert "system" in only
