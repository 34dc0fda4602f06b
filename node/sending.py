"""Opening associations to send objects on, and sending files."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from db.errors import PeerUnavailable
from node.link import Link, OnCommitment, SendResult
from node.scu import PeerRefused, at
from node.settings import Peer, Settings
from node.tls import client_context
from node.upper_layer import requesting, wire
from node.upper_layer.negotiation import Context
from node.upper_layer.states import Pdu
from node.upper_layer.wire import PeerGone, ProtocolError, Wire


def open_link(
    peer: Peer, settings: Settings, offered: Sequence[Context], on_commitment: OnCommitment | None = None
) -> Link:
    """Ask for an association.

    on_commitment: called with each storage commitment report that comes on it; what it returns (does this node know the
        transaction?) becomes the answer. RetriableError answers a failure.

    Raises:
        PeerUnavailable: no connection, no answer, or no room at the peer.
        PeerRefused: rejected for good, or none of the contexts accepted.
        ConfigError: the TLS files are wrong.
    """
    connection, answer = connect(peer, settings, offered)
    return Link(connection, answer, peer, settings, offered=offered, on_commitment=on_commitment)


def connect(
    peer: Peer, settings: Settings, offered: Sequence[Context], provides: Sequence[str] = ()
) -> tuple[socket.socket, requesting.Answer]:
    """An open association as its bare connection, and what was accepted. provides: see `requesting.request`.

    Raises what `open_link` raises.
    """
    tls = client_context(settings.tls) if peer.tls else None
    limit_s = settings.delivery.connect_timeout_s
    try:
        connection = socket.create_connection((peer.host, peer.port), timeout=limit_s)
    except socket.gaierror as error:
        raise PeerUnavailable(f"{at(peer)} cannot be found ({error.strerror})") from error
    except OSError as error:
        raise PeerUnavailable(f"{at(peer)} cannot be reached ({error.strerror or type(error).__name__})") from error
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=peer.host)
        return connection, _negotiate(connection, peer, settings, offered, provides)
    except (OSError, PeerGone) as error:
        connection.close()
        hint = "is it a TLS port, and are the certificates right?" if peer.tls else "is it a DICOM port without TLS?"
        raise PeerUnavailable(
            f"{at(peer)} takes connections but did not answer the association request; {hint}"
        ) from error
    except ProtocolError as error:
        connection.close()
        raise PeerUnavailable(f"{at(peer)} does not keep to the protocol: {error}") from error
    except (PeerRefused, PeerUnavailable):
        connection.close()
        raise


def _negotiate(
    connection: socket.socket, peer: Peer, settings: Settings, offered: Sequence[Context], provides: Sequence[str]
) -> requesting.Answer:
    limit_s, most = settings.delivery.connect_timeout_s, settings.limits.max_pdu_bytes
    talk = Wire(connection, most, limit_s, limit_s)
    talk.send(requesting.request(settings.ae_title, peer.ae_title, offered, most, provides))
    kind, body = talk.read(limit_s, time.monotonic() + 2 * limit_s)
    if kind is Pdu.ASSOCIATE_RJ:
        refusal = requesting.read_refusal(bytes(body))
        reason = f"{at(peer)} rejected the association: {refusal.reason}"
        raise PeerRefused(reason) if refusal.permanent else PeerUnavailable(reason)
    if kind is not Pdu.ASSOCIATE_AC:
        raise PeerGone(f"a PDU {kind.name} in place of an answer")
    answer = requesting.read_answer(bytes(body), offered)
    if not answer.contexts:
        talk.send(wire.abort(0, 0))
        raise PeerRefused(f"{at(peer)} accepts none of the SOP classes and transfer syntaxes offered")
    return answer


def send_files(peer: Peer, settings: Settings, paths: Iterable[Path]) -> Iterator[SendResult]:
    """C-STORE files as they are, one result each; files of the same kind share an association.

    Raises what `open_link` raises.
    """
    readable: list[tuple[tuple[str, str], str, Path]] = []
    for path in paths:
        kind = _kind(path)
        if kind is None:
            yield SendResult(path, False, "it is no DICOM file with file meta information")
        else:
            readable.append((*kind, path))
    readable.sort(key=lambda entry: entry[0])
    groups = [(kind, list(group)) for kind, group in groupby(readable, key=lambda entry: entry[0])]
    for start in range(0, len(groups), requesting.MOST_CONTEXTS):
        part = groups[start : start + requesting.MOST_CONTEXTS]
        yield from _send_part(peer, settings, [Context(*kind) for kind, _ in part], [f for _, g in part for f in g])


def _send_part(
    peer: Peer, settings: Settings, contexts: list[Context], files: list[tuple[tuple[str, str], str, Path]]
) -> Iterator[SendResult]:
    link = open_link(peer, settings, contexts)
    try:
        for kind, uid, path in files:
            if Context(*kind) not in link.accepted:
                yield SendResult(path, False, "the peer takes no such SOP class in this transfer syntax")
            else:
                yield link.store(path, Context(*kind), uid)
    finally:
        link.release()


def _kind(path: Path) -> tuple[tuple[str, str], str] | None:
    """(SOP Class UID, Transfer Syntax UID) and SOP Instance UID of a DICOM file."""
    try:
        head = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        meta = head.file_meta
        # Some writers leave the SOP Instance UID out of the file meta information; the data set has it.
        uid = str(meta.get("MediaStorageSOPInstanceUID") or head.SOPInstanceUID)
        return (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)), uid
    except (InvalidDicomError, OSError, AttributeError, ValueError, KeyError, RecursionError):
        return None
