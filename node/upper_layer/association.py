"""One association from its request to its end: the receive loop.

It is a plain loop in a thread of its own. `_next_value` gives one fragment after the other, reading PDUs from the wire
as they are needed and holding each against the table of states; `_serve` puts command sets together and hands each
request to a service, which pulls the data set's fragments through `DataSet` itself. Nothing is buffered beyond one PDU:
a peer is read only as fast as its bytes are dealt with, and TCP makes it wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from node.settings import Limits
from node.upper_layer import commands, wire
from node.upper_layer.commands import IS_COMMAND, IS_LAST, Command
from node.upper_layer.negotiation import Accepted, Context, Request, read
from node.upper_layer.states import TABLE, Action, Pdu, State
from node.upper_layer.wire import PeerGone, ProtocolError, TooSlow, Wire

log = structlog.get_logger(__name__)

# A message has its time-out, and one second more for each of these; a modality's line carries a thousand times that.
LEAST_BYTES_PER_S = 1024
# For a peer to take the last answer and close.
_LINGER_S = 5.0
_SERVICE_USER, _SERVICE_PROVIDER = 0, 2


@dataclass(frozen=True)
class Rejected:
    """The fields of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    diagnostic: int


# Transient, presentation service, local limit exceeded: the peer may try again.
LIMIT_EXCEEDED = Rejected(2, 3, 2)


@dataclass(frozen=True)
class Caller:
    """Who opened the association; its AE title is only a name, made printable."""

    ae_title: str
    address: str


@dataclass(frozen=True)
class Answer:
    """More than a status: what a peer is told with it.

    comment: ASCII, names no patient. data: an encoded data set that goes with the response. pending: encoded matches of
    a C-FIND, each sent before the response with status `MATCH`.
    """

    status: int
    comment: str = ""
    data: bytes | None = None
    pending: Iterable[bytes] = ()


# Matches are continuing (PS3.4 C.4.1.1.4).
MATCH = 0xFF00

TurnedAway = Literal["association_rejected", "handshake_failed"]


class Services(Protocol):
    """What the node does with what it is asked."""

    def judge(self, request: Request, address: str) -> Rejected | None:
        """None where the association may be opened."""

    def turned_away(self, what: TurnedAway, caller: Caller, reason: str) -> None:
        """Told of whom the upper layer itself turned away; what was asked of `judge` is known there."""

    def accept(self, request: Request, caller: Caller) -> Accepted:
        """What of its proposals is taken. Raises ProtocolError."""

    def serve(self, command: Command, context: Context, data_set: DataSet, caller: Caller) -> int | Answer:
        """The status to answer. Where the data set was not taken to its end, the association ends after the answer."""


class Released(Exception):
    """The peer ended the association in order."""


