"""TLS contexts: BCP 195 (RFC 8996, 9325), TLS 1.2 or later (PS3.15 B.9)."""

from __future__ import annotations

import ssl

from db.errors import ConfigError
from node.settings import Tls


def server_context(tls: Tls) -> ssl.SSLContext | None:
    """For the listener; None where no certificate is configured. Raises ConfigError."""
    if tls.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, tls)
    if tls.require_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For peers that are sent to over TLS; shows the node's own certificate where there is one. Raises ConfigError."""
    # Not ssl.create_default_context: it trusts the system's authorities, which say nothing of a hospital's peers.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, tls)
    if tls.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    try:
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.private_key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "[tls] certificate, private_key or ca cannot be read as PEM, or key and certificate do not belong "
            f"together ({type(error).__name__}); check the files and their permissions"
        ) from error
