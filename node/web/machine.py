"""What this machine itself tells: which of the node's processes live, and how many connections the listener has."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from node.identity import owner_prefix
from node.settings import Settings

# Where each process keeps a lock for as long as it lives; see `workers.alive`.
_ALIVE = "alive"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
# struct flock of 64-bit Linux: type, whence, start, length, process.
_FLOCK = "hhqqi4x"


def living(settings: Settings) -> list[str]:
    """The names, as in leases, of this node's processes on this machine that are alive."""
    folder = settings.data_dir / _ALIVE
    return [path.name for path in sorted(folder.glob(f"{owner_prefix(settings)}*")) if _is_held(path)]


def _is_held(path: Path) -> bool:
    """Asked without taking the lock, which another process's look would take for a sign of life."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # Gone since it was listed, or not this user's.
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_ = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    except OSError:
        # The file system knows no locks.
        return False
    finally:
        os.close(fd)
    return bool(kind != fcntl.F_UNLCK)


def role_of(owner: str) -> str:
    """`infer` of `7f…:infer:4711`."""
    return owner.split(":")[1] if owner.count(":") >= 2 else owner


def short(owner: str) -> str:
    """A lease's name without the part that is the same for all processes of a machine."""
    return owner.partition(":")[2] or owner


def open_connections(port: int, tables: Iterable[Path] = _TABLES) -> int | None:
    """Established TCP connections to that port of this machine; None where the kernel does not say."""
    count, seen = 0, False
    for table in tables:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        seen = True
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == _ESTABLISHED:
                count += 1
    return count if seen else None
