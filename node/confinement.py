"""What the kernel keeps a process that decodes peers' images from: memory, time, files, sockets, other programs.

For the workers' decoders and the page's. Limits hold from within: a decoder that hangs ends although nobody watches it
any more. Raised for one image, they are lowered again after it. See getrlimit(2), setitimer(2), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from pathlib import Path

from node import landlock

# What a decoder needs of the environment, and nothing that could hold a secret.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# No decoder multiplies matrices. The memory of an image is kept for the next one: new pages are what takes time.
_SET = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}

_MOST_OPEN_FILES = 32
_PAGE_BYTES = resource.getpagesize()

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_SYSCALL_AT, _ARCHITECTURE_AT = 0, 4
_FOREIGN_ABI = 0x40000000

# Audit architecture and the numbers of socket, connect, bind, listen, accept, accept4, execve, execveat, ptrace,
# process_vm_readv, process_vm_writev, io_uring_setup, bpf, keyctl, unshare, mount; kill, tkill, rt_sigqueueinfo,
# pidfd_send_signal, pidfd_open, pidfd_getfd. abort(3) needs tgkill.
_FORBIDDEN = {
    "x86_64": (
        0xC000003E,
        (41, 42, 49, 50, 43, 288, 59, 322, 101, 310, 311, 425, 321, 250, 272, 165, 62, 200, 129, 424, 434, 438),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 203, 200, 201, 202, 242, 221, 281, 117, 270, 271, 425, 280, 219, 97, 40, 129, 130, 138, 424, 434, 438),
    ),
}
# Packages whose code a decoder may still have to load.
_OWN = ("db", "models", "node", "workers")


def environment() -> dict[str, str]:
    """What a process that is to be confined is started with."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _SET


class Confinement:
    """The limits of this process. Make it once everything is imported: what memory it takes by then is its rest."""

    def __init__(self, memory_bytes: int, most_file_bytes: int) -> None:
        """memory_bytes: address space beyond the rest, unless an image is allowed more.

        no_sockets, no_files: whether this kernel keeps the process from them; ``no_files`` means that it opens nothing
        but installed code, and that for reading.
        """
        self._memory_bytes = memory_bytes
        self._rest_bytes = _address_space_bytes()
        # No core: it would hold a patient's image. No file larger than the largest picture or inflated data set.
        for limit, wanted in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, _MOST_OPEN_FILES),
            (resource.RLIMIT_FSIZE, most_file_bytes),
        ):
            _, hard = resource.getrlimit(limit)
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(limit, (most, most))
        self.no_sockets = _forbid_system_calls()
        self.no_files = landlock.only_read_beneath(_code())
        self.relax()

    def relax(self) -> None:
        """Between two images: the least memory, no clock."""
        self.allow_memory(self._memory_bytes)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_soft(resource.RLIMIT_CPU, resource.RLIM_INFINITY)

    def allow_memory(self, more_bytes: int) -> None:
        """Address space beyond the rest, never less than the usual."""
        _set_soft(resource.RLIMIT_AS, self._rest_bytes + max(more_bytes, self._memory_bytes))

    def allow_time(self, seconds: float) -> None:
        """From now on, by the clock and on the processor; SIGALRM or SIGXCPU ends the process after it."""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _set_soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)


def _code() -> list[Path]:
    """Folders of what Python or the loader may still import; the root of a checkout, which may hold more, is none."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = {str(Path(file).parent) for name in _OWN if (file := getattr(sys.modules.get(name), "__file__", None))}
    return sorted(map(Path, {*installed, *own, "/usr/lib", "/lib", "/lib64"}))


def _set_soft(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
        value = hard
    resource.setrlimit(limit, (value, hard))


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE_BYTES


def _forbid_system_calls() -> bool:
    """Answer EPERM to system calls that no decoder needs; False where this kernel or machine cannot."""
    known = _FORBIDDEN.get(platform.machine())
    if known is None:
        return False
    program = _filter(*known)
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    loaded = Program(len(program) // 8, ctypes.addressof(code))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    done: int = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0)
    return done == 0


def _filter(architecture: int, numbers: tuple[int, ...]) -> bytes:
    """A program for the kernel's packet filter: 64 bits an instruction (code, jump if true, if false, operand)."""

    def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBL", code, if_true, if_false, operand)

    refuse = len(numbers) + 1
    return b"".join(
        (
            instruction(_LOAD, _ARCHITECTURE_AT),
            instruction(_EQUAL, architecture, 0, refuse + 2),
            instruction(_LOAD, _SYSCALL_AT),
            instruction(_AT_LEAST, _FOREIGN_ABI, refuse, 0),
            *(instruction(_EQUAL, number, len(numbers) - place) for place, number in enumerate(numbers)),
            instruction(_RETURN, _ALLOW),
            instruction(_RETURN, _EPERM),
        )
    )
