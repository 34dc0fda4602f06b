"""Peers with habits that no real server can be set up to have; pynetdicom on their side of the wire."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.presentation import PresentationContext

from tests.support.processes import free_port

_EXPLICIT = "1.2.840.10008.1.2.1"
_ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
_COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_COMMITMENT = "1.2.840.10008.1.20.1"
_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


class EnhancedOnly:
    """An archive of old: Enhanced SR and Secondary Capture, no query, no storage commitment."""

    def __init__(self, port: int) -> None:
        self.received: list[Dataset] = []
        self.port = port
        self.associations = 0
        self.hang_up_next = False
        entity = AE("OLD")
        for sop_class in (_ENHANCED_SR, _SECONDARY_CAPTURE):
            entity.add_supported_context(sop_class, _EXPLICIT)
        self._entity = entity

    def __enter__(self) -> Self:
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._count)]
        self._server = self._entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _count(self, _: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        if self.hang_up_next:
            self.hang_up_next = False
            event.assoc.abort()
        self.received.append(event.dataset)
        return 0x0000


@dataclass
class Archive:
    """Answers Success to every C-STORE; in its commitment reports the first `forget_first` objects are missing."""

    port: int
    forget_first: int
    stores: int = 0
    forgotten: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def store(self, event: evt.Event) -> int:
        with self.lock:
            self.stores += 1
            uid = str(event.request.AffectedSOPInstanceUID)
            if uid in self.forgotten:
                self.forgotten.discard(uid)
            elif self.forget_first > 0:
                self.forget_first -= 1
                self.forgotten.add(uid)
        return 0x0000

    def commit(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """The report follows on the same association, once the request is answered."""
        request = event.action_information
        threading.Thread(target=self._report, args=(event.assoc, request), daemon=True).start()
        return 0x0000, None

    def _report(self, association: Any, request: Dataset) -> None:
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        kept, lost = [], []
        with self.lock:
            for item in request.ReferencedSOPSequence:
                if item.ReferencedSOPInstanceUID in self.forgotten:
                    item.FailureReason = 0x0112
                    lost.append(item)
                else:
                    kept.append(item)
        report.ReferencedSOPSequence = kept
        if lost:
            report.FailedSOPSequence = lost
        association.send_n_event_report(report, 2 if lost else 1, _COMMITMENT, _COMMITMENT_INSTANCE)


@contextmanager
def forgetful_archive(port: int, *, forget_first: int) -> Iterator[Archive]:
    """Run an archive that loses what it said Success for, and says so when asked to commit."""
    archive = Archive(port, forget_first)
    entity = AE("FORGETS")
    for sop_class in (_COMPREHENSIVE_3D_SR, _SECONDARY_CAPTURE):
        entity.add_supported_context(sop_class, _EXPLICIT)
    entity.add_supported_context(_COMMITMENT)
    handlers: list[Any] = [(evt.EVT_C_STORE, archive.store), (evt.EVT_N_ACTION, archive.commit)]
    server = entity.start_server(("127.0.0.1", archive.port), block=False, evt_handlers=handlers)
    try:
        yield archive
    finally:
        server.shutdown()


@dataclass
class Finder:
    """Answers C-FIND at IMAGE level with what it `holds`, or with a failure status, once it `may_answer`; counts."""

    port: int
    holds: set[str] = field(default_factory=set)
    status: int = 0x0000
    questions: int = 0
    may_answer: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.questions += 1
        self.may_answer.wait(60)
        if self.status:
            yield self.status, None
            return
        for uid in sorted(self.holds):
            found = Dataset()
            found.QueryRetrieveLevel = "IMAGE"
            found.SOPInstanceUID = uid
            yield 0xFF00, found


@contextmanager
def finder() -> Iterator[Finder]:
    """Run an archive that can be asked and takes nothing."""
    peer = Finder(free_port())
    entity = AE("FINDER")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.2.2.1")
    handlers: list[Any] = [(evt.EVT_C_FIND, peer.find)]
    server = entity.start_server(("127.0.0.1", peer.port), block=False, evt_handlers=handlers)
    try:
        yield peer
    finally:
        server.shutdown()


@dataclass
class PickyArchive:
    """An archive whose habits are changed while it runs; it knows no C-FIND.

    answers: statuses for the C-STOREs to come, 0x0000 when there are none left. commits: whether it reports on what it
    was asked to commit; it always says that it will. `held` counts how often each object was taken with Success.
    """

    port: int
    answers: list[int] = field(default_factory=list)
    commits: bool = True
    held: Counter[str] = field(default_factory=Counter)
    server: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def store(self, event: evt.Event) -> int:
        with self.lock:
            status = self.answers.pop(0) if self.answers else 0x0000
            if status == 0x0000:
                self.held[str(event.request.AffectedSOPInstanceUID)] += 1
        return status

    def commit(self, event: evt.Event) -> tuple[int, Dataset | None]:
        if self.commits:
            threading.Thread(target=self._report, args=(event.assoc, event.action_information), daemon=True).start()
        return 0x0000, None

    def _report(self, association: Any, request: Dataset) -> None:
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        report.ReferencedSOPSequence = request.ReferencedSOPSequence
        association.send_n_event_report(report, 1, _COMMITMENT, _COMMITMENT_INSTANCE)

    def take(self, *, reports: bool) -> None:
        """Accept what results are, or nothing of it, from now on; open associations end, as in a restart."""
        self.server.contexts = _contexts() if reports else []
        for association in self.server.active_associations:
            association.abort()


def _contexts() -> list[PresentationContext]:
    return [build_context(one, _EXPLICIT) for one in (_COMPREHENSIVE_3D_SR, _SECONDARY_CAPTURE, _COMMITMENT)]


@contextmanager
def picky_archive() -> Iterator[PickyArchive]:
    archive = PickyArchive(free_port())
    entity = AE("PICKY")
    entity.supported_contexts = _contexts()
    handlers: list[Any] = [(evt.EVT_C_STORE, archive.store), (evt.EVT_N_ACTION, archive.commit)]
    archive.server = entity.start_server(("127.0.0.1", archive.port), block=False, evt_handlers=handlers)
    try:
        yield archive
    finally:
        archive.server.shutdown()
