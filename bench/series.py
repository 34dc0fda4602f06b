"""A CT series through a model of slices: the worker's whole way, beside what decoding and inference take alone.

    python -m bench.series --slices 300 --rounds 5 --json series.json

Generated slices of 512 x 512 pixels; the network is the shipped one with an attention of random weights, and reads each
of them. The whole way: files opened and examined, sorted, decoded by the worker's decoders, preprocessed, inferred, the
report and the picture built. Alone: the same files decoded and the same inputs inferred, one after the other in this
process, with nothing before, between or after; once with and once without the preprocessing. Ways take turns.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread

from bench.figures import Figures, arguments_of
from bench.images import make_images
from models import registry
from models.preprocess import apply
from models.registry import Bundle
from models.runner import LiteRtRunner, SeriesRunner
from node.settings import Settings
from tests.support.result_samples import provenance
from tests.support.series import series_document
from workers.analysis import SourceInput, analyse, limits_for, terms_for
from workers.loaded import Loaded
from workers.pixels import read_grey
from workers.results import build_results
from workers.sandbox import Decoders, JobFiles

_WIDTH = 64
_KEPT = ("invert", "resize_pad", "channels", "scale")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    arguments = arguments_of(parser, rounds=5)
    settings = Settings()
    figures = Figures("series", "ms")
    decoders = Decoders(terms_for(settings.work))
    with tempfile.TemporaryDirectory() as name:
        paths = _slices(Path(name) / "files", arguments.slices)
        single = registry.load("cxr-pneumonia")
        bundle = _of_slices(single, Path(name) / "model", arguments.slices)
        runner = LiteRtRunner(single)
        model = Loaded(bundle, SeriesRunner(bundle, runner))
        steps = bundle.manifest.preprocessing
        inputs = [apply(steps, read_grey(path)).array for path in paths]

        def whole() -> None:
            found = analyse(model, [SourceInput(path) for path in paths], JobFiles(decoders, limits_for(settings.work)))
            if not found.analysed:
                raise SystemExit(found.reason)
            build_results(found.sources, provenance())

        def alone() -> None:
            for path, array in zip(paths, inputs, strict=True):
                read_grey(path)
                runner.run(array[np.newaxis])

        def prepared() -> None:
            for path in paths:
                runner.run(apply(steps, read_grey(path)).array[np.newaxis])

        ways: dict[str, Callable[[], None]] = {
            "the worker": whole,
            "decode, infer": alone,
            "decode, prepare, infer": prepared,
        }
        for number in range(-1, arguments.rounds):
            for way in sorted(ways, reverse=bool(number % 2)):
                began = time.perf_counter()
                ways[way]()
                if number >= 0:
                    figures.add(number, f"{arguments.slices} slices", way, (time.perf_counter() - began) * 1e3)
    decoders.close()
    figures.report(arguments, against="decode, infer")


def _slices(folder: Path, count: int) -> list[Path]:
    """An axial series, 1 mm from slice to slice; no two slices are equal, as those would be inferred once."""
    paths = make_images("CT", folder, count)
    for place, path in enumerate(paths):
        image = dcmread(path)
        image.ImagePositionPatient = [0, 0, place]
        image.PixelData = image.PixelData[2 * place :] + image.PixelData[: 2 * place]
        image.save_as(path)
    return paths


def _of_slices(single: Bundle, folder: Path, slices: int) -> Bundle:
    """A bundle of slices around a network of single images."""
    shutil.copytree(single.folder, folder)
    random = np.random.default_rng(7)
    with np.load(single.weights) as held:
        arrays: dict[str, Any] = dict(held)
    channels = arrays["logits/kernel"].shape[0]
    for part, shape in {"content": (channels, _WIDTH), "gate": (channels, _WIDTH), "score": (_WIDTH, 1)}.items():
        arrays[f"attention/{part}"] = random.normal(0, 0.1, shape).astype(np.float32)
    weights = folder / single.manifest.file("weights")
    np.savez(weights, allow_pickle=False, **arrays)
    manifest = single.manifest
    parts = type(manifest).model_validate(series_document(folder, slices))
    changed = manifest.model_copy(
        update={
            "architecture": manifest.architecture.model_copy(update={"slices": slices, "pooling": "attention"}),
            "series": parts.series,
            "admission": parts.admission,
            # A fixed window, as CT has: no percentiles.
            "preprocessing": (parts.preprocessing[0], *(one for one in manifest.preprocessing if one.step in _KEPT)),
        }
    )
    return replace(single, folder=folder, manifest=changed)


if __name__ == "__main__":
    main()
