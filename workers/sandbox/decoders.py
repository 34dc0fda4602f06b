"""The decoders of one worker: kept warm, replaced when they die, used by several threads at once."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from workers.pixels.errors import DecoderCrashed, DecodingTooSlow
from workers.sandbox.process import DecoderDied, DecoderProcess, DecoderTooSlow
from workers.sandbox.terms import Terms
from workers.sandbox.wire import Message

log = structlog.get_logger(__name__)

T = TypeVar("T")

_TRIES = 2
"""The second finds out whether the file did it, or somebody who kills processes for want of memory."""


class Decoders:
    """Belongs to one process; made after a fork. Every method may be called from any thread."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._slots: queue.LifoQueue[DecoderProcess | None] = queue.LifoQueue()
        for _ in range(terms.processes):
            self._slots.put(None)

    def warm_up(self) -> None:
        """Start all of them, without waiting until they are ready. Raises DecoderUnavailable."""
        for slot in self._drain():
            self._slots.put(slot if slot is not None and slot.usable else DecoderProcess(self.terms))

    def read(self, path: Path, body: dict[str, Any], take: Callable[[DecoderProcess, Message], T]) -> T:
        """Have a file read. take: makes the result of the reply, while the decoder's memory is still that of this file.

        Raises:
            DecoderCrashed: the decoder died twice. DecodingTooSlow: it was ended because its time was up.
            DecoderUnavailable: none can be started. OSError: the file cannot be opened or read. What ``take`` raises.
        """
        for attempt in range(1, _TRIES + 1):
            with path.open("rb") as file, self._decoder() as decoder:
                try:
                    return take(decoder, decoder.ask(body, file))
                except DecoderTooSlow as error:
                    log.warning("decoder_too_slow", pid=decoder.pid, task=body["task"])
                    raise DecodingTooSlow("reading it takes too long: its decoder was ended") from error
                except DecoderDied as died:
                    log.warning("decoder_died", pid=decoder.pid, task=body["task"], reason=str(died), attempt=attempt)
                    last = died
        raise DecoderCrashed(f"its decoder died {_TRIES} times: {last}") from last

    def pids(self) -> list[int]:
        """Process ids of those that are idle now."""
        slots = self._drain()
        for slot in reversed(slots):
            self._slots.put(slot)
        return [slot.pid for slot in slots if slot is not None and slot.alive]

    def close(self) -> None:
        """End those that are idle; they also end by themselves with this process."""
        for slot in self._drain():
            if slot is not None:
                slot.end()
            self._slots.put(None)

    def _drain(self) -> list[DecoderProcess | None]:
        slots = []
        while True:
            try:
                slots.append(self._slots.get_nowait())
            except queue.Empty:
                return slots

    @contextmanager
    def _decoder(self) -> Iterator[DecoderProcess]:
        """One that nobody else uses meanwhile; ended after whatever left it in pieces."""
        slot = self._slots.get()
        try:
            if slot is not None and not slot.usable:
                # Ended in between, by somebody who needed memory more than it.
                slot.end()
                slot = None
            slot = slot or DecoderProcess(self.terms)
            yield slot
        finally:
            if slot is not None and not slot.usable:
                slot.end()
                slot = None
            self._slots.put(slot)
