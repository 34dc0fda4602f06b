"""A listener's certificate is renewed by new files, and kept while they do not fit together."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from db.errors import ConfigError
from node.settings import Tls
from node.tls import ServerTls, client_context
from tests.support.certificates import Authority, authority


def shown(server: ServerTls, ca: Path) -> str:
    """Whom a new connection meets."""
    here, there = socket.socketpair()
    context = server.context()
    assert context is not None
    with here, there:
        answering = threading.Thread(target=lambda: context.wrap_socket(there, server_side=True).close())
        answering.start()
        with client_context(Tls(ca=ca)).wrap_socket(here, server_hostname="127.0.0.1") as met:
            certificate = met.getpeercert(binary_form=True)
        answering.join()
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return authority(tmp_path)


def test_new_files_count_without_a_restart_once_they_fit(tmp_path: Path, ca: Authority) -> None:
    certificate, key = ca.issue("old")
    server = ServerTls(Tls(certificate=certificate, private_key=key, require_client_certificate=False))
    assert shown(server, ca.ca) == "CN=old"
    new_certificate, new_key = ca.issue("new")
    new_certificate.replace(certificate)
    assert shown(server, ca.ca) == "CN=old", "a certificate whose key has not come yet"
    new_key.replace(key)
    assert shown(server, ca.ca) == "CN=new"
    certificate.unlink()
    assert shown(server, ca.ca) == "CN=new"


def test_peers_of_a_new_authority_are_taken_and_those_of_the_old_are_not(tmp_path: Path, ca: Authority) -> None:
    certificate, key = ca.issue("node")
    server = ServerTls(Tls(certificate=certificate, private_key=key, ca=ca.ca))
    other = authority(tmp_path, "other")
    other.ca.replace(ca.ca)
    context = server.context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert [one["subject"] for one in context.get_ca_certs()] == [((("commonName", "other"),),)]


def test_without_a_certificate_there_is_none_and_wrong_files_are_said_at_the_start(tmp_path: Path) -> None:
    assert ServerTls(Tls()).context() is None
    wrong = Tls(certificate=tmp_path / "a", private_key=tmp_path / "b", require_client_certificate=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        ServerTls(wrong)
