"""Mutants of DICOM messages that know their structure: at the upper layer (PS3.8) and at DIMSE (PS3.7).

Each is what a peer sends on one connection; a seed gives the same mutants again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.support import raw_association as raw

_LIES = (0, 1, 2, 3, 5, 0x7F, 0xFF, 0x100, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_HOSTILE_UIDS = ("", ".", "1..2", "../../etc/passwd", "1.2.3\0", "9" * 64, "1" * 200, "1.2.\xff", "' OR 1=1 --", "%s%n")


def upper_layer(rng: random.Random) -> bytes:
    """One mutant of the association's opening, or of the PDUs after it."""
    asked = raw.request()
    change = rng.choice(
        [
            _flip,
            _cut,
            _lie_of_length,
            _other_type,
            _item_lie,
            _repeated,
            _reordered,
            _garbage,
            _empty_values,
            _many_contexts,
        ]
    )
    return change(rng, asked)


def dimse(rng: random.Random, data: bytes) -> bytes:
    """A good association, then one mutant of a C-STORE or C-ECHO, and often a good release."""
    change = rng.choice(
        [
            _command_elements,
            _command_bytes,
            _command_field,
            _control,
            _context,
            _shredded,
            _data_bytes,
            _data_lie,
            _uids,
        ]
    )
    tail = rng.choice(
        [b"", raw.RELEASE_RQ, raw.message(raw.ECHO, raw.with_length(raw.echo_command())) + raw.RELEASE_RQ]
    )
    return raw.request() + change(rng, data) + tail


def _flip(rng: random.Random, asked: bytes) -> bytes:
    flipped = bytearray(asked)
    for _ in range(rng.randint(1, 8)):
        flipped[rng.randrange(len(flipped))] = rng.randrange(256)
    return bytes(flipped)


def _cut(rng: random.Random, asked: bytes) -> bytes:
    return asked[: rng.randrange(len(asked))]


def _lie_of_length(rng: random.Random, asked: bytes) -> bytes:
    return asked[:2] + struct.pack(">L", rng.choice((*_LIES, rng.getrandbits(32)))) + asked[6:]


def _other_type(rng: random.Random, asked: bytes) -> bytes:
    first = raw.pdu(rng.randrange(256), rng.randbytes(rng.choice((0, 1, 4, 68, 300))))
    return first if rng.random() < 0.5 else asked + first


def _item_lie(rng: random.Random, asked: bytes) -> bytes:
    """The length of an item or sub-item of the request is a lie."""
    lying = bytearray(asked)
    starts = [at for at in range(74, len(asked) - 4) if asked[at] in (0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x52)]
    struct.pack_into(">H", lying, rng.choice(starts) + 2, rng.choice(_LIES[:9]))
    return bytes(lying)


def _repeated(rng: random.Random, asked: bytes) -> bytes:
    return asked * rng.randint(2, 3) + rng.choice((b"", raw.RELEASE_RQ))


def _reordered(rng: random.Random, asked: bytes) -> bytes:
    parts = [asked, raw.RELEASE_RQ, raw.message(raw.ECHO, raw.with_length(raw.echo_command())), raw.pdu(7, bytes(4))]
    rng.shuffle(parts)
    return b"".join(parts[: rng.randint(1, 4)])


def _garbage(rng: random.Random, asked: bytes) -> bytes:
    return rng.choice((b"", asked)) + rng.randbytes(rng.randint(1, 2000))


def _empty_values(rng: random.Random, asked: bytes) -> bytes:
    values = b"".join(struct.pack(">L", rng.choice(_LIES)) + rng.randbytes(rng.randrange(8)) for _ in range(5))
    return asked + raw.pdu(raw.P_DATA, rng.choice((b"", values)))


def _many_contexts(rng: random.Random, asked: bytes) -> bytes:
    uids = [f"1.2.826.0.1.3680043.9.9999.{n}" for n in range(rng.choice((1, 128)))]
    proposals = [(uid, (raw.IMPLICIT, raw.EXPLICIT)) for uid in uids]
    return raw.request(proposals) + raw.RELEASE_RQ


def _store(data: bytes, elements: list[bytes]) -> bytes:
    return raw.message(raw.STORE, raw.with_length(elements), data)


def _elements(rng: random.Random) -> list[bytes]:
    return raw.store_command(f"1.2.3.{rng.getrandbits(40)}")