class Association:
    """Serves one connection; `run` returns when it is over, whatever the peer does."""

    def __init__(
        self, connection: Wire, address: str, limits: Limits, services: Services, admit: Callable[[], bool]
    ) -> None:
        """admit: whether there is a place for one more association; asked once, when one is asked for."""
        self._wire = connection
        self._admit = admit
        self._limits = limits
        self._services = services
        self._state = State.AWAITING_REQUEST
        self._caller = Caller("", address)
        self._contexts: dict[int, Context] = {}
        self._peer_takes_bytes = 0
        self._body = memoryview(b"")
        # Of the message that is being read: when it has to be over.
        self._until: float | None = None

    def run(self) -> None:
        """Take the request, serve what follows. What goes wrong ends in an A-ABORT and in the log."""
        try:
            if self._open():
                self._serve()
        except Released:
            self._wire_end(wire.release_response())
        except ProtocolError as error:
            self._log("association_broken", str(error))
            source = _SERVICE_USER if self._state is State.AWAITING_REQUEST else _SERVICE_PROVIDER
            self._wire_end(wire.abort(source, error.reason))
        except TooSlow as error:
            self._log("association_timed_out", str(error))
            self._wire_end(wire.abort(_SERVICE_USER, 0), linger_s=0)
        except PeerGone as error:
            self._log("association_lost", str(error))

    def _open(self) -> bool:
        limit_s = self._limits.acse_timeout_s
        body = self._pdu(limit_s, time.monotonic() + limit_s)
        request = read(bytes(body))
        self._caller = Caller(printable(request.calling_ae)[:16], self._caller.address)
        rejected = self._services.judge(request, self._caller.address)
        if rejected is None and not self._admit():
            rejected = LIMIT_EXCEEDED
            self._services.turned_away("association_rejected", self._caller, "limits.max_associations are open")
        if rejected is not None:
            self._wire_end(wire.reject(rejected.result, rejected.source, rejected.diagnostic))
            return False
        decision = self._services.accept(request, self._caller)
        self._contexts = decision.contexts
        self._peer_takes_bytes = request.max_pdu_bytes
        self._wire.send(decision.pdu)
        self._state = State.ESTABLISHED
        return True

    def _serve(self) -> None:
        while True:
            command, context_id, context = self._next_command()
            if command.field == commands.C_CANCEL_RQ:
                # Of an operation that is over already: the node answers each request before it reads the next.
                continue
            if command.field & commands.RESPONSE:
                raise ProtocolError(ProtocolError.UNEXPECTED_PARAMETER, "a response to nothing")
            data_set = DataSet(self, context_id, ended=not command.has_data_set)
            answer = self._services.serve(command, context, data_set, self._caller)
            self._answer(context_id, command, answer if isinstance(answer, Answer) else Answer(answer))
            if not data_set.ended:
                raise ProtocolError(ProtocolError.NOT_SPECIFIED, "a data set is longer than is allowed")
            self._until = None

    def _answer(self, context_id: int, command: Command, answer: Answer) -> None:
        for match in answer.pending:
            self._respond(context_id, command, Answer(MATCH, data=match))
        self._respond(context_id, command, answer)

    def _respond(self, context_id: int, command: Command, answer: Answer) -> None:
        has_data = answer.data is not None
        response = commands.response(command, answer.status, comment=answer.comment, data_set=has_data)
        message = wire.data(context_id, response, command=True)
        if answer.data is not None:
            message += wire.data_set(context_id, answer.data, self._peer_takes_bytes)
        self._wire.send(message)

    def _next_command(self) -> tuple[Command, int, Context]:
        command, context_id = commands.gathered(self.next_value)
        return commands.named(command), context_id, self._contexts[context_id]

    def next_value(self) -> tuple[int, int, memoryview]:
        """The next fragment: context ID, message control header, bytes that are valid until the next call."""
        if not self._body:
            idle_s = self._limits.network_timeout_s if self._until is None else self._limits.dimse_timeout_s
            self._body = self._pdu(idle_s, self._until)
            now = time.monotonic()
            if self._until is None:
                self._until = now + self._limits.dimse_timeout_s
            self._until += len(self._body) / LEAST_BYTES_PER_S
        body = self._body
        length = int.from_bytes(body[:4], "big")
        if length < 2 or length + 4 > len(body):
            raise ProtocolError(ProtocolError.INVALID_VALUE, "a presentation data value does not fit its PDU")
        context_id, control = body[4], body[5]
        if context_id not in self._contexts:
            raise ProtocolError(ProtocolError.INVALID_VALUE, "a presentation context that was not accepted")
        self._body = body[4 + length :]
        return context_id, control, body[6 : 4 + length]

    def _pdu(self, wait_s: float, until: float | None) -> memoryview:
        """The body of the next PDU that the state takes; anything else ends the association."""
        kind, body = self._wire.read(wait_s, until)
        action = TABLE[self._state, kind]
        if action in (Action.ANSWER_REQUEST, Action.TAKE_DATA):
            return body
        if action is Action.ANSWER_RELEASE:
            raise Released
        if action is Action.CLOSE:
            raise PeerGone("the peer aborted")
        reason = ProtocolError.UNRECOGNISED_PDU if kind is Pdu.UNKNOWN else ProtocolError.UNEXPECTED_PDU
        raise ProtocolError(reason, f"a PDU {kind.name} in {self._state.value}")

    def _wire_end(self, last: bytes, linger_s: float = _LINGER_S) -> None:
        """Sta13 (PS3.8): the last PDU is sent; what still comes is not looked at, and the wait for it is short."""
        self._state = State.AWAITING_CLOSE
        try:
            self._wire.send(last)
        except PeerGone as error:
            self._log("association_lost", str(error))
            return
        self._wire.drain(linger_s)

    def _log(self, event: str, reason: str) -> None:
        log.warning(event, calling_ae=self._caller.ae_title, peer_address=self._caller.address, reason=reason)


class DataSet:
    """The fragments of one data set, as they come. Whoever iterates is done with one before asking for the next.

    Raises `PeerGone`, `Released` or `ProtocolError` where the association ends before the data set does.
    """

    def __init__(self, association: Association, context_id: int, *, ended: bool) -> None:
        self._association = association
        self._context_id = context_id
        self.ended = ended

    def __iter__(self) -> Iterator[memoryview]:
        while not self.ended:
            context_id, control, value = self._association.next_value()
            if control & IS_COMMAND or context_id != self._context_id:
                raise ProtocolError(ProtocolError.UNEXPECTED_PARAMETER, "another message inside a data set")
            self.ended = bool(control & IS_LAST)
            if value:
                yield value

    def whole(self, most_bytes: int) -> bytes | None:
        """All of it; None as soon as it is longer than that."""
        collected = bytearray()
        for piece in self:
            collected += piece
            if len(collected) > most_bytes:
                return None
        return bytes(collected)


def printable(text: str) -> str:
    """A peer's string made fit for the record and the log: printable ASCII, at most 64 characters."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:64])
