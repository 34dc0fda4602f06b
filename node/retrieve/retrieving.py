"""C-GET and C-MOVE as their user (PS3.4 C.4.2, C.4.3): one study, series or set of images, within bounds.

By C-GET the images come on the association that asks, so no peer has to know this node's address: each is handed on as
it comes from the wire, and nothing is buffered beyond one PDU. C-MOVE has the peer send them to this node's listener.

    outcome = get(peer, settings, Wanted(study_uid), sop_classes, take, Bounds())
    outcome = move(peer, settings, Wanted(study_uid), Bounds())
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import structlog
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from db.errors import PeerUnavailable, PermanentError
from node.dataset_source import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from node.link import values
from node.scu import PeerRefused, at
from node.sending import connect
from node.settings import Peer, Settings
from node.statuses import Status
from node.syntaxes import decodable_transfer_syntaxes
from node.upper_layer import commands, requesting, wire
from node.upper_layer.commands import IS_COMMAND, IS_LAST, Command
from node.upper_layer.negotiation import Context
from node.upper_layer.states import Pdu
from node.upper_layer.wire import PeerGone, ProtocolError, Wire

log = structlog.get_logger(__name__)

STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
_PLAIN = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_SUCCESS, _SOME_FAILED = 0x0000, 0xB000
_PENDING = (0xFF00, 0xFF01)
# What a response may carry beside its command: the list of what failed.
_MOST_RESPONSE_BYTES = 1 << 20
_FAREWELL_S = 5.0


@dataclass(frozen=True)
class Wanted:
    """What to retrieve, by unique keys only: a study, of it some series, of one series some images."""

    study_instance_uid: str
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()

    @property
    def level(self) -> str:
        """Query/Retrieve Level (0008,0052)."""
        if self.sop_instance_uids:
            return "IMAGE"
        return "SERIES" if self.series_instance_uids else "STUDY"


@dataclass(frozen=True)
class Bounds:
    """What a peer may take. within_s: the whole retrieval. objects: more of them end it."""

    within_s: float = 120.0
    objects: int = 1000


@dataclass(frozen=True)
class Incoming:
    """An image on its way: what its C-STORE request and its context say of it, as the peer sent them."""

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax: str
    transfer_syntax_uid: str


Take = Callable[[Incoming, Iterator[memoryview]], int]
"""Called with each image and its data set's fragments; gives the status to answer. What it leaves unread ends the
retrieval."""


@dataclass(frozen=True)
class Outcome:
    """How a retrieval ended. by: C-GET or C-MOVE. completed, failed: as the peer counts; of C-GET, as were taken.

    reason: why not everything came; "" where it did. refused: by `take`, of those that failed.
    """

    by: str
    completed: int
    failed: int
    reason: str = ""
    refused: int = 0

    @property
    def whole(self) -> bool:
        """Everything that the peer has of it came."""
        return not self.reason and not self.failed


class TooMuch(PermanentError):
    """The peer sends more than was asked for."""


def get(  # noqa: PLR0917 - one of each
    peer: Peer, settings: Settings, wanted: Wanted, sop_classes: Sequence[str], take: Take, bounds: Bounds
) -> Outcome:
    """C-GET. sop_classes: of the images that are wanted; no others are taken.

    Raises:
        PeerUnavailable: no connection, no answer within the bounds, or the association broke.
        PeerRefused: rejected, or the peer offers no C-GET or none of the classes.
        TooMuch: more objects than the bounds allow came; the association was aborted.
    """
    asking = [Context(STUDY_ROOT_GET, syntax) for syntax in _PLAIN]
    storing = storage_contexts(sop_classes, requesting.MOST_CONTEXTS - len(asking))
    with _Talk(peer, settings, [*asking, *storing], bounds, provides=tuple(dict.fromkeys(sop_classes))) as talk:
        if not any(context in talk.accepted for context in storing):
            raise PeerRefused(f"{at(peer)} offers no storage class to send by C-GET")
        return talk.run(STUDY_ROOT_GET, commands.retrieve_request(1, STUDY_ROOT_GET), wanted, take)


def move(peer: Peer, settings: Settings, wanted: Wanted, bounds: Bounds) -> Outcome:
    """C-MOVE to this node's own AE title, over when the peer has sent everything. Raises as `get`."""
    request = commands.retrieve_request(1, STUDY_ROOT_MOVE, settings.ae_title)
    with _Talk(peer, settings, [Context(STUDY_ROOT_MOVE, syntax) for syntax in _PLAIN], bounds) as talk:
        return talk.run(STUDY_ROOT_MOVE, request, wanted, None)


