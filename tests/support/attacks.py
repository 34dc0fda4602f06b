"""What a hostile peer may do to any receiver of DICOM over the network, and what the receiver answered.

Each attack takes a port and gives one line that says what came back. None of them is of a kind that only this node has.
"""

from __future__ import annotations

import random
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import generate_uid

from tests.support import hostile, mutants
from tests.support import raw_association as raw
from tests.support.listening import chest_file, dataset_bytes

MUTANTS, ASSOCIATIONS, IMAGES_EACH, SLOW = 400, 60, 10, 55
_PATIENCE_S = 35.0
_ENDLESS_BYTES = 512 << 20
_MOST_FILE_BYTES = 300 << 20

Attack = Callable[[int], str]


def echoes(port: int, within_s: float = 10.0) -> bool:
    """Whether C-ECHO is answered in time."""
    try:
        with raw.connected(port, within_s) as one:
            one.send(raw.request() + raw.message(raw.ECHO, raw.with_length(raw.echo_command())))
            answers = [one.read(), one.read()]
            one.send(raw.RELEASE_RQ)
    except OSError:
        return False
    return answers[1] is not None and answers[1].status == 0


def counted(outcomes: Iterable[str]) -> str:
    """How often each outcome, in alphabetical order."""
    return ", ".join(f"{outcome} {count}" for outcome, count in sorted(Counter(outcomes).items()))


