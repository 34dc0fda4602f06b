"""An HL7 system of somebody else's making: python-hl7's own MLLP server and client, told how to answer."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Queue
from types import TracebackType
from typing import Any

import hl7
import hl7.mllp

from node.settings_hl7 import Hl7Destination
from tests.support.processes import free_port

# Instead of a code: close the connection, or say nothing at all.
HANG_UP, SILENT = "hang up", "silent"


class Receiver:
    """Takes messages until the block ends. answers: one for each message in turn; what is beyond them is AA.

    `messages` is a queue of what came, in order, as text; `count` how many.
    """

    def __init__(self, answers: Sequence[str] = (), *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.port = port or free_port()
        self.messages: Queue[str] = Queue()
        self.connections = 0
        self._answers = list(answers)
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._writers: list[Any] = []
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def destination(self, **changes: Any) -> Hl7Destination:
        """How the settings name it."""
        return Hl7Destination(**{"host": "127.0.0.1", "port": self.port, "response_timeout_s": 5.0, **changes})

    def take(self) -> hl7.Message:
        """The next message that came, parsed."""
        return hl7.parse(self.messages.get(timeout=20))

    def __enter__(self) -> Receiver:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await hl7.mllp.start_hl7_server(self._talk, "127.0.0.1", self.port, encoding="utf-8", ssl=self._tls)
        self._up.set()
        await self._stop.wait()
        server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)

    async def _talk(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while not writer.is_closing():
                message = await reader.readmessage()
                self.messages.put(str(message))
                answer = self._answers.pop(0) if self._answers else "AA"
                if answer == HANG_UP:
                    writer.close()
                elif answer != SILENT:
                    writer.writemessage(message.create_ack(answer))
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@contextmanager
def sender(port: int, *, tls: ssl.SSLContext | None = None) -> Iterator[Any]:
    """A function that sends a message's text and gives the parsed answer, over one connection."""
    with asyncio.Runner() as runner:
        named = {"server_hostname": "localhost"} if tls else {}
        opening = hl7.mllp.open_hl7_connection("127.0.0.1", port, encoding="utf-8", ssl=tls, **named)
        reader, writer = runner.run(opening)

        async def exchange(text: str) -> hl7.Message:
            writer.writeblock(text.encode("utf-8"))
            return await asyncio.wait_for(reader.readmessage(), 20)

        async def close() -> None:
            writer.close()
            await writer.wait_closed()

        try:
            yield lambda text: runner.run(exchange(text))
        finally:
            runner.run(close())
