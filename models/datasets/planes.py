"""Images to grey planes in [0, 1], once: later runs, other splits and other seeds find them in a cache folder.

A plane's key is the SHA-256 of its image's bytes; the folder's name is that of the preprocessing steps, so that a
change of either makes new planes and never a wrong one. An image whose size and time of change are as before is not
read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.datasets.finish import limit
from models.datasets.paths import shown
from models.datasets.pixels import Images
from models.datasets.samples import Problem, Problems, Sample
from models.datasets.shards import Place, ShardStore, write_whole
from models.errors import DatasetError, PreprocessError, RuntimeUnavailable
from models.preprocess import Steps, apply, grey_from_uint8

Progress = Callable[[int, int], None]
"""Called with (images done, images in all); from the caller's own thread."""

SHARD_BYTES = 64 << 20
"""Planes are written in pieces of this size: the most that a crash costs, and that is held in memory."""

_AHEAD_PER_THREAD = 8


@dataclass(frozen=True)
class Planes:
    """Planes of samples, mapped from disk and not in memory.

    samples: those whose every image could be used, in the order given. shape: (rows, columns) of a plane.
    problems: images that could not be used, and remarks.
    """

    samples: tuple[Sample, ...]
    shape: tuple[int, int]
    problems: tuple[Problem, ...]
    _places: tuple[tuple[Place, ...], ...]
    _store: ShardStore

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> FloatArray:
        """Planes of single images, float32 (n, rows, columns) in [0, 1].

        Raises DatasetError for a series, which has more than one plane: take :meth:`stack`.
        """
        answer = np.empty((len(indices), *self.shape), dtype=np.float32)
        for at, index in enumerate(indices):
            places = self._places[int(index)]
            if len(places) != 1:
                raise DatasetError(f"{shown(self.samples[int(index)].file)} begins a series of {len(places)} slices")
            answer[at] = self._store.plane(places[0])
        return answer

    def stack(self, index: int) -> FloatArray:
        """Every slice of one sample in its order, float32 (slices, rows, columns) in [0, 1]; one for a single image."""
        return np.stack([self._store.plane(place) for place in self._places[index]]).astype(np.float32)


