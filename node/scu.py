"""Talking to peers: C-ECHO, C-STORE, C-FIND and storage commitment as their user.

Every failure says its cause: the peer is away or busy (PeerUnavailable, worth another try), or it refuses for good
(PeerRefused, a setting on one of the two sides is wrong).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom import _config, build_context, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from db.domain import ResultRef
from db.errors import PeerUnavailable, PermanentError
from node.commitment import (
    COMMITMENT_CLASS,
    COMMITMENT_INSTANCE,
    CommitmentReport,
    build_request,
    report_commitment,
)
from node.settings import Peer, Settings
from node.tls import client_context

log = structlog.get_logger(__name__)

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_MOST_CONTEXTS = 120
_SUCCESS = 0x0000
_PENDING = (0xFF00, 0xFF01)
# Stored all the same: coerced, elements discarded, data set does not match its class (PS3.4 B.2.3).
_STORED_WITH_WARNING = (0xB000, 0xB006, 0xB007)
_COMMIT_ACTION = 1
_LONGEST_FIND = 5
_SLOWEST_LINE_BYTES_S = 20_000

# Objects are sent as the bytes on disk; nothing is decoded or re-encoded.
_config.STORE_SEND_CHUNKED_DATASET = True


class PeerRefused(PermanentError):
    """The peer answers and says no; one of the two sides must be set up differently."""


@dataclass(frozen=True)
class EchoResult:
    """What C-ECHO found out; `cause` and `remedy` are "" when it is well."""

    ok: bool
    cause: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class SendResult:
    """One file's fate. reason: of a failure, or what the peer warned of. retriable: another try may help."""

    path: Path
    ok: bool
    reason: str = ""
    retriable: bool = False


def echo(peer: Peer, settings: Settings) -> EchoResult:
    """Open an association, C-ECHO, and say what is wrong if that fails."""
    try:
        with associate(peer, settings, [build_context(VERIFICATION)]) as association:
            status = association.send_c_echo()
    except PeerUnavailable as error:
        return EchoResult(False, str(error), "Check that it runs, its host and port, and the network between.")
    except PermanentError as error:
        return EchoResult(False, str(error), "Check the AE titles on both sides and what the peer lets this node do.")
    if status.get("Status") == _SUCCESS:
        return EchoResult(True)
    return EchoResult(False, f"it answered C-ECHO with {_told(status)}", "See the peer's log.")


@contextmanager
def associate(
    peer: Peer,
    settings: Settings,
    contexts: Sequence[PresentationContext],
    *,
    on_commitment: Callable[[CommitmentReport], bool] | None = None,
    roles: Sequence[Any] = (),
) -> Iterator[Association]:
    """An open association, released at the end.

    on_commitment: called, in another thread, with each storage commitment report that comes on this association; what
        it returns (does this node know the transaction?) becomes the answer. RetriableError answers a failure.
    roles: role selections (`pynetdicom.build_role`), for contexts in which this node is the provider.

    Raises:
        PeerUnavailable: no connection, no answer, or no room at the peer.
        PeerRefused: rejected for good, or none of the contexts accepted.
        ConfigError: the TLS files are wrong.
    """
    association = _open(peer, settings, contexts, on_commitment, roles)
    try:
        yield association
    finally:
        if association.is_established:
            with _within(2 * settings.delivery.connect_timeout_s, lambda: association):
                association.release()


def send_files(peer: Peer, settings: Settings, paths: Iterable[Path]) -> Iterator[SendResult]:
    """C-STORE files as they are, one result each; files of the same kind share an association.

    Raises what `associate` raises.
    """
    readable: list[tuple[tuple[str, str], Path]] = []
    for path in paths:
        kind = _kind(path)
        if kind is None:
            yield SendResult(path, False, "it is no DICOM file with file meta information")
        else:
            readable.append((kind, path))
    readable.sort(key=lambda entry: entry[0])
    groups = [(kind, [path for _, path in group]) for kind, group in groupby(readable, key=lambda entry: entry[0])]
    for start in range(0, len(groups), _MOST_CONTEXTS):
        yield from _send_batch(peer, settings, dict(groups[start : start + _MOST_CONTEXTS]))


def send(association: Association, path: Path, *, as_implicit: bool = False) -> SendResult:
    """C-STORE one DICOM file on an open association, as the bytes on disk.

    as_implicit: the peer took its SOP class in Implicit VR Little Endian only: encode it anew for that.
    """
    try:
        # Some writers leave the SOP Instance UID out of the file meta information; the data set has it.
        plain = not as_implicit and _has_full_meta(path)
        with _within(_answer_s(association) + path.stat().st_size / _SLOWEST_LINE_BYTES_S, lambda: association):
            status = association.send_c_store(path if plain else dcmread(path))
    except (ValueError, AttributeError, InvalidDicomError, RuntimeError, OSError) as error:
        return _not_sent(path, error)
    if not status or "Status" not in status:
        return SendResult(path, False, "the peer did not answer, or closed the association", retriable=True)
    code = int(status.Status)
    if code == _SUCCESS:
        return SendResult(path, True)
    return SendResult(
        path, code in _STORED_WITH_WARNING, f"the peer answered {_told(status)}", retriable=_worth_another_try(code)
    )


