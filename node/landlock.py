"""Landlock: which files this process may open from now on, kept by the kernel, without root. See landlock(7).

A process that was taken over can lift none of it, nor can what it starts.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from pathlib import Path

# The same numbers on every architecture that has these calls.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _BENEATH_PATH = 1, 1

_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
# Rights over files that each version of the interface knows, from execute (bit 0) on; and over TCP and other processes.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_SINCE_5 = 16
_TCP_SINCE, _TCP_RIGHTS = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11
_MACHINES = ("x86_64", "aarch64")


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """Of the kernel's Landlock; 0 where it has none, or not for this process."""
    if platform.machine() not in _MACHINES:
        return 0
    return max(0, _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)))


def only_read_beneath(folders: Iterable[Path]) -> bool:
    """From now on this thread opens files beneath these folders alone, for reading; what is open stays open.

    Where the kernel knows them, TCP connections and signals to processes outside are refused, too. Call it while there
    is one thread. False where this kernel cannot.
    """
    known = version()
    if known == 0:
        return False
    asked = _Ruleset(
        files=(1 << _FILE_RIGHTS.get(known, _RIGHTS_SINCE_5)) - 1,
        tcp=_TCP_RIGHTS if known >= _TCP_SINCE else 0,
        scopes=_SCOPES if known >= _SCOPES_SINCE else 0,
    )
    # Older kernels take a shorter structure, or a longer one whose rest is nought.
    rules = _call(_CREATE_RULESET, ctypes.byref(asked), ctypes.c_size_t(ctypes.sizeof(asked)), ctypes.c_uint32(0))
    if rules < 0:
        return False
    try:
        return all(_allow(rules, folder) for folder in folders) and _restricted(rules)
    finally:
        os.close(rules)


def _allow(rules: int, folder: Path) -> bool:
    try:
        opened = os.open(folder, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    try:
        beneath = _Beneath(rights=_READ_FILE | _READ_FOLDER, folder=opened)
        added = _call(_ADD_RULE, ctypes.c_int(rules), ctypes.c_int(_BENEATH_PATH), ctypes.byref(beneath), 0)
        return added == 0
    finally:
        os.close(opened)


def _restricted(rules: int) -> bool:
    return _call(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0)) == 0


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.syscall(ctypes.c_long(number), *arguments)
    return done
