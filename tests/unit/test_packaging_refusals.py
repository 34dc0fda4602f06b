"""Zips nobody should open: each is refused with its reason, and nothing of it is left in the store.

They are taken unsigned here, so that what refuses them is the judge of zips and not the signature.
"""

from __future__ import annotations

import io
import json
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import ArchiveError, BundleError, BundleFileError, DigestError, ManifestError
from models.packaging import Limits, pack, unpack
from tests.support import bundles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundles.hollow_bundle(tmp_path / "bundle")


def member(name: str, **changes: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    return info


def zipped(folder: Path, *extra: tuple[zipfile.ZipInfo, bytes], without: str = "") -> Path:
    """The bundle's own files, and whatever an enemy adds."""
    out = folder.parent / "hostile.zip"
    with zipfile.ZipFile(out, "w") as target:
        for path in sorted(folder.iterdir()):
            if path.name != without:
                target.writestr(member(path.name), path.read_bytes())
        for info, data in extra:
            target.writestr(info, data)
    return out


def entries(data: bytes | bytearray) -> list[int]:
    """Where each entry of the zip's directory begins (APPNOTE 4.3.12); the npz files inside have directories too."""
    count, _, at = struct.unpack_from("<HLL", data, len(data) - 12)
    found = []
    for _ in range(count):
        found.append(at)
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return found


def refused(packed: Path, match: str, error: type[BundleError] = ArchiveError, limits: Limits | None = None) -> None:
    store = packed.parent / "store"
    with pytest.raises(error, match=match):
        unpack(packed, store, {}, allow_unsigned=True, limits=limits)
    assert list(store.rglob("*")) == []
    assert not (packed.parent / "escaped").exists()


def test_the_same_zip_without_the_attack_is_taken(folder: Path) -> None:
    found = unpack(zipped(folder), folder.parent / "store", {}, allow_unsigned=True)
    assert found.bundle.manifest.id == "test-model"


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/escaped",
        "a/../../escaped",
        "..\\escaped",
        "C:escaped",
        "a//b",
        "./model.json",
        "x\ny",
        "\u00e9.md",
    ],
)
def test_names_that_lead_elsewhere_are_refused(folder: Path, name: str) -> None:
    refused(zipped(folder, (member(name), b"x")), "a name that no bundle's file has")


