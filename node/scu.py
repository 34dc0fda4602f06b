"""Asking peers: C-ECHO and C-FIND as their user, and associations for whatever else (objects go out by `node.sending`).

Every failure says its cause: the peer is away or busy (PeerUnavailable, worth another try), or it refuses for good
(PeerRefused, a setting on one of the two sides is wrong).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from db.domain import ResultRef
from db.errors import PeerUnavailable, PermanentError
from node.commitment import COMMITMENT_CLASS
from node.settings import Peer, Settings
from node.tls import client_context

log = structlog.get_logger(__name__)

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_SUCCESS = 0x0000
_PENDING = (0xFF00, 0xFF01)
_LONGEST_FIND = 5


class PeerRefused(PermanentError):
    """The peer answers and says no; one of the two sides must be set up differently."""


@dataclass(frozen=True)
class EchoResult:
    """What C-ECHO found out; `cause` and `remedy` are "" when it is well."""

    ok: bool
    cause: str = ""
    remedy: str = ""


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
    roles: Sequence[Any] = (),
) -> Iterator[Association]:
    """An open association, released at the end.

    roles: role selections (`pynetdicom.build_role`), for contexts in which this node is the provider.

    Raises:
        PeerUnavailable: no connection, no answer, or no room at the peer.
        PeerRefused: rejected for good, or none of the contexts accepted.
        ConfigError: the TLS files are wrong.
    """
    association = _open(peer, settings, contexts, roles)
    try:
        yield association
    finally:
        if association.is_established:
            with within(2 * settings.delivery.connect_timeout_s, lambda: association):
                association.release()


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


def _open(
    peer: Peer,
    settings: Settings,
    contexts: Sequence[PresentationContext],
    roles: Sequence[Any],
) -> Association:
    entity = _entity(settings)
    opened: list[Association] = []

    def on_open(event: evt.Event) -> None:
        opened.append(event.assoc)
        _no_delay(event)

    try:
        with within(2 * settings.delivery.connect_timeout_s, lambda: opened[-1] if opened else None):
            association = entity.associate(
                peer.host,
                peer.port,
                contexts=list(contexts),
                ae_title=peer.ae_title,
                max_pdu=settings.limits.max_pdu_bytes,
                ext_neg=list(roles) or None,
                tls_args=(client_context(settings.tls), peer.host) if peer.tls else None,
                evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
            )
    except OSError as error:
        raise PeerUnavailable(f"{at(peer)} cannot be found ({error.strerror or type(error).__name__})") from error
    if association.is_established:
        return association
    raise _failure(peer, settings, association)


def _failure(peer: Peer, settings: Settings, association: Association) -> PeerUnavailable | PeerRefused:
    if association.is_rejected:
        answer: Any = association.acceptor.primitive
        reason = f"{at(peer)} rejected the association: {answer.reason_str}"
        return PeerRefused(reason) if answer.result == 0x01 else PeerUnavailable(reason)
    if association.rejected_contexts and not association.accepted_contexts:
        return PeerRefused(f"{at(peer)} accepts none of the SOP classes and transfer syntaxes offered")
    # pynetdicom does not hand on why a connection failed; a second one finds out.
    try:
        socket.create_connection((peer.host, peer.port), timeout=settings.delivery.connect_timeout_s).close()
    except OSError as error:
        return PeerUnavailable(f"{at(peer)} cannot be reached ({error.strerror or type(error).__name__})")
    security = (
        "; is it a TLS port, and are the certificates right?" if peer.tls else "; is it a DICOM port without TLS?"
    )
    return PeerUnavailable(f"{at(peer)} takes connections but did not answer the association request{security}")


def _entity(settings: Settings) -> ApplicationEntity:
    entity = ApplicationEntity(ae_title=settings.ae_title)
    entity.connection_timeout = settings.delivery.connect_timeout_s
    entity.acse_timeout = settings.delivery.connect_timeout_s
    entity.dimse_timeout = settings.delivery.response_timeout_s
    entity.network_timeout = settings.delivery.response_timeout_s
    return entity


@contextmanager
def within(seconds: float, find: Callable[[], Association | None]) -> Iterator[None]:
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


def _no_delay(event: evt.Event) -> None:
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def find(
    peer: Peer, settings: Settings, queries: Sequence[Dataset], model: str = STUDY_ROOT_FIND
) -> Generator[Dataset, None, None]:
    """The answers to C-FIND queries, as they come. Raises as `associate`, also where a query is refused."""
    # Each response may take its time; that they never end is another matter.
    until = time.monotonic() + _LONGEST_FIND * settings.delivery.response_timeout_s
    with (
        associate(peer, settings, [build_context(model)]) as association,
        within(2 * _LONGEST_FIND * settings.delivery.response_timeout_s, lambda: association),
    ):
        for query in queries:
            try:
                answers = association.send_c_find(query, model)
            except RuntimeError as error:
                raise PeerUnavailable(f"{at(peer)} has closed the association") from error
            for status, found in answers:
                code = status.get("Status")
                if code is None or time.monotonic() > until:
                    raise PeerUnavailable(f"{at(peer)} did not answer C-FIND to the end")
                if code in _PENDING and found is not None:
                    yield found
                elif code != _SUCCESS and code not in _PENDING:
                    kind = PeerUnavailable if code >> 8 == 0xA7 else PeerRefused
                    raise kind(f"{at(peer)} answered C-FIND with {_told(status)}")


def commitment_context() -> PresentationContext:
    """The context of storage commitment's requests and reports."""
    return build_context(COMMITMENT_CLASS)


def _told(status: Dataset) -> str:
    # Its Error Comment (0000,0902) is the peer's free text and may quote a patient.
    code = status.get("Status")
    return "no status" if code is None else f"status {code:#06x}"


def at(peer: Peer) -> str:
    """How errors name a peer."""
    return f"{peer.ae_title}@{peer.host}:{peer.port}"
