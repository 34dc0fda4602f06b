"""A data set followed while it comes is judged as one that lies on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.dataset_source import ForwardFile, HeaderError, open_dataset
from node.header import Header, examine, examine_stream
from tests.unit.test_header import DATA, DEFLATED, EXPLICIT, IMPLICIT, encode, radiograph


def pieces(data: bytes, size: int) -> list[memoryview]:
    return [memoryview(data)[at : at + size] for at in range(0, len(data), size)]


def judged(read: object, *arguments: object) -> Header | None:
    try:
        return read(*arguments)  # type: ignore[operator, no-any-return]
    except HeaderError:
        return None


def test_every_real_file_is_judged_alike() -> None:
    compared = 0
    for path in sorted(p for p in DATA.rglob("*") if p.is_file() and p.stat().st_size < 3 << 20):
        whole = path.read_bytes()
        try:
            with open_dataset(whole) as dataset:
                start, syntax = dataset.start, dataset.transfer_syntax
        except HeaderError:
            continue
        if syntax == DEFLATED:
            start = len(whole) - len(_after_meta(path))
        data = whole[start:]
        expected = judged(examine, data, syntax)
        for size in (1, 13, 4096, len(data)) if len(data) < 20_000 else (4096, len(data)):
            assert judged(examine_stream, pieces(data, size), syntax) == expected, (path, size)
        compared += 1
    assert compared > 50


def _after_meta(path: Path) -> bytes:
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
def test_every_cut_is_noticed_as_it_is_on_the_disk(syntax: str) -> None:
    data = encode(radiograph(), syntax)
    for cut in range(len(data)):
        expected = judged(examine, data[:cut], syntax)
        assert judged(examine_stream, pieces(data[:cut], 7), syntax) == expected, cut
    assert judged(examine_stream, pieces(data, 7), syntax) == examine(data, syntax)


def test_a_file_of_pieces_reads_forward() -> None:
    file = ForwardFile([b"abc", b"de", memoryview(b"fghij")])
    assert file.read(2) == b"ab"
    file.seek(0)
    assert file.read(4) == b"abcd"
    file.seek(7)
    assert file.read(9) == b"hij"
    assert file.read(1) == b""
    with pytest.raises(HeaderError, match="1 bytes are missing"):
        file.seek(11)