def test_a_name_cut_off_by_a_zero_byte_is_refused(folder: Path) -> None:
    data = zipped(folder, (member("model.jsonZpy"), b"x")).read_bytes().replace(b"model.jsonZpy", b"model.json\0py")
    hostile = folder.parent / "zero.zip"
    hostile.write_bytes(data)
    refused(hostile, "a name that no bundle's file has")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_links_and_devices_are_refused(folder: Path, kind: int) -> None:
    info = member("weights.npz", external_attr=(kind | 0o777) << 16)
    refused(zipped(folder, (info, b"/etc/passwd"), without="weights.npz"), "no regular file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["weights.npz", "WEIGHTS.npz"])
def test_a_name_that_comes_twice_is_refused(folder: Path, name: str) -> None:
    refused(zipped(folder, (member(name), b"other")), "one name twice")


def test_a_file_that_is_a_folder_too_is_refused(folder: Path) -> None:
    refused(zipped(folder, (member("MODEL_CARD.md/inside"), b"x")), "both a file and a folder")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(folder: Path, method: int) -> None:
    refused(zipped(folder, (member("a.md", compress_type=method), b"x")), "compressed in an unknown way")


def test_encrypted_members_are_refused(folder: Path) -> None:
    data = bytearray(zipped(folder).read_bytes())
    data[entries(data)[0] + 8] |= 1
    hostile = folder.parent / "encrypted.zip"
    hostile.write_bytes(data)
    refused(hostile, "encrypted")


@pytest.mark.parametrize("name", ["helper.py", "weights.h5", "weights.pkl", "model.keras", "notes.md"])
def test_files_nobody_listed_are_refused(folder: Path, name: str) -> None:
    refused(zipped(folder, (member(name), b"x")), "does not list")


def test_a_listed_file_that_is_missing_is_refused(folder: Path) -> None:
    refused(zipped(folder, without="golden.npz"), r"lacks golden\.npz")
    refused(zipped(folder, without="model.json"), r"no model\.json")


@pytest.mark.parametrize("name", ["weights.h5", "weights.pkl", "weights.keras", "weights.py", "weights", "weights.npy"])
def test_listed_files_of_the_wrong_kind_are_refused(folder: Path, name: str) -> None:
    manifest = bundles.document(folder)
    (folder / "weights.npz").rename(folder / name)
    manifest["files"][0]["path"] = name
    bundles.write_manifest(folder, manifest)
    refused(zipped(folder), "a bundle's weights is no")
    with pytest.raises(ArchiveError, match="a bundle's weights is no"):
        pack(folder, folder.parent / "own.zip")


@pytest.mark.parametrize("part", ["weights.npz", "golden.npz", "MODEL_CARD.md", "model.json"])
def test_one_changed_byte_of_a_file_is_refused_without_a_signature_too(folder: Path, part: str) -> None:
    data = bytearray((folder / part).read_bytes())
    place = data.index(b'"1.0.0"') if part == "model.json" else len(data) // 2
    data[place] ^= 1
    (folder / part).write_bytes(data)
    expected = ManifestError if part == "model.json" else DigestError
    # A changed array may be found out by the judge of arrays first.
    with pytest.raises((expected, ArchiveError)):
        unpack(zipped(folder), folder.parent / "store", {}, allow_unsigned=True)


@pytest.mark.parametrize("architecture", ["lambda", "Lambda", "os.system", "efficientnet_lite0; import os"])
def test_an_architecture_that_is_not_ours_is_refused(folder: Path, architecture: str) -> None:
    manifest = bundles.document(folder)
    manifest["architecture"]["name"] = architecture
    bundles.write_manifest(folder, manifest)
    refused(zipped(folder), "architecture", ManifestError)


def with_weights(folder: Path, write: Callable[[Path], None]) -> Path:
    write(folder / "weights.npz")
    bundles.write_manifest(folder, bundles.document(folder))
    return zipped(folder)


class Trap:
    """Unpickling it would create a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("escaped"),))


def test_arrays_of_objects_are_refused_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)

    def write(path: Path) -> None:
        np.savez(path, allow_pickle=True, kernel=np.array([Trap()], dtype=object))

    refused(with_weights(folder, write), "only numbers are taken")


def test_a_pickle_in_the_place_of_an_array_is_refused_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as target:
            target.writestr("kernel.npy", pickle.dumps(Trap()))

    refused(with_weights(folder, write), r"weights\.npz is no readable npz")


@pytest.mark.parametrize("array", [np.array(["text"]), np.zeros(2, dtype=[("a", "f4")]), np.zeros(1, "M8[s]")])
def test_arrays_of_anything_but_numbers_are_refused(folder: Path, array: np.ndarray) -> None:
    refused(with_weights(folder, lambda path: np.savez(path, kernel=array)), "only numbers are taken")


def test_an_array_longer_than_its_bytes_is_refused(folder: Path) -> None:
    def write(path: Path) -> None:
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
        with zipfile.ZipFile(path, "w") as target:
            target.writestr("kernel.npy", stream.getvalue() + bytes(8))

    refused(with_weights(folder, write), "not as long as its header says")


def test_what_is_no_npz_is_refused(folder: Path) -> None:
    refused(with_weights(folder, lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n") and None), "no readable npz")
    (folder / "golden.npz").write_bytes(b"")
    np.savez(folder / "weights.npz", kernel=np.zeros(1))
    bundles.write_manifest(folder, bundles.document(folder))
    refused(zipped(folder), "no readable npz")


def test_a_bomb_in_the_zip_is_refused_before_it_is_inflated(folder: Path) -> None:
    bomb = (member("a.md", compress_type=zipfile.ZIP_DEFLATED), bytes(64 * 1024**2))
    refused(zipped(folder, bomb), "200 times its size")
    many = [(member(f"{n}.md", compress_type=zipfile.ZIP_DEFLATED), bytes(3 * 1024**2)) for n in range(8)]
    refused(zipped(folder, *many), "inflate to more than", limits=Limits(total_bytes=16 * 1024**2))


def test_a_bomb_among_the_arrays_is_refused(folder: Path) -> None:
    def write(path: Path) -> None:
        np.savez_compressed(path, kernel=np.zeros(32 * 1024**2, np.float32))

    refused(with_weights(folder, write), "200 times its size")


def test_a_member_larger_than_it_says_is_refused(folder: Path) -> None:
    """The directory says a byte less than the data hold: reading stops there, and the checksum tells."""
    data = bytearray(zipped(folder).read_bytes())
    directory = entries(data)[0]
    (size,) = struct.unpack_from("<L", data, directory + 24)
    struct.pack_into("<L", data, directory + 24, size - 1)
    hostile = folder.parent / "short.zip"
    hostile.write_bytes(data)
    store = folder.parent / "store"
    with pytest.raises(ArchiveError):
        unpack(hostile, store, {}, allow_unsigned=True)
    assert list(store.rglob("*")) == []


def test_members_that_share_their_bytes_are_refused(folder: Path) -> None:
    """Two entries of the directory lead to one and the same data."""
    data = bytearray(zipped(folder).read_bytes())
    first, second, *_ = entries(data)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    hostile = folder.parent / "overlap.zip"
    hostile.write_bytes(data)
    refused(hostile, "overlap")


@pytest.mark.parametrize("change", ["before", "after", "comment", "cut", "empty", "text"])
def test_what_is_not_exactly_a_zip_is_refused(folder: Path, change: str) -> None:
    data = zipped(folder).read_bytes()
    commented = data[:-2] + struct.pack("<H", 5) + b"hello"
    variants = {
        "before": b"#!/bin/sh\n" + data,
        "after": data + b"\0" * 30,
        "comment": commented,
        "cut": data[: len(data) // 2],
        "empty": b"",
        "text": b"not a zip, but long enough to be looked at",
    }
    hostile = folder.parent / "changed.zip"
    hostile.write_bytes(variants[change])
    refused(hostile, "zip")


def test_more_members_or_bytes_than_a_bundle_has_are_refused(folder: Path) -> None:
    refused(zipped(folder, *((member(f"{n}.md"), b"") for n in range(64))), "too many members")
    refused(zipped(folder), "larger than 100 bytes", limits=Limits(archive_bytes=100))
    refused(zipped(folder), r"model\.json in the zip is larger", limits=Limits(manifest_bytes=100))


def test_a_manifest_that_lists_a_file_elsewhere_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "model.json").read_text())
    manifest["files"][0]["path"] = "../weights.npz"
    (folder / "model.json").write_text(json.dumps(manifest))
    refused(zipped(folder), "lie inside the bundle", ManifestError)


def test_a_link_in_a_folder_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "weights.npz").rename(tmp_path / "elsewhere.npz")
    (folder / "weights.npz").symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(BundleFileError):
        pack(folder, tmp_path / "own.zip")
