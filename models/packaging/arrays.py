"""npz files of strangers: looked at before NumPy may load them. Nothing is unpickled, nothing large is inflated."""

from __future__ import annotations

import math
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from models.errors import ArchiveError
from models.packaging.container import Limits, inflated_sizes_allowed

# Numbers only: objects are pickles, and strings have no place in a network.
_KINDS = frozenset("fiub")
_MOST_ARRAYS = 20_000


def check_arrays(path: Path, limits: Limits) -> None:
    """Raise ArchiveError unless every member is a plain array of numbers, as long as its own header says."""
    try:
        with zipfile.ZipFile(path) as stored:
            members = stored.infolist()
            if len(members) > _MOST_ARRAYS or len({member.filename for member in members}) != len(members):
                raise ArchiveError(f"{path.name} holds too many arrays, or one name twice")
            inflated_sizes_allowed(members, path.name, limits)
            for member in members:
                with stored.open(member) as stream:
                    _check_array(stream, member, path.name)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, struct.error, NotImplementedError) as error:
        raise ArchiveError(f"{path.name} is no readable npz file") from error
    except (OSError, RuntimeError) as error:
        raise ArchiveError(f"{path.name} cannot be read as npz") from error


def _check_array(stream: IO[bytes], member: zipfile.ZipInfo, name: str) -> None:
    shape, dtype = _header(stream, member, name)
    if dtype.hasobject or dtype.kind not in _KINDS:
        raise ArchiveError(f"{name} holds an array of {dtype.name}; only numbers are taken")
    if member.file_size - stream.tell() != math.prod(shape) * dtype.itemsize:
        raise ArchiveError(f"{name} holds an array that is not as long as its header says")


def _header(stream: IO[bytes], member: zipfile.ZipInfo, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if not member.filename.endswith(".npy"):
        raise ArchiveError(f"{name} holds something that is no array")
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ArchiveError(f"{name} holds an array of format {version}, which this release does not write")
    with warnings.catch_warnings():
        # Headers of Python 2 are mended with a warning; they are taken for what they are.
        warnings.simplefilter("ignore")
        shape, _, dtype = readers[version](stream)
    return shape, dtype
