"""A folder of finished planes: shards of half-precision arrays, written whole or not at all.

::

    <folder>/<name>.npy    float16 (n, rows, columns)
    <folder>/<name>.json   the n SHA-256 they belong to; written after the array, and nothing counts without it

A name is the hash of what the shard holds, so that two writers of the same planes write the same file, and two writers
of different ones never meet. Files appear under their name by a rename of a finished temporary file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import DatasetError, RuntimeUnavailable

MOST_OPEN = 64
"""Shards mapped at a time; each holds a file descriptor, of which a process often has 1,024."""

_TEMPORARY = ".tmp-"
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Place:
    """Where a plane is: file of the shard, and row in it."""

    shard: str
    row: int


class ShardStore:
    """Planes of one shape, by the SHA-256 of what they were made from."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        """Finds what is there. Raises RuntimeUnavailable when the folder cannot be made or read."""
        self._folder, self._shape = folder, shape
        self._open: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        # Training fetches its batches from several threads.
        self._lock = threading.Lock()
        self.places: dict[str, Place] = {}
        self.damaged = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            listed = sorted(folder.glob("*.json"))
        except OSError as error:
            raise RuntimeUnavailable(f"the cache folder {folder.name} cannot be used") from error
        for path in listed:
            self._admit(path)

    def add(self, digests: Sequence[str], planes: NDArray[np.float16]) -> None:
        """Write a shard: planes float16 (n, rows, columns). Raises RuntimeUnavailable when the disk refuses it."""
        content = np.ascontiguousarray(planes, dtype=np.float16)
        name = hashlib.sha256("\n".join(digests).encode() + content.tobytes()).hexdigest()[:32]
        index = {"shape": list(content.shape), "digests": list(digests)}
        try:
            write_whole(self._folder / f"{name}.npy", _npy_bytes(content))
            write_whole(self._folder / f"{name}.json", json.dumps(index).encode())
        except OSError as error:
            raise RuntimeUnavailable(f"the cache folder {self._folder.name} cannot be written") from error
        self._note(name, digests)

    def plane(self, place: Place) -> NDArray[np.float16]:
        """A view on one plane, float16 (rows, columns). Raises DatasetError when the shard was removed meanwhile."""
        with self._lock:
            if place.shard not in self._open:
                while len(self._open) >= MOST_OPEN:
                    self._open.popitem(last=False)
                try:
                    self._open[place.shard] = self._map(place.shard)
                except (OSError, ValueError) as error:
                    raise DatasetError("the cache of planes changed under its reader; start again") from error
            self._open.move_to_end(place.shard)
            plane: NDArray[np.float16] = self._open[place.shard][place.row]
        return plane

    def _admit(self, path: Path) -> None:
        try:
            index = json.loads(path.read_bytes())
            digests = [str(digest) for digest in index["digests"]]
            if self._map(path.stem).shape != (len(digests), *self._shape):
                raise ValueError("the array does not fit its index")
        except (OSError, ValueError, KeyError, TypeError):
            # Damaged or half removed: what it held is made again.
            self.damaged += 1
            return
        self._note(path.stem, digests)

    def _map(self, name: str) -> NDArray[np.float16]:
        array: NDArray[np.float16] = np.load(self._folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if array.dtype != np.float16 or array.shape[1:] != self._shape:
            raise ValueError(f"{name} holds {array.dtype} {array.shape}")
        return array

    def _note(self, name: str, digests: Sequence[str]) -> None:
        for row, digest in enumerate(digests):
            self.places.setdefault(digest, Place(name, row))


def write_whole(path: Path, content: bytes) -> None:
    """The file appears complete and on disk, or not at all; the last of two writers wins. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _sweep(folder: Path) -> None:
    """Remove what killed writers left; what is younger may be another's work under way."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def _npy_bytes(array: NDArray[np.float16]) -> bytes:
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + array.tobytes()