def _not_sent(path: Path, error: Exception) -> SendResult:
    """What went wrong before the peer could answer. InvalidDicomError and FileNotFoundError before their bases."""
    if isinstance(error, AttributeError | InvalidDicomError):
        return SendResult(path, False, f"it could not be encoded ({type(error).__name__})")
    if isinstance(error, FileNotFoundError):
        return SendResult(path, False, "its file is gone from the disk; restore it")
    if isinstance(error, OSError):
        return SendResult(path, False, f"its file cannot be read ({error.strerror}); check the disk", retriable=True)
    if isinstance(error, RuntimeError):
        return SendResult(path, False, "the peer has closed the association", retriable=True)
    # pynetdicom's ValueError: no accepted presentation context.
    return SendResult(path, False, "the peer takes no such SOP class in this transfer syntax")


def _worth_another_try(status: int) -> bool:
    """Out of resources, processing failure, and the Cxxx codes, which archives use for whatever went wrong inside."""
    return status >> 8 == 0xA7 or status == 0x0110 or status >> 12 == 0xC


def count_instances(peer: Peer, settings: Settings, study_uid: str) -> int | None:
    """How many instances the peer says a study has (0020,1208); None where it does not say. Raises as `associate`."""
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_uid
    query.NumberOfStudyRelatedInstances = None
    for found in find(peer, settings, [query]):
        text = str(found.get("NumberOfStudyRelatedInstances", "") or "")
        if found.get("StudyInstanceUID") == study_uid and text.isdecimal():
            return int(text)
    return None


def holds(peer: Peer, settings: Settings, refs: Iterable[ResultRef]) -> set[str]:
    """Which of these objects the peer finds at IMAGE level: their SOP Instance UIDs. Raises as `associate`."""
    refs = list(refs)
    wanted = {ref.sop_instance_uid for ref in refs}
    queries = []
    for study, series in sorted({(ref.study_instance_uid, ref.series_instance_uid) for ref in refs}):
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = study
        query.SeriesInstanceUID = series
        query.SOPInstanceUID = ""
        queries.append(query)
    return {str(found.get("SOPInstanceUID", "")) for found in find(peer, settings, queries)} & wanted


def request_commitment(association: Association, transaction_uid: str, refs: Sequence[tuple[str, str]]) -> None:
    """N-ACTION "Request Storage Commitment" (PS3.4 J.3.2) for (SOP Class UID, SOP Instance UID) pairs.

    The answer comes as a report: on this association, or on a new one to the listener.

    Raises:
        PeerRefused: the peer answered a failure, or offers no storage commitment on this association.
        PeerUnavailable: it did not answer.
    """
    try:
        with _within(_answer_s(association), lambda: association):
            status, _ = association.send_n_action(
                build_request(transaction_uid, refs), _COMMIT_ACTION, COMMITMENT_CLASS, COMMITMENT_INSTANCE
            )
    except ValueError as error:
        raise PeerRefused(f"{_name(association)} offers no storage commitment") from error
    except RuntimeError as error:
        raise PeerUnavailable(f"{_name(association)} has closed the association") from error
    if not status:
        raise PeerUnavailable(f"{_name(association)} did not answer the request for storage commitment")
    if status.Status != _SUCCESS:
        raise PeerRefused(f"{_name(association)} answered the request for storage commitment with {_told(status)}")


def _open(
    peer: Peer,
    settings: Settings,
    contexts: Sequence[PresentationContext],
    on_commitment: Callable[[CommitmentReport], bool] | None,
    roles: Sequence[Any],
) -> Association:
    entity = _entity(settings)
    opened: list[Association] = []

    def on_open(event: evt.Event) -> None:
        opened.append(event.assoc)
        _no_delay(event)

    handlers: list[Any] = [(evt.EVT_CONN_OPEN, on_open)]
    if on_commitment is not None:
        handlers.append((evt.EVT_N_EVENT_REPORT, report_commitment, [on_commitment]))
    try:
        with _within(2 * settings.delivery.connect_timeout_s, lambda: opened[-1] if opened else None):
            association = entity.associate(
                peer.host,
                peer.port,
                contexts=list(contexts),
                ae_title=peer.ae_title,
                max_pdu=settings.limits.max_pdu_bytes,
                ext_neg=list(roles) or None,
                tls_args=(client_context(settings.tls), peer.host) if peer.tls else None,
                evt_handlers=handlers,
            )
    except OSError as error:
        raise PeerUnavailable(f"{_at(peer)} cannot be found ({error.strerror or type(error).__name__})") from error
    if association.is_established:
        return association
    raise _failure(peer, settings, association)