def load(
    samples: Sequence[Sample],
    images: Images,
    plane_steps: Steps,
    cache: Path,
    *,
    progress: Progress | None = None,
    max_bad_fraction: float = 0.01,
    threads: int | None = None,
) -> Planes:
    """Planes of all samples, made where the cache lacks them.

    Args:
        plane_steps: up to the grey plane, as :func:`models.datasets.images.split_steps` gives them.
        cache: a folder that several processes may share; it may be removed at any time between runs.
        max_bad_fraction: of the images; so many may be missing or damaged, and are then listed in ``problems``.
        threads: that decode; None takes up to four.

    Raises:
        DatasetError: no sample, or more bad images than may be; the message counts them and names the first.
        RuntimeUnavailable: the cache folder cannot be written.
    """
    if not samples:
        raise DatasetError("no image is left to load")
    shape = _plane_shape(plane_steps)
    folder = cache / steps_key(plane_steps)
    store, known = ShardStore(folder, shape), _Known(folder, images)
    problems = Problems()
    if store.damaged:
        problems.note(folder.name, "damaged shards of the cache were made again", store.damaged)
    names = list(dict.fromkeys(name for sample in samples for name in sample.every_file))
    digests: dict[str, str] = {}
    pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1))
    maker = _Maker(images, plane_steps, store, known)
    pending = _Pending(store, max(1, SHARD_BYTES // (2 * shape[0] * shape[1])))
    try:
        for done, (name, made) in enumerate(_in_order(pool, maker, names), 1):
            try:
                digest, size_and_time, plane = made.result()
            except (DatasetError, PreprocessError) as error:
                problems.leave_out(shown(name), str(error))
            else:
                digests[name] = digest
                known.note(name, size_and_time, digest)
                if plane is not None:
                    pending.add(digest, plane)
            if progress is not None:
                progress(done, len(names))
        pending.write()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        known.save()
    limit(problems, len(names), max_bad_fraction, "images")
    usable = [sample for sample in samples if all(name in digests for name in sample.every_file)]
    if not usable:
        raise DatasetError("no image is left to load")
    places = tuple(tuple(store.places[digests[name]] for name in sample.every_file) for sample in usable)
    return Planes(tuple(usable), shape, problems.all(), places, store)


def steps_key(steps: Steps) -> str:
    """SHA-256 of the steps and of what they make of a test image: another release's arithmetic is another key."""
    rows, columns = np.mgrid[0:61, 0:47]
    probe = apply(steps, grey_from_uint8(((rows * 5 + columns * columns) % 251).astype(np.uint8))).array
    listed = json.dumps([step.model_dump(mode="json") for step in steps], sort_keys=True)
    return hashlib.sha256(listed.encode() + probe.astype(np.float16).tobytes()).hexdigest()


def _plane_shape(steps: Steps) -> tuple[int, int]:
    for step in steps:
        if step.step == "resize_pad":
            return step.rows, step.columns
    raise DatasetError("planes need a resize_pad step, so that all have one shape")


def _in_order(
    pool: ThreadPoolExecutor, maker: _Maker, names: Sequence[str]
) -> Iterator[tuple[str, Future[tuple[str, tuple[int, int], NDArray[np.float16] | None]]]]:
    """Each name with its result, in order, a bounded number ahead: all at once would hold every plane in memory."""
    coming = iter(names)
    ahead = [(name, pool.submit(maker, name)) for name in islice(coming, _AHEAD_PER_THREAD * 4)]
    while ahead:
        yield ahead.pop(0)
        ahead.extend((name, pool.submit(maker, name)) for name in islice(coming, 1))


@dataclass(frozen=True)
class _Maker:
    images: Images
    steps: Steps
    store: ShardStore
    known: _Known

    def __call__(self, name: str) -> tuple[str, tuple[int, int], NDArray[np.float16] | None]:
        """Digest, size and time of change, and the plane unless the cache has it."""
        identity = self.images.identity(name)
        digest = self.known.digest(name, identity)
        if digest is not None and digest in self.store.places:
            return digest, identity, None
        digest = hashlib.sha256(self.images.content(name)).hexdigest()
        if digest in self.store.places:
            return digest, identity, None
        plane = apply(self.steps, self.images.read(name)).array[..., 0].astype(np.float16)
        return digest, identity, plane


class _Pending:
    """Planes on their way to a shard."""

    def __init__(self, store: ShardStore, most: int) -> None:
        self._store, self._most = store, most
        self._planes: dict[str, NDArray[np.float16]] = {}

    def add(self, digest: str, plane: NDArray[np.float16]) -> None:
        self._planes[digest] = plane
        if len(self._planes) >= self._most:
            self.write()

    def write(self) -> None:
        if self._planes:
            self._store.add(list(self._planes), np.stack(list(self._planes.values())))
            self._planes = {}


class _Known:
    """Size and time of change of the files seen, and their digests: a memory only, wrong in nothing but speed.

    Writers overwrite each other's, whole; what is lost is read again.
    """

    def __init__(self, folder: Path, images: Images) -> None:
        root = hashlib.sha256(str(images.folder.resolve()).encode()).hexdigest()[:16]
        self._path = folder / f"seen-{root}.txt"
        self._seen: dict[str, tuple[int, int, str]] = {}
        self._changed = False
        with suppress(OSError, ValueError, UnicodeDecodeError):
            for line in self._path.read_text("utf-8").splitlines():
                name, size, changed_ns, digest = json.loads(line)
                self._seen[name] = (int(size), int(changed_ns), str(digest))

    def digest(self, name: str, identity: tuple[int, int]) -> str | None:
        size, changed_ns, digest = self._seen.get(name, (-1, -1, ""))
        return digest if (size, changed_ns) == identity else None

    def note(self, name: str, identity: tuple[int, int], digest: str) -> None:
        entry = (*identity, digest)
        if self._seen.get(name) != entry:
            self._seen[name] = entry
            self._changed = True

    def save(self) -> None:
        if not self._changed:
            return
        lines = "\n".join(json.dumps([name, *entry]) for name, entry in list(self._seen.items()))
        try:
            write_whole(self._path, lines.encode())
        except OSError as error:
            raise RuntimeUnavailable(f"the cache folder {self._path.parent.name} cannot be written") from error
