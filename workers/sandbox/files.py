"""What the images of one job are read through: decoders behind it, limits around it, patience for the whole study."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter
from pydicom import Dataset

from models.contracts import GreyImage, LinearWindow, LookupTable
from node.dataset_source import HeaderError
from node.header import Header
from workers.pixels import errors
from workers.pixels.errors import DecoderCrashed, NotTried, PixelError, Poison
from workers.pixels.limits import Limits
from workers.pixels.slices import SliceHeader
from workers.pixels.volume import SliceFacts
from workers.sandbox.decoders import Decoders
from workers.sandbox.process import DecoderProcess
from workers.sandbox.terms import KEPT_BYTES
from workers.sandbox.wire import Message
from workers.sources import source_header

T = TypeVar("T")
_HEADER = TypeAdapter(Header)

MOST_LOST_S = 60.0
"""What the images of one job may cost in decoders that died or were too slow; the rest is not tried any more."""

_LONGEST_REASON = 300
_REFUSALS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        HeaderError,
        errors.UnreadableHeader,
        errors.NoPixels,
        errors.ColourImage,
        errors.TooLarge,
        errors.TruncatedPixels,
        errors.UndecodablePixels,
    )
}


@dataclass(frozen=True)
class Examined:
    """header: what the node reads of an instance. dataset: what reports need of it, flat and without pixels.

    slices: where its frames lie, in order, or why that cannot be said; None where nobody asked.
    """

    header: Header
    dataset: Dataset
    slices: tuple[SliceHeader, ...] | PixelError | None = None


class JobFiles:
    """Reads the files of one job. Every method raises PixelError, Poison among them, OSError, and DecoderUnavailable.

    What comes back from a decoder is checked for its form, as it may be taken over by the file it reads.
    """

    def __init__(self, decoders: Decoders, limits: Limits, most_lost_s: float = MOST_LOST_S) -> None:
        self.poisoned = False
        self._decoders = decoders
        self._limits = limits
        self._most_lost_s = most_lost_s
        self._lost_s = 0.0

    @property
    def at_once(self) -> int:
        """How many files are read at the same time."""
        return self._decoders.terms.processes

    def examine(self, path: Path, *, slices: bool = False) -> Examined:
        """A file's header, and the places of its slices. Raises HeaderError where it is no DICOM data set."""

        def taken(_: DecoderProcess, reply: Message) -> Examined:
            examined = _examined(reply)
            return replace(examined, slices=self._placed(path, reply.body["place"])) if slices else examined

        return self._read(path, {"task": "examine", "slices": slices}, taken)

    def slice_headers(self, path: Path) -> list[SliceHeader]:
        """One header per frame, in order."""
        return self._read(path, {"task": "slices"}, lambda _, reply: self._headers(path, reply.body))

    def _placed(self, path: Path, body: dict[str, Any]) -> tuple[SliceHeader, ...] | PixelError:
        try:
            _raise_refusal(body)
        except PixelError as error:
            return error
        return tuple(self._headers(path, body))

    def _headers(self, path: Path, body: dict[str, Any]) -> list[SliceHeader]:
        slices = body["slices"]
        if not 1 <= len(slices) <= self._limits.max_frames:
            raise ValueError("number of slices")
        return [_slice_facts(one).at(path, frame) for frame, one in enumerate(slices)]

    def grey(self, path: Path, frame: int = 0) -> GreyImage:
        """One frame, as `workers.pixels.read_grey` gives it."""
        most_pixels = self._limits.max_frame_pixels
        return self._read(path, {"task": "grey", "frame": frame}, lambda at, reply: _grey(at, reply, most_pixels))

    def _read(self, path: Path, body: dict[str, Any], take: Callable[[DecoderProcess, Message], T]) -> T:
        if self._lost_s >= self._most_lost_s:
            raise NotTried(f"not tried: other images of its study took decoders {self._lost_s:.0f} s and gave nothing")

        def checked(process: DecoderProcess, reply: Message) -> T:
            _raise_refusal(reply.body)
            try:
                return take(process, reply)
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
                process.end()
                raise DecoderCrashed("its decoder answered what nobody asked it") from error

        began = time.monotonic()
        try:
            return self._decoders.read(path, {**body, "limits": asdict(self._limits)}, checked)
        except Poison:
            self.poisoned = True
            self._lost_s += time.monotonic() - began
            raise


def _raise_refusal(body: dict[str, Any]) -> None:
    if "failed" in body:
        raise OSError(int(body["failed"]), "a stored file cannot be read")
    if "refused" in body:
        reason = str(body.get("reason", ""))[:_LONGEST_REASON]
        kind = _REFUSALS.get(str(body["refused"]), errors.UndecodablePixels)
        raise kind(reason if reason.isascii() and reason.isprintable() else "the image cannot be read")


def _examined(reply: Message) -> Examined:
    header = _HEADER.validate_python(reply.body["header"])
    implicit, big = reply.body["implicit"] is True, reply.body["big_endian"] is True
    return Examined(header, source_header(reply.blob, implicit_vr=implicit, big_endian=big, known=header))


def _grey(process: DecoderProcess, reply: Message, most_pixels: int) -> GreyImage:
    body = reply.body
    rows, columns = int(body["rows"]), int(body["columns"])
    if rows < 1 or columns < 1 or rows * columns > most_pixels:
        raise ValueError("size of the picture")
    count = rows * columns
    size = count * (5 if body["masked"] else 4)
    shared = np.frombuffer(process.picture(size), np.uint8)
    pixels = shared[: 4 * count].view(np.float32).reshape(rows, columns)
    valid = shared[4 * count : size].reshape(rows, columns) != 0 if body["masked"] else None
    if size > KEPT_BYTES:
        process.forget_picture()
    else:
        # The next picture will stand in the same place.
        pixels = pixels.copy()
    return GreyImage(
        pixels, valid, _value_of_interest(reply), body["inverted"] is True, _numbers(body["spacing_mm"], 2)
    )


def _value_of_interest(reply: Message) -> LinearWindow | LookupTable | None:
    window, table = reply.body["window"], reply.body["table"]
    if window is not None:
        center, width, function = window
        return LinearWindow(_number(center), _number(width), str(function))
    if table is not None:
        first, bits = table
        return LookupTable(int(first), np.frombuffer(reply.blob, np.float32), int(bits))
    return None


def _slice_facts(one: list[Any]) -> SliceFacts:
    rows, columns, position, orientation, number, spacing, uid = one
    return SliceFacts(
        rows=int(rows),
        columns=int(columns),
        position=_numbers(position, 3),
        orientation=None if orientation is None else tuple(_numbers(row, 3) for row in orientation),
        instance_number=None if number is None else int(number),
        spacing_mm=_numbers(spacing, 2),
        series_instance_uid=str(uid),
    )


def _numbers(values: list[Any] | None, count: int) -> Any:
    """As a tuple of that many finite floats; None stays None."""
    if values is None:
        return None
    numbers = tuple(map(_number, values))
    if len(numbers) != count:
        raise ValueError("count of numbers")
    return numbers


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("number")
    return number
