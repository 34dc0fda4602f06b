"""Certificates are renewed under a running node: no part is started again, and none serves the old one for long."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cryptography import x509

from node.settings import Tls, load
from node.tls import client_context
from tests.support.certificates import authority
from tests.support.node import running_node
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.e2e

TLS = """
[tls]
certificate = "{certificate}"
private_key = "{key}"
ca = "{ca}"
[web]
certificate = "{certificate}"
private_key = "{key}"
[hl7.listener]
enabled = true
tls = true
port = {hl7}
"""
PARTS = ("listener", "web", "hl7")


def test_renewed_under_a_running_node(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    certificate, key = ca.issue("old")
    own_certificate, own_key = ca.issue("peer")
    trusted = client_context(Tls(ca=ca.ca, certificate=own_certificate, private_key=own_key))

    def shown(port: int) -> str:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            trusted.wrap_socket(plain, server_hostname="127.0.0.1") as met,
        ):
            seen = met.getpeercert(binary_form=True)
        assert seen is not None
        return x509.load_der_x509_certificate(seen).subject.rfc4514_string()

    settings = TLS.format(certificate=certificate, key=key, ca=ca.ca, hl7=free_port())
    with running_node(tmp_path / "node", settings) as node:
        ports = [node.dicom_port, node.web_port, load(node.config).hl7.listener.port]
        before = [node.child(part).pid for part in PARTS]
        assert {shown(port) for port in ports} == {"CN=old"}
        for made, used in zip(ca.issue("new"), (certificate, key), strict=True):
            made.replace(used)
        eventually("all show the new one", lambda: {shown(port) for port in ports} == {"CN=new"}, timeout_s=30)
        assert [node.child(part).pid for part in PARTS] == before
