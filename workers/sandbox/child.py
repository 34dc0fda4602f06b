"""A decoder: a process that reads one file after the other for a worker, confined, until its socket closes.

``python -m workers.sandbox.child FD MEMORY_BYTES SECONDS``: FD is its end of a socket pair. It gets open files, never
paths, and has none of the worker's environment, where secrets may stand.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.contracts import GreyImage, LinearWindow, LookupTable
from node.confinement import Confinement
from node.dataset_source import HeaderError, open_dataset, open_no_more_files
from node.header import read_header
from workers.pixels.errors import PixelError, TooLarge, UndecodablePixels
from workers.pixels.grey import OpenImage, open_image
from workers.pixels.limits import Limits
from workers.pixels.volume import slice_facts
from workers.sandbox import wire
from workers.sandbox.terms import KEPT_BYTES, Terms
from workers.sandbox.wire import Message
from workers.sources import flat_elements

_MOST_FILE_BYTES = 1 << 30


def main(arguments: list[str]) -> int:
    fd, memory_bytes, seconds = arguments
    terms = Terms(memory_bytes=int(memory_bytes), seconds=float(seconds))
    with socket.socket(fileno=int(fd)) as sock:
        open_no_more_files()
        confinement = Confinement(terms.memory_bytes, _MOST_FILE_BYTES)
        held = {"no_sockets": confinement.no_sockets, "no_files": confinement.no_files}
        wire.send(sock, Message({"ready": True, **held}))
        _Child(sock, terms, confinement).serve()
    return 0


_Task = Callable[[dict[str, Any], BinaryIO], Message]


class _Child:
    def __init__(self, sock: socket.socket, terms: Terms, confinement: Confinement) -> None:
        self._sock = sock
        self._terms = terms
        self._confinement = confinement
        self._picture: mmap.mmap | None = None

    def serve(self) -> None:
        tasks: dict[str, _Task] = {
            "examine": self._examine,
            "slices": self._slices,
            "grey": self._grey,
        }
        while (asked := wire.receive(self._sock)) is not None:
            self._confinement.allow_time(self._terms.seconds)
            with os.fdopen(asked.fd, "rb") as file:
                reply = _answered(tasks[asked.body["task"]], asked.body, file)
            self._confinement.relax()
            wire.send(self._sock, reply)
            if reply.fd >= 0:
                os.close(reply.fd)
            if reply.body.get("last"):
                return

    def _examine(self, asked: dict[str, Any], file: BinaryIO) -> Message:
        limit = Limits(**asked["limits"]).max_inflated_bytes
        header = read_header(file, None, limit)
        with open_dataset(file, None, limit) as source:
            flat = flat_elements(source)
            kind = {"implicit": source.implicit_vr, "big_endian": source.big_endian}
        if not asked["slices"]:
            return Message({"header": asdict(header), **kind}, flat)
        # What is wrong with its place or its pixels does not make its header unknown.
        place = _answered(self._slices, asked, file).body
        return Message({"header": asdict(header), **kind, "place": place, "last": place.get("last", False)}, flat)

    def _slices(self, asked: dict[str, Any], file: BinaryIO) -> Message:
        with open_image(file, Limits(**asked["limits"])) as image:
            return Message({"slices": [list(one) for one in slice_facts(image.attributes)]})

    def _grey(self, asked: dict[str, Any], file: BinaryIO) -> Message:
        with open_image(file, Limits(**asked["limits"])) as image:
            pixels = image.attributes.rows * image.attributes.columns
            self._confinement.allow_memory(self._terms.memory_for(pixels, image.frame_bytes(asked["frame"])))
            self._confinement.allow_time(self._terms.seconds_for(pixels))
            # Whoever waits for the picture learns how long that may take.
            wire.send(self._sock, Message({"pixels": pixels}))
            # Memory that both processes see: float32 pixels, then a byte of each pixel's validity. What is not
            # written to is not there.
            picture, fd = self._room_for(5 * pixels)
            try:
                return self._shared(image, asked["frame"], np.frombuffer(picture, np.uint8), fd)
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                    self._picture = None
                raise

    def _shared(self, opened: OpenImage, frame: int, view: NDArray[np.uint8], fd: int) -> Message:
        image = opened.frame(frame, lambda shape: view[: 4 * math.prod(shape)].view(np.float32).reshape(shape))
        size = image.pixels.nbytes + (0 if image.valid is None else image.valid.nbytes)
        if image.valid is not None:
            view[image.pixels.nbytes : size] = image.valid.ravel()
        if size > KEPT_BYTES:
            self._picture = None
        window, table = _value_of_interest(image)
        body = {
            "rows": image.pixels.shape[0],
            "columns": image.pixels.shape[1],
            "masked": image.valid is not None,
            "window": window,
            "table": table,
            "inverted": image.inverted,
            "spacing_mm": image.spacing_mm,
        }
        return Message(body, image.voi.values.tobytes() if isinstance(image.voi, LookupTable) else b"", fd)

    def _room_for(self, size: int) -> tuple[mmap.mmap, int]:
        """Memory, and its descriptor where it is new and to be sent along; -1 where the last picture's has room."""
        if self._picture is not None and len(self._picture) >= size:
            return self._picture, -1
        self._picture = None
        fd = os.memfd_create("picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._picture = mmap.mmap(fd, size)
        return self._picture, fd


def _value_of_interest(image: GreyImage) -> tuple[list[Any] | None, list[Any] | None]:
    if isinstance(image.voi, LinearWindow):
        return [image.voi.center, image.voi.width, image.voi.function], None
    if isinstance(image.voi, LookupTable):
        return None, [image.voi.first_mapped, image.voi.bits]
    return None, None


def _answered(task: _Task, asked: dict[str, Any], file: BinaryIO) -> Message:
    try:
        return task(asked, file)
    except (PixelError, HeaderError) as error:
        return _refusal(type(error), str(error), last=isinstance(error.__cause__, MemoryError))
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            return Message({"failed": error.errno or errno.EIO})
        return _refusal(TooLarge, "too large: not enough memory to read it", last=True)
    except Exception:  # noqa: BLE001 - whatever a hostile file makes a library raise; its text may be the file's
        return _refusal(UndecodablePixels, "the image cannot be read")


def _refusal(kind: type[Exception], reason: str, *, last: bool = False) -> Message:
    """last: memory ran out, and may be in pieces, or a library's state half made; this process answers no more."""
    return Message({"refused": kind.__name__, "reason": reason, "last": last})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
