from __future__ import annotations

import os
import time
from itertools import repeat
from pathlib import Path

import pytest

from db.errors import StorageFull
from node import storage
from node.incoming import IncomingFile, written
from node.settings import Limits, Settings


@pytest.mark.parametrize("hostile", ["../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "", "1.2.3", "x" * 10_000])
def test_no_character_of_a_peer_gets_into_a_path(hostile: str) -> None:
    path = storage.derived_path(storage.INSTANCES, hostile)
    assert not path.is_absolute()
    assert path.parts[0] == "instances"
    assert all(set(part) <= set("0123456789abcdef") for part in (*path.parts[1:-1], path.stem))
    assert path == storage.derived_path(storage.INSTANCES, hostile)


def test_other_identities_get_other_paths() -> None:
    assert storage.derived_path("instances", "1.2") != storage.derived_path("instances", "1.3")
    assert storage.derived_path("instances", "1.2") != storage.derived_path("results", "1.2")
    with pytest.raises(ValueError):
        storage.derived_path("../up", "1.2")


def test_bytes_are_stored_and_replaced_whole(tmp_path: Path) -> None:
    relative = storage.derived_path(storage.RESULTS, "1.2.3")
    assert storage.store_bytes(tmp_path, relative, b"first").read_bytes() == b"first"
    assert storage.store_bytes(tmp_path, relative, b"second").read_bytes() == b"second"
    assert list(storage.incoming_dir(tmp_path).iterdir()) == []


def test_quarantine_takes_the_file_away(tmp_path: Path) -> None:
    temp = storage.incoming_dir(tmp_path) / "x"
    temp.write_bytes(b"data")
    relative = storage.quarantine(tmp_path, temp, "1.2.3:digest")
    assert (tmp_path / relative).read_bytes() == b"data"
    assert not temp.exists()


def test_leftovers_are_removed(tmp_path: Path) -> None:
    own = storage.incoming_dir(tmp_path, "listener-a")
    mine, fresh, old = own / "half", storage.incoming_dir(tmp_path) / "fresh", tmp_path / "incoming" / "old"
    now = time.time()
    for path in (mine, fresh, old):
        path.write_bytes(b"x")
    os.utime(old, (now, now - 3700))
    found = storage.unfinished(tmp_path, own, now)
    assert set(found) == {mine, old}
    assert storage.remove(found) == 2
    assert storage.unfinished(tmp_path, own, now) == []
    assert fresh.exists()


def settings(data_dir: Path, min_free_bytes: int) -> Settings:
    return Settings().model_copy(update={"data_dir": data_dir, "limits": Limits(min_free_bytes=min_free_bytes)})


def test_room_is_asked_for(tmp_path: Path) -> None:
    storage.require_room(settings(tmp_path, 0))
    with pytest.raises(StorageFull, match="min_free_bytes"):
        storage.require_room(settings(tmp_path, 2**62))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFull, match="cannot be used"):
        storage.require_room(settings(tmp_path / "file" / "data", 0))


def test_a_long_data_set_is_stopped_where_room_gets_short_on_its_way(tmp_path: Path) -> None:
    piece = memoryview(bytes(1 << 20))
    with IncomingFile(tmp_path, "1.2", "1.2.3", "1.2.840.10008.1.2.1") as file:
        on_its_way = written(settings(tmp_path, 2**62), file, repeat(piece, 100))
        with pytest.raises(StorageFull, match="min_free_bytes"):
            for _ in on_its_way:
                pass
        assert file.size < 100 << 20
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_adopted(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="durable"):
        storage.adopt(tmp_path, tmp_path / "gone", Path("instances/x.dcm"))
