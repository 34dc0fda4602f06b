"""Which processes of this machine are gone: each holds a lock on a file for as long as it lives.

The kernel lets go of a lock in the moment in which its process ends, however it ends, and whatever the clock says. So
what a killed process held is free at the next look, without waiting for its lease, and a lease is needed only where a
whole machine is lost.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import structlog

from node.identity import owner, owner_prefix
from node.settings import Settings

log = structlog.get_logger(__name__)

FOLDER = "alive"
# Closing a file lets go of all locks that this process has on it: these are not to be opened again.
_mine: set[str] = set()


def sign_in(settings: Settings, role: str) -> str:
    """The name under which this process takes leases; nobody that was here before, or is elsewhere, has it.

    The lock stays until the process ends: its descriptor is not closed, and a fork does not inherit it. Where the file
    system knows no locks the name comes without, and the lease alone says when its holder is gone.
    """
    folder = settings.data_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = owner(settings, role)
    for number in count():
        name = f"{wanted}.{number}" if number else wanted
        try:
            fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            # Of a process that had the same pid, or has it in another container: nothing of it is to be ours.
            continue
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        except OSError as error:
            log.warning("no_sign_of_life", folder=str(folder), reason=error.strerror)
            os.close(fd)
            (folder / name).unlink(missing_ok=True)
            return name
        # A look between the two calls has taken the file for that of a dead process.
        if os.fstat(fd).st_nlink:
            _mine.add(name)
            return name
        os.close(fd)
    raise AssertionError("unreachable")


def free_dead(settings: Settings, free: Callable[[str], None]) -> list[str]:
    """Call `free` with the name of each process of this node and machine that is gone; returns the names.

    A name is forgotten only once `free` has returned: what it raises is raised, and the next look tries again.
    """
    gone = []
    for path in sorted((settings.data_dir / FOLDER).glob(f"{owner_prefix(settings)}*")):
        if path.name not in _mine and _is_gone(path):
            free(path.name)
            path.unlink(missing_ok=True)
            gone.append(path.name)
    return gone


def _is_gone(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