def _failure(peer: Peer, settings: Settings, association: Association) -> PeerUnavailable | PeerRefused:
    if association.is_rejected:
        answer: Any = association.acceptor.primitive
        reason = f"{_at(peer)} rejected the association: {answer.reason_str}"
        return PeerRefused(reason) if answer.result == 0x01 else PeerUnavailable(reason)
    if association.rejected_contexts and not association.accepted_contexts:
        return PeerRefused(f"{_at(peer)} accepts none of the SOP classes and transfer syntaxes offered")
    # pynetdicom does not hand on why a connection failed; a second one finds out.
    try:
        socket.create_connection((peer.host, peer.port), timeout=settings.delivery.connect_timeout_s).close()
    except OSError as error:
        return PeerUnavailable(f"{_at(peer)} cannot be reached ({error.strerror or type(error).__name__})")
    security = (
        "; is it a TLS port, and are the certificates right?" if peer.tls else "; is it a DICOM port without TLS?"
    )
    return PeerUnavailable(f"{_at(peer)} takes connections but did not answer the association request{security}")


def _entity(settings: Settings) -> ApplicationEntity:
    entity = ApplicationEntity(ae_title=settings.ae_title)
    entity.connection_timeout = settings.delivery.connect_timeout_s
    entity.acse_timeout = settings.delivery.connect_timeout_s
    entity.dimse_timeout = settings.delivery.response_timeout_s
    entity.network_timeout = settings.delivery.response_timeout_s
    return entity


@contextmanager
def _within(seconds: float, find: Callable[[], Association | None]) -> Iterator[None]:
    """Cut the connection of the association that `find` gives when the block takes longer.

    pynetdicom's own time-outs wait for whole PDUs: a peer that sends one byte now and then is waited for as long as it
    likes, by whoever closes the association too.
    """

    def cut() -> None:
        association = find()
        transport = association.dul.socket if association is not None else None
        if transport is not None and transport.socket is not None:
            log.warning("peer_too_slow", seconds=seconds)
            # It may be closed already, or just now.
            with suppress(OSError):
                transport.socket.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _answer_s(association: Association) -> float:
    """Seconds a peer may take for an answer, its bytes included."""
    # None would be for ever, which no association of this node is set to.
    return 2.0 * (association.dimse_timeout or 60.0)


def _no_delay(event: evt.Event) -> None:
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _has_full_meta(path: Path) -> bool:
    meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
    return bool(meta.get("MediaStorageSOPInstanceUID"))


def _kind(path: Path) -> tuple[str, str] | None:
    """(SOP Class UID, Transfer Syntax UID) of a DICOM file."""
    try:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except (InvalidDicomError, OSError, AttributeError, ValueError, KeyError, RecursionError):
        return None


def _send_batch(peer: Peer, settings: Settings, groups: dict[tuple[str, str], list[Path]]) -> Iterator[SendResult]:
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in groups]
    paths = [path for group in groups.values() for path in group]
    with associate(peer, settings, contexts) as association:
        for path in paths:
            yield send(association, path)


def find(peer: Peer, settings: Settings, queries: Sequence[Dataset], model: str = STUDY_ROOT_FIND) -> Iterator[Dataset]:
    """The answers to C-FIND queries, as they come. Raises as `associate`, also where a query is refused."""
    # Each response may take its time; that they never end is another matter.
    until = time.monotonic() + _LONGEST_FIND * settings.delivery.response_timeout_s
    with (
        associate(peer, settings, [build_context(model)]) as association,
        _within(2 * _LONGEST_FIND * settings.delivery.response_timeout_s, lambda: association),
    ):
        for query in queries:
            for status, found in association.send_c_find(query, model):
                code = status.get("Status")
                if code is None or time.monotonic() > until:
                    raise PeerUnavailable(f"{_at(peer)} did not answer C-FIND to the end")
                if code in _PENDING and found is not None:
                    yield found
                elif code != _SUCCESS and code not in _PENDING:
                    kind = PeerUnavailable if code >> 8 == 0xA7 else PeerRefused
                    raise kind(f"{_at(peer)} answered C-FIND with {_told(status)}")


def commitment_context() -> PresentationContext:
    """The context of `request_commitment`, to be offered next to those of the objects."""
    return build_context(COMMITMENT_CLASS)


def _told(status: Dataset) -> str:
    # Its Error Comment (0000,0902) is the peer's free text and may quote a patient.
    code = status.get("Status")
    return "no status" if code is None else f"status {code:#06x}"


def _at(peer: Peer) -> str:
    return f"{peer.ae_title}@{peer.host}:{peer.port}"


def _name(association: Association) -> str:
    return str(association.acceptor.ae_title).strip()
