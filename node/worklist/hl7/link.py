"""A connection to an HL7 destination: one message, one answer, then the next (HL7 v2.5.1 section 2.9.2)."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from db.errors import PeerUnavailable
from node.settings import Settings
from node.settings_hl7 import Hl7Destination
from node.tls import client_context
from node.worklist.hl7.er7 import MalformedMessage, read
from node.worklist.hl7.mllp import Blocks, MllpError, block

_MOST_BYTES = 65536


@dataclass(frozen=True)
class Answer:
    """MSA-1 of an acknowledgement (table 0008); enhanced codes count as the original ones they stand for."""

    code: str

    @property
    def accepted(self) -> bool:
        return self.code in {"AA", "CA"}

    @property
    def try_again(self) -> bool:
        return self.code in {"AE", "CE"}


class Link:
    """Opened when first used, closed with the block.

    What goes wrong with it is PeerUnavailable: whether the message arrived is not known then, and it is sent again.
    """

    def __init__(self, settings: Settings, to: Hl7Destination) -> None:
        self._settings = settings
        self._to = to
        self._socket: socket.socket | None = None
        self._blocks: Blocks | None = None

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect, unless that is done. Raises PeerUnavailable, or ConfigError where [tls] is wrong."""
        if self._socket is not None:
            return
        to, timeout_s = self._to, self._settings.delivery.connect_timeout_s
        context = client_context(self._settings.tls) if to.tls else None
        try:
            plain = socket.create_connection((to.host, to.port), timeout_s)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket = plain if context is None else context.wrap_socket(plain, server_hostname=to.host)
            except OSError:
                plain.close()
                raise
        except OSError as error:
            raise PeerUnavailable(f"no connection to {_where(to)} ({_why(error)}); check host, port and tls") from error
        self._blocks = Blocks(self._socket, most_bytes=_MOST_BYTES, block_timeout_s=to.response_timeout_s)

    def exchange(self, message: bytes, control_id: str) -> Answer:
        """Send a message and wait for its answer. Raises PeerUnavailable."""
        self.open()
        try:
            return self._exchange(message, control_id)
        except (MllpError, MalformedMessage) as error:
            self.close()
            raise PeerUnavailable(f"{_where(self._to)} answered nothing that could be read ({error})") from error
        except TimeoutError as error:
            self.close()
            raise PeerUnavailable(
                f"{_where(self._to)} did not acknowledge within {self._to.response_timeout_s:g} s"
            ) from error
        except OSError as error:
            self.close()
            raise PeerUnavailable(f"the connection to {_where(self._to)} failed ({_why(error)})") from error

    def _exchange(self, message: bytes, control_id: str) -> Answer:
        if self._socket is None or self._blocks is None:
            raise MllpError("there is no connection")
        self._socket.settimeout(self._to.response_timeout_s)
        self._socket.sendall(block(message))
        said = self._blocks.next(self._to.response_timeout_s)
        if said is None:
            raise MllpError("it closed the connection instead")
        msa = read(said, self._to.character_set).first("MSA")
        if msa is None:
            raise MllpError("the answer has no MSA segment")
        # One is in flight at a time: an answer to another message belongs to an exchange that was given up.
        if msa.get(2) != control_id:
            raise MllpError("the answer names another message")
        return Answer(msa.get(1).upper())

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
        self._socket = self._blocks = None


def _where(to: Hl7Destination) -> str:
    return f"{to.host}:{to.port}"


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