def _command_elements(rng: random.Random, data: bytes) -> bytes:
    """Elements missing, twice, in another order, of another length."""
    elements = _elements(rng)
    for _ in range(rng.randint(1, 3)):
        if not elements:
            break
        at = rng.randrange(len(elements))
        number, value = struct.unpack_from("<H", elements[at], 2)[0], elements[at][8:]
        change: Callable[[], list[bytes]] = rng.choice(
            [
                list,
                lambda e=elements[at]: [e, e],
                lambda n=number, v=value: [struct.pack("<HHL", 0, n, rng.choice(_LIES)) + v],
                lambda n=number, v=value: [raw.element(n, v[: rng.randrange(len(v) + 1)])],
                lambda v=value: [struct.pack("<HHL", rng.choice((0, 2, 8)), rng.getrandbits(16), len(v)) + v],
            ]
        )
        elements[at : at + 1] = change()
    rng.shuffle(elements)
    return _store(data, elements)


def _command_bytes(rng: random.Random, data: bytes) -> bytes:
    command = raw.with_length(rng.choice((_elements(rng), raw.echo_command())))
    return raw.message(rng.choice((raw.ECHO, raw.STORE)), _flip(rng, command), rng.choice((None, data)))


def _command_field(rng: random.Random, data: bytes) -> bytes:
    fields = (0x0010, 0x0020, 0x0021, 0x0FFF, 0x0100, 0x0110, 0x0130, 0x8001, 0x8030, 0xFFFF, rng.getrandbits(16))
    elements = [
        raw.element(0x0100, struct.pack("<H", rng.choice(fields))) if one[2:4] == b"\x00\x01" else one
        for one in _elements(rng)
    ]
    return _store(data, elements)


def _control(rng: random.Random, data: bytes) -> bytes:
    """Message control headers at random: commands that do not end, data before commands, commands inside data."""
    command = raw.with_length(_elements(rng))
    values = [
        raw.value(raw.STORE, rng.randrange(256), rng.choice((command, data[:500], b"")))
        for _ in range(rng.randint(1, 6))
    ]
    return b"".join(raw.pdu(raw.P_DATA, one) for one in values)


def _context(rng: random.Random, data: bytes) -> bytes:
    return raw.message(rng.randrange(256), raw.with_length(_elements(rng)), data)


def _shredded(rng: random.Random, data: bytes) -> bytes:
    """Good, in fragments of a few bytes, some of them empty, several to a PDU: to be taken, or cut somewhere."""
    command = raw.with_length(_elements(rng))
    values = []
    for control, whole in ((1, command), (0, data[:600])):
        at = 0
        while at < len(whole):
            step = rng.choice((0, 1, 3, 50))
            last = at + step >= len(whole)
            values.append(raw.value(raw.STORE, control | 2 * last, whole[at : at + step]))
            at += step
    pdus = b""
    while values:
        count = rng.randint(1, 5)
        pdus += raw.pdu(raw.P_DATA, b"".join(values[:count]))
        del values[:count]
    return pdus if rng.random() < 0.7 else pdus[: rng.randrange(len(pdus))]


def _data_bytes(rng: random.Random, data: bytes) -> bytes:
    return _store(_flip(rng, data) if rng.random() < 0.5 else _cut(rng, data), _elements(rng))


def _data_lie(rng: random.Random, data: bytes) -> bytes:
    """A length in the data set's first elements is a lie, or sequences are nested without end."""
    if rng.random() < 0.2:
        nested = struct.pack("<HH2s2xL", 0x0008, 0x1115, b"SQ", 0xFFFFFFFF) + struct.pack(
            "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
        )
        return _store(nested * rng.randint(1, 400), _elements(rng))
    lying = bytearray(data)
    struct.pack_into("<H", lying, rng.choice((6, 6 + rng.randrange(0, 400, 2))), rng.choice(_LIES[:9]))
    return _store(bytes(lying), _elements(rng))


def _uids(rng: random.Random, data: bytes) -> bytes:
    elements = raw.store_command(
        rng.choice(_HOSTILE_UIDS), sop_class=rng.choice((raw.CR, *_HOSTILE_UIDS)), data_set=rng.choice((0, 0x0101, 7))
    )
    return _store(data, elements)
