"""The parts of one radiograph's job in milliseconds, and what share of them is decoding and the forward pass.

    python -m bench.infer --rounds 30 --json infer.json

One process as a worker is one, its decoder beside it, a radiograph of 2500 x 2048, and a result with a finding.
Each part is measured by itself, round by round; report and picture are built as for a job. highdicom is the same report
by the builder that the tests hold it against.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figures, arguments_of
from bench.radiographs import SOURCE, make_radiographs
from models.reading import read_image
from node.settings import Settings
from tests.support.highdicom_report import build_reference
from tests.support.result_samples import analysed, provenance
from workers.analysis import limits_for, terms_for
from workers.loaded import LoadedModels
from workers.pixels import drawn_uint8
from workers.results import build_results
from workers.sandbox import Decoders, JobFiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SOURCE)
    arguments = arguments_of(parser, rounds=30)
    settings = Settings()
    model = LoadedModels(settings).get("cxr-pneumonia")
    decoders = Decoders(terms_for(settings.work))
    figures = Figures("infer", "ms")
    with tempfile.TemporaryDirectory() as name:
        (path,) = make_radiographs(arguments.source, Path(name), 1)
        files = JobFiles(decoders, limits_for(settings.work))
        examined, image = files.examine(path), files.grey(path)
        picture = drawn_uint8(image)
        source = dataclasses.replace(analysed(examined.dataset, ["pneumonia"]), picture=picture)
        bare = dataclasses.replace(source, reading=dataclasses.replace(source.reading, explanations=()))
        parts: dict[str, Callable[[], object]] = {
            "examine": lambda: files.examine(path),
            "decode": lambda: files.grey(path),
            "forward and map": lambda: read_image(model.bundle, model.runner, image),
            "picture's source": lambda: drawn_uint8(image),
            "report": lambda: build_results([bare], provenance()),
            "report by highdicom": lambda: build_reference([bare], provenance()),
            "report and picture": lambda: build_results([source], provenance()),
        }
        for number in range(-3, arguments.rounds):
            for part, work in parts.items():
                began = time.perf_counter()
                work()
                took_ms = (time.perf_counter() - began) * 1e3
                if number >= 0:
                    figures.add(number, "radiograph", part, took_ms)
    decoders.close()
    figures.report(arguments, against="forward and map")


if __name__ == "__main__":
    main()
