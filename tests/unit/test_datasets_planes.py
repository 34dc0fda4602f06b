"""Planes come out of the cache as they went in, whatever crashes, races or is damaged beside them."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.contracts import FloatArray, GreyImage
from models.datasets import Sample, planes, shards
from models.datasets.pixels import GROUP, Images, find_pixel_reader, read_picture
from models.datasets.planes import Planes, load, steps_key
from models.errors import DatasetError, NoReadingError, RuntimeUnavailable
from models.preprocess import ResizePad, Steps, Window, apply, grey_from_uint8

STEPS: Steps = (Window(), ResizePad(rows=32, columns=24))


def picture(folder: Path, name: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30), dtype=np.uint8)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def sample(name: str, *more: str) -> Sample:
    return Sample(name, name, "s", {}, files=(name, *more) if more else ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(6):
        picture(tmp_path / "images", f"{index}.png", index)
    return tmp_path / "images"


SAMPLES = [sample(f"{index}.png") for index in range(6)]


def expected(folder: Path, name: str) -> FloatArray:
    plane: FloatArray = apply(STEPS, read_picture(folder / name)).array[..., 0].astype(np.float16).astype(np.float32)
    return plane


def assert_right(made: Planes, folder: Path) -> None:
    got = made.batch(range(len(made)))
    np.testing.assert_array_equal(got, np.stack([expected(folder, s.file) for s in made.samples]))


class Forbidden:
    """Images that may be looked at, and not opened."""

    def __init__(self, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Images, name: str) -> bytes:
            raise AssertionError(f"{name} was read again")

        monkeypatch.setattr(Images, "content", refuse)
        monkeypatch.setattr(Images, "read", refuse)
        self.images = images


def test_planes_are_those_of_the_steps_and_progress_counts_up(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    made = load(SAMPLES, Images(folder), STEPS, tmp_path / "c", progress=lambda done, of: calls.append((done, of)))
    assert_right(made, folder)
    assert (made.shape, made.problems, len(made)) == ((32, 24), (), 6)
    assert calls == [(done, 6) for done in range(1, 7)]


def test_a_second_run_opens_no_image(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(SAMPLES, Images(folder), STEPS, tmp_path / "c")
    wanted = np.stack([expected(folder, s.file) for s in reversed(SAMPLES)])
    Forbidden(Images(folder), monkeypatch)
    again = load(SAMPLES[::-1], Images(folder), STEPS, tmp_path / "c")
    np.testing.assert_array_equal(again.batch(range(6)), wanted)


def test_a_changed_image_is_made_again_and_other_steps_are_another_folder(folder: Path, tmp_path: Path) -> None:
    load(SAMPLES, Images(folder), STEPS, tmp_path / "c")
    picture(folder, "3.png", 99)
    assert_right(load(SAMPLES, Images(folder), STEPS, tmp_path / "c"), folder)
    other: Steps = (Window(), ResizePad(rows=32, columns=24, resample="bicubic"))
    load(SAMPLES, Images(folder), other, tmp_path / "c")
    assert {path.name for path in (tmp_path / "c").iterdir()} == {steps_key(STEPS), steps_key(other)}


def test_equal_images_share_a_plane_and_moved_ones_are_known_by_content(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    load([*SAMPLES, sample("copy.png")], Images(folder), STEPS, tmp_path / "c")
    folder.rename(tmp_path / "moved")
    before = sorted((tmp_path / "c").rglob("*.npy"))
    assert_right(load(SAMPLES, Images(tmp_path / "moved"), STEPS, tmp_path / "c"), tmp_path / "moved")
    assert sorted((tmp_path / "c").rglob("*.npy")) == before
    assert sum(np.load(path).shape[0] for path in before) == 6


def test_bad_images_are_listed_up_to_the_limit(folder: Path, tmp_path: Path) -> None:
    (folder / "4.png").write_bytes(b"no picture")
    (folder / "5.png").unlink()
    with pytest.raises(DatasetError, match=r"2 of 6 cannot be used.*'4\.png'.*'5\.png': '5\.png' is missing"):
        load(SAMPLES, Images(folder), STEPS, tmp_path / "c")
    made = load(SAMPLES, Images(folder), STEPS, tmp_path / "c", max_bad_fraction=0.4)
    assert [s.file for s in made.samples] == ["0.png", "1.png", "2.png", "3.png"]
    assert [(problem.where, problem.left_out) for problem in made.problems] == [("'4.png'", True), ("'5.png'", True)]
    assert_right(made, folder)
    with pytest.raises(DatasetError, match="no image is left"):
        load(SAMPLES[4:], Images(folder), STEPS, tmp_path / "c", max_bad_fraction=1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text(json.dumps({"digests": ["x"]})),
        lambda path: np.save(path, np.zeros((6, 8, 8), np.float16)),
    ],
)
def test_damaged_shards_are_made_again(folder: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    load(SAMPLES, Images(folder), STEPS, tmp_path / "c")
    (shard,) = (tmp_path / "c").rglob("*.npy")
    damage(shard)
    made = load(SAMPLES, Images(folder), STEPS, tmp_path / "c")
    assert_right(made, folder)
    assert [problem.what for problem in made.problems] == ["damaged shards of the cache were made again"]


def test_a_crash_while_writing_leaves_what_was_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planes, "SHARD_BYTES", 2 * 2 * 32 * 24)
    replace, written = Path.replace, list[Path]()

    def full_after_two(self: Path, target: Path) -> Path:
        if len(written) == 2:
            raise OSError("disk full")
        written.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_after_two)
        with pytest.raises(RuntimeUnavailable, match="cannot be written"):
            load(SAMPLES, Images(folder), STEPS, tmp_path / "c", threads=1)
    left = sorted(path.suffix for path in (tmp_path / "c").rglob("*") if path.is_file())
    assert left == [".json", ".npy"]
    assert_right(load(SAMPLES, Images(folder), STEPS, tmp_path / "c"), folder)


def test_what_killed_writers_left_is_swept_and_younger_files_are_not(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c" / steps_key(STEPS)
    cache.mkdir(parents=True)
    for name in (".tmp-old", ".tmp-new"):
        (cache / name).write_bytes(b"x")
    os.utime(cache / ".tmp-old", (0, 0))
    load(SAMPLES, Images(folder), STEPS, tmp_path / "c")
    assert [path.name for path in cache.glob(".tmp-*")] == [".tmp-new"]


def fill(folder: Path, cache: Path) -> None:
    load(SAMPLES, Images(folder), STEPS, cache)


def test_two_writers_do_not_disturb_each_other(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=fill, args=(folder, tmp_path / "c")) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert not list((tmp_path / "c").rglob(".tmp-*"))
    assert_right(load(SAMPLES, Images(folder), STEPS, tmp_path / "c"), folder)


def test_more_shards_than_may_be_open(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "SHARD_BYTES", 1)
    monkeypatch.setattr(shards, "MOST_OPEN", 2)
    made = load(SAMPLES, Images(folder), STEPS, tmp_path / "c")
    assert len(list((tmp_path / "c").rglob("*.npy"))) == 6
    assert_right(made, folder)
    assert_right(made, folder)


def test_a_series_is_a_stack_and_no_plane(folder: Path, tmp_path: Path) -> None:
    made = load([sample("2.png", "0.png", "1.png")], Images(folder), STEPS, tmp_path / "c")
    wanted = np.stack([expected(folder, name) for name in ("2.png", "0.png", "1.png")])
    np.testing.assert_array_equal(made.stack(0), wanted)
    with pytest.raises(DatasetError, match="series of 3 slices"):
        made.batch([0])


def test_images_of_an_archive_are_read_by_their_number(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (3, 28, 28), dtype=np.uint8)
    colour = np.repeat(grey[..., np.newaxis], 3, axis=3)
    np.savez(tmp_path / "x.npz", train_images=grey, test_images=colour, val_images=grey.astype(np.float32))
    images = Images(tmp_path)
    for part in ("train", "test"):
        np.testing.assert_array_equal(images.read(f"x.npz#{part}/2").pixels, grey[2])
    assert images.content("x.npz#train/0") != images.content("x.npz#train/1")
    with pytest.raises(DatasetError, match="has 3 images in train; there is no 3"):
        images.read("x.npz#train/3")
    with pytest.raises(DatasetError, match="no 8-bit image"):
        images.read("x.npz#val/0")
    with pytest.raises(DatasetError, match="outside"):
        images.read("../x.npz#train/0")


def test_sixteen_bits_are_not_clipped_to_eight(tmp_path: Path) -> None:
    pixels = np.arange(0, 64000, 1000, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    image = read_picture(tmp_path / "deep.png")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.voi is None


def test_dicom_goes_through_the_reader_given_and_its_errors_become_ours(tmp_path: Path) -> None:
    (tmp_path / "no_ending").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "old.dcm").write_bytes(b"no prefix")
    answer = grey_from_uint8(np.eye(16, dtype=np.uint8))

    def good(path: Path) -> GreyImage:
        return answer

    def failing(error: Exception) -> Callable[[Path], GreyImage]:
        def reader(path: Path) -> GreyImage:
            raise error

        return reader

    assert Images(tmp_path, good).read("no_ending") is Images(tmp_path, good).read("old.dcm") is answer
    with pytest.raises(DatasetError, match=r"'old\.dcm' cannot be read as DICOM \(ZeroDivisionError\)") as refused:
        Images(tmp_path, failing(ZeroDivisionError("NAME^OF"))).read("old.dcm")
    assert "NAME" not in str(refused.value)
    with pytest.raises(NoReadingError):
        Images(tmp_path, failing(NoReadingError("mine"))).read("old.dcm")


def test_an_absent_reader_is_said_by_name() -> None:
    with pytest.raises(DatasetError, match=f"no pixel reader 'nifti' is installed.*{GROUP}"):
        find_pixel_reader("nifti")