def storage_contexts(sop_classes: Sequence[str], room: int) -> list[Context]:
    """Each class in every transfer syntax that is read here, the preferred first, as far as one request has room."""
    classes = list(dict.fromkeys(sop_classes))[:room]
    each = room // max(1, len(classes))
    syntaxes = [syntax.uid for syntax in decodable_transfer_syntaxes()][:each]
    return [Context(uid, syntax) for uid in classes for syntax in syntaxes]


@dataclass
class _Counts:
    """Of a retrieval so far."""

    taken: int = 0
    refused: int = 0
    objects: int = 0


class _Talk:
    """An association for one request; ended in order at the end of the block, or aborted where it breaks."""

    def __init__(
        self, peer: Peer, settings: Settings, offered: Sequence[Context], bounds: Bounds, provides: Sequence[str] = ()
    ) -> None:
        self._peer, self._bounds = peer, bounds
        self._idle_s = settings.delivery.response_timeout_s
        self._until = time.monotonic() + bounds.within_s
        self._connection, self._answer = connect(peer, settings, offered, provides)
        self._wire = Wire(self._connection, settings.limits.max_pdu_bytes, self._idle_s, self._idle_s)
        self._by_id = {context_id: context for context, context_id in self._answer.contexts.items()}
        self._fragments: Iterator[tuple[int, int, memoryview]] = iter(())
        self._open = True

    @property
    def accepted(self) -> frozenset[Context]:
        return frozenset(self._answer.contexts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is not None or not self._open:
                self._wire.send(wire.abort(0, 0))
                return
            until = time.monotonic() + _FAREWELL_S
            self._wire.send(wire.release_request())
            while self._wire.read(_FAREWELL_S, until)[0] is Pdu.P_DATA:
                continue
        except (PeerGone, ProtocolError) as gone:
            log.info("association_not_released", peer=at(self._peer), reason=str(gone))
        finally:
            self._connection.close()

    def run(self, model: str, request: bytes, wanted: Wanted, take: Take | None) -> Outcome:
        """Ask, and serve what comes until the last answer."""
        context = next((one for one in self._answer.contexts if one.abstract_syntax == model), None)
        by = "C-GET" if model == STUDY_ROOT_GET else "C-MOVE"
        if context is None:
            raise PeerRefused(f"{at(self._peer)} offers no {by}")
        data = encode(_identifier(wanted), context.transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN, True) or b""
        context_id, counts = self._answer.contexts[context], _Counts()
        try:
            self._wire.send(wire.data(context_id, request, command=True) + wire.data(context_id, data, command=False))
            while True:
                command, number, came_in = self._command()
                if command.field & commands.RESPONSE:
                    self._drain(command, number)
                    final = self._final(command, by, counts)
                    if final is not None:
                        return final
                elif command.field == commands.C_STORE_RQ and take is not None and command.has_data_set:
                    self._store(command, number, came_in, take, counts)
                else:
                    self._drain(command, number)
                    self._respond(number, command, Status.UNRECOGNISED_OPERATION)
        except (PeerGone, ProtocolError) as error:
            self._open = False
            raise PeerUnavailable(f"{at(self._peer)} did not answer {by} to the end: {error}") from error

    def _final(self, command: Command, by: str, counts: _Counts) -> Outcome | None:
        """What the last answer says; None while there are more to come."""
        status = command.status
        if command.responded_to != 1 or status is None:
            raise ProtocolError(ProtocolError.UNEXPECTED_PARAMETER, "a response to nothing")
        if status in _PENDING:
            return None
        got = by == "C-GET"
        completed = counts.taken if got else (command.completed or 0) + (command.warned or 0)
        failed = max(command.failed or 0, counts.refused)
        if status in (_SUCCESS, _SOME_FAILED):
            reason = f"{failed} images failed" if failed else ""
        else:
            reason = f"{at(self._peer)} answered {by} with status {status:#06x}"
        return Outcome(by, completed, failed, reason, counts.refused)

    def _store(self, command: Command, number: int, context: Context, take: Take, counts: _Counts) -> None:
        counts.objects += 1
        if counts.objects > self._bounds.objects:
            raise TooMuch(f"{at(self._peer)} sends more than {self._bounds.objects} images")
        incoming = Incoming(
            command.sop_class_uid, command.sop_instance_uid, context.abstract_syntax, context.transfer_syntax
        )
        pieces = self._pieces(number)
        status = take(incoming, pieces)
        if next(pieces, None) is not None:
            raise ProtocolError(ProtocolError.NOT_SPECIFIED, "an image is longer than is allowed")
        counts.taken += status == _SUCCESS
        counts.refused += status != _SUCCESS
        self._respond(number, command, status)

    def _respond(self, number: int, command: Command, status: int) -> None:
        self._wire.send(wire.data(number, commands.response(command, status), command=True))

    def _drain(self, command: Command, number: int) -> None:
        """A data set that says nothing that is needed."""
        size = 0
        for piece in self._pieces(number) if command.has_data_set else ():
            size += len(piece)
            if size > _MOST_RESPONSE_BYTES:
                raise ProtocolError(ProtocolError.INVALID_VALUE, "a message is too long")

    def _command(self) -> tuple[Command, int, Context]:
        command, number = commands.gathered(self._next)
        return command, number, self._by_id[number]

    def _pieces(self, wanted: int) -> Iterator[memoryview]:
        """The fragments of the data set that follows."""
        while True:
            number, control, value = self._next()
            if control & IS_COMMAND or number != wanted:
                raise ProtocolError(ProtocolError.UNEXPECTED_PARAMETER, "another message inside a data set")
            if value:
                yield value
            if control & IS_LAST:
                return

    def _next(self) -> tuple[int, int, memoryview]:
        """The next fragment; valid until the next call."""
        while True:
            found = next(self._fragments, None)
            if found is None:
                self._fragments = values(self._data())
                continue
            if found[0] not in self._by_id:
                raise ProtocolError(ProtocolError.INVALID_VALUE, "a presentation context that was not accepted")
            return found

    def _data(self) -> memoryview:
        kind, body = self._wire.read(self._idle_s, self._until)
        if kind is Pdu.P_DATA:
            return body
        if kind is Pdu.RELEASE_RQ:
            self._wire.send(wire.release_response())
            raise PeerGone("the peer released the association")
        if kind is Pdu.ABORT:
            raise PeerGone("the peer aborted")
        raise ProtocolError(ProtocolError.UNEXPECTED_PDU, f"a PDU {kind.name} in an association")


def _identifier(wanted: Wanted) -> Dataset:
    """Unique keys of one level and those above it (PS3.4 C.4.2.1.4)."""
    query = Dataset()
    query.QueryRetrieveLevel = wanted.level
    query.StudyInstanceUID = wanted.study_instance_uid
    if wanted.series_instance_uids:
        query.SeriesInstanceUID = list(wanted.series_instance_uids)
    if wanted.sop_instance_uids:
        query.SOPInstanceUID = list(wanted.sop_instance_uids)
    return query
