"""What a decoder that an image has taken over cannot do, in the workers' processes and in the page's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from node import landlock
from node.web.pictures import Pictures
from node.web.problems import Problem
from tests.support import hostile

_ATTEMPTS = '''
import os, signal, socket, sys, tempfile

def attempts(parent):
    """The names of what was refused. Code that was not loaded yet may be."""
    import wave
    held = []
    refused = []
    for name, act in {
        "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "program": lambda: os.execv("/bin/true", ["/bin/true"]),
        "signal": lambda: os.kill(parent, 0),
        "file": lambda: open("/etc/passwd"),
        "secrets": lambda: open(f"/proc/{parent}/environ"),
        "memory of others": lambda: open(f"/proc/{parent}/mem"),
        "folder": lambda: os.listdir(tempfile.gettempdir()),
        "new file": lambda: tempfile.TemporaryFile(),
        "large file": lambda: os.ftruncate(os.memfd_create("x"), 2 << 30),
        "memory": lambda: held.append(bytearray(2 << 30)),
        "many files": lambda: [os.dup(0) for _ in range(64)],
    }.items():
        try:
            act()
        except (OSError, MemoryError):
            refused.append(name)
    return refused
'''
_CONFINED = f"""
{_ATTEMPTS}
from node.confinement import Confinement
Confinement(64 << 20, 1 << 20)
print(*attempts(os.getppid()), sep="\\n")
"""
_WRITER = f"""
{_ATTEMPTS}
def write(file):
    assert file.read(132)[128:] == b"DICM"
    return "\\n".join(attempts(os.getppid())).encode()
"""
# On a machine whose system calls nobody here has numbers for; with a library that writes half a line.
_ELSEWHERE = """
import platform, sys
from db.errors import UnreadableError

platform.machine = lambda: "riscv64"

def write(file, number):
    sys.stderr.write("half a line")
    if number == 1:
        return b"picture 1"
    raise UnreadableError("there is no picture 2")
"""
_OF_LANDLOCK = {"file", "secrets", "memory of others", "folder", "new file"}
_ALL = {"socket", "unix socket", "program", "signal", "large file", "memory", "many files"} | (
    _OF_LANDLOCK if landlock.version() else set()
)


def test_confinement_holds_for_whatever_runs_in_it() -> None:
    done = subprocess.run([sys.executable, "-c", _CONFINED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, set(done.stdout.split("\n")) - {""}) == (0, _ALL), done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return hostile.write(tmp_path / "image.dcm", hostile.head(hostile.EXPLICIT), hostile.native(8192, 8192))


def test_it_holds_for_what_makes_the_pages_pictures(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that the page starts, with a writer that tries what a decoder might that was taken over."""
    install(monkeypatch, tmp_path, _WRITER)
    with capture_logs() as logs:
        assert set(Pictures().make("taken_over", image).decode().split("\n")) == _ALL
    assert [one["event"] for one in logs] == ([] if landlock.version() else ["picture_maker_may_open_files"])


def test_where_the_kernel_cannot_hold_it_the_log_says_so_once(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, _ELSEWHERE)
    pictures = Pictures()
    with capture_logs() as logs:
        assert pictures.make("taken_over", image, 1) == b"picture 1"
        with pytest.raises(Problem, match=r"^there is no picture 2$"):
            pictures.make("taken_over", image, 2)
    told = [(one["event"], one["log_level"]) for one in logs]
    assert told == [("picture_maker_may_use_sockets", "warning"), ("picture_maker_may_open_files", "warning")]


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, writer: str) -> None:
    """A package that writes pictures, beside those that are installed."""
    told = folder / "taken_over-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: taken-over\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[radnode.picture_writers]\ntaken_over = taken_over:write\n")
    (folder / "taken_over.py").write_text(writer)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", ""))))


def test_a_picture_is_made_in_it(image: Path) -> None:
    assert Pictures().make("grey", image, 64, None, None).startswith(b"\x89PNG")


def test_a_bomb_is_no_picture_and_says_why(tmp_path: Path) -> None:
    """A deflated one, which is inflated to disk by a process that may open no file."""
    with pytest.raises(Problem, match="deflated"):
        Pictures().make("grey", hostile.BOMBS["a deflated gigabyte"](tmp_path / "bomb.dcm"), 64, None, None)


def test_a_stored_file_that_is_gone_is_a_problem_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="cannot be opened"):
        Pictures().make("grey", tmp_path / "gone.dcm", 64, None, None)