def _image(rows: int = 64) -> tuple[str, bytes]:
    """(SOP Instance UID, data set) of an image of its own that no model wants."""
    with TemporaryDirectory() as folder:
        uids = {name: generate_uid() for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
        changes = {"BodyPartExamined": "HAND", "Rows": rows, "Columns": rows, "PixelData": bytes(rows * rows)}
        path = chest_file(Path(folder), "image.dcm", **uids, **changes)
        return str(dcmread(path).SOPInstanceUID), dataset_bytes(path)


def _said(one: raw.Raw) -> str:
    """What the next PDU says."""
    try:
        answer = one.read()
    except TimeoutError:
        return "silent"
    if answer is None:
        return "closed"
    if answer.status is not None:
        return "stored" if answer.status == 0 else "refused"
    return {raw.ABORT: "aborted", raw.ASSOCIATE_RJ: "rejected", raw.ASSOCIATE_AC: "accepted"}.get(answer.kind, "other")


def _stored(port: int, syntax: str, sop_instance: str, data: bytes) -> str:
    """C-STORE of a data set in that transfer syntax, on an association of its own."""
    try:
        with raw.connected(port, _PATIENCE_S) as one:
            one.send(raw.request([(raw.CR, (syntax,))]))
            answer = one.read()
            if answer is None or answer.kind != raw.ASSOCIATE_AC:
                return "no association"
            # Of even length, as every fragment must be (PS3.8 E.2): some look no further otherwise.
            one.send(raw.message(1, raw.with_length(raw.store_command(sop_instance)), data + bytes(len(data) % 2)))
            said = _said(one)
            with suppress(OSError):
                one.send(raw.RELEASE_RQ)
            return said
    except TimeoutError:
        return "silent"
    except OSError:
        return "closed"


def announced_lengths(port: int) -> str:
    """PDUs that announce up to 4 GiB, and 200 requests that stop after their header."""
    said = []
    with ExitStack() as stack:
        for kind in (1, 4, 5, 7, 99):
            for claimed in (0xFFFFFFFF, 0x7FFFFFFF, 1 << 28):
                try:
                    one = stack.enter_context(raw.connected(port, 2))
                    one.send((raw.request() if kind != 1 else b"") + struct.pack(">BxL", kind, claimed) + bytes(1000))
                    said.append(_said(one) if kind == 1 or _said(one) == "accepted" else "no association")
                except OSError:
                    said.append("closed")
        for _ in range(200):
            with suppress(OSError):
                stack.enter_context(raw.connected(port, 0.2)).send(struct.pack(">BxL", 1, 260_000))
    return counted(said)


def endless_data(port: int) -> str:
    """A data set whose pixels do not end: half a gigabyte, or twenty seconds of it."""
    piece = raw.pdu(raw.P_DATA, raw.value(raw.STORE, 0, bytes(16_000)))
    sent, until = 0, time.monotonic() + 20
    with raw.associated(port, timeout_s=10) as one, suppress(OSError):
        one.send(raw.pdu(raw.P_DATA, raw.value(raw.STORE, 3, raw.with_length(raw.store_command("1.2.3")))))
        _, data = _image()
        start = data[: data.index(struct.pack("<HH", 0x7FE0, 0x0010))]
        endless = start + struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", 0x7FFFFFFE)
        one.send(raw.pdu(raw.P_DATA, raw.value(raw.STORE, 0, endless)))
        while sent < _ENDLESS_BYTES and time.monotonic() < until:
            one.send(piece)
            sent += len(piece)
    return f"{sent >> 20} MiB taken"


def endless_command(port: int) -> str:
    """A command set that does not end."""
    with raw.associated(port, timeout_s=10) as one, suppress(ConnectionError):
        for _ in range(4000):
            one.send(raw.pdu(raw.P_DATA, raw.value(raw.STORE, 1, bytes(16_000))))
        return _said(one)
    return "closed"


def deflate_bomb(port: int) -> str:
    """A gigabyte of zeros, deflated to one megabyte."""
    uid, data = _image()
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = data[: data.index(struct.pack("<HH", 0x7FE0, 0x0010))]
    bomb = deflater.compress(start + struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", 1 << 30))
    bomb += b"".join(deflater.compress(bytes(1 << 20)) for _ in range(1024)) + deflater.flush()
    return _stored(port, raw.DEFLATED, uid, bomb)


def nested_sequences(port: int) -> str:
    """20,000 sequences, each in the one before."""
    uid, data = _image()
    at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return _stored(port, raw.EXPLICIT, uid, data[:at] + hostile.nested(20_000) + data[at:])


def many_elements(port: int) -> str:
    """2.1 million empty elements."""
    uid, data = _image()
    at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return _stored(port, raw.EXPLICIT, uid, data[:at] + struct.pack("<HH2sH", 9, 0x10, b"LO", 0) * 2_100_000)


def bomb_files(port: int) -> str:
    """Images that claim, nest or repeat more than they hold (`hostile.BOMBS`), up to 300 MB long, as they are."""
    said = []
    for make in hostile.BOMBS.values():
        with TemporaryDirectory() as folder:
            path = make(Path(folder) / "bomb.dcm")
            if path.stat().st_size > _MOST_FILE_BYTES:
                continue
            meta = read_file_meta_info(path)
            data, uid = dataset_bytes(path), str(meta.MediaStorageSOPInstanceUID)
        said.append(_stored(port, str(meta.TransferSyntaxUID), uid, data))
    return counted(said)


def slow_sockets(port: int) -> str:
    """55 that are silent, stop in the middle of their request, or idle after it; an honest image meanwhile."""
    asked = raw.request()
    with ExitStack() as stack:
        held = []
        for number in range(SLOW):
            with suppress(OSError):
                one = stack.enter_context(raw.connected(port, 40))
                one.send((b"", asked[: len(asked) // 2], asked)[number % 3])
                held.append(one)
        began = time.monotonic()
        uid, data = _image()
        said = _stored(port, raw.EXPLICIT, uid, data)
        took = time.monotonic() - began
        until = began + 35

        def dropped(one: raw.Raw) -> bool:
            one.socket.settimeout(max(0.1, until - time.monotonic()))
            try:
                one.rest()
            except TimeoutError:
                return False
            return True

        with ThreadPoolExecutor(SLOW) as watchers:
            gone = sum(watchers.map(dropped, held))
    return f"honest image {said} after {took:.1f} s; {gone} of {SLOW} dropped within 35 s"


def mutated_messages(port: int) -> str:
    """Seeded mutants of both layers, one connection each."""
    chance = random.Random(20261125)
    _, data = _image()
    said: list[str] = []
    for number in range(MUTANTS):
        sent = mutants.upper_layer(chance) if number % 2 else mutants.dimse(chance, data)
        try:
            with raw.connected(port, 2) as one:
                with suppress(OSError):
                    one.send(sent)
                    one.socket.shutdown(socket.SHUT_WR)
                one.rest()
                said.append("ended")
        except TimeoutError:
            said.append("silent")
        except OSError:
            said.append("not connected")
    return counted(said)


def many_associations(port: int) -> str:
    """60 associations at the same time, held; then ten images on each that was accepted."""
    with ExitStack() as stack:
        flood = []
        for _ in range(ASSOCIATIONS):
            with suppress(OSError):
                one = stack.enter_context(raw.connected(port, 10))
                one.send(raw.request())
                flood.append(one)
        said = [_said(one) for one in flood]
        accepted = [one for one, answer in zip(flood, said, strict=True) if answer == "accepted"]
        images = [[_image() for _ in range(IMAGES_EACH)] for _ in accepted]

        def send(one: raw.Raw, own: list[tuple[str, bytes]]) -> int:
            one.socket.settimeout(60)
            try:
                return sum(raw.store(one, uid, data) == 0 for uid, data in own)
            except OSError:
                return 0

        with ThreadPoolExecutor(ASSOCIATIONS) as senders:
            stored = sum(senders.map(send, accepted, images))
    return f"{counted(said)}; {stored} of {IMAGES_EACH * len(accepted)} images stored"


ATTACKS: tuple[Attack, ...] = (
    announced_lengths,
    endless_data,
    endless_command,
    deflate_bomb,
    nested_sequences,
    many_elements,
    bomb_files,
    slow_sockets,
    mutated_messages,
    many_associations,
)
