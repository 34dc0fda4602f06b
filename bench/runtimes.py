"""The shipped model in other runtimes than the node's: are the numbers the same, and which is faster.

    python -m pip install --require-hashes -r requirements-bench.lock
    python -m bench.runtimes --images 200 --rounds 60 --json runtimes.json

First every runtime reads the same real radiographs, prepared as the node prepares them, and its logits, features and
decisions are held against those of the node's runner; only then they are timed, one image at a time, all in turn within
each round. OpenVINO reads the same LiteRT file as the node; ONNX Runtime one that tf2onnx makes of it. All
have the same number of threads.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.figures import Figures, arguments_of
from models import registry
from models.compile import compiled
from models.contracts import FloatArray
from models.preprocess import apply, grey_from_uint8
from models.runner import KerasRunner, LiteRtRunner
from tests.support.shared import shared_data

NODE = "LiteRT (the node)"
_PICTURES = {".png", ".jpg", ".jpeg"}

Pair = tuple[FloatArray, FloatArray]
"""logits (1, labels), features (1, h, w, channels)"""

Run = Callable[[FloatArray], Pair]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cxr-pneumonia")
    parser.add_argument("--data", type=Path, help="folder of radiographs; default: cxr of the shared data")
    parser.add_argument("--images", type=int, default=200, help="radiographs on which the numbers are compared")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keras", action="store_true", help="Keras inside tf.function beside them")
    arguments = arguments_of(parser, rounds=60)
    bundle = registry.load(arguments.model)
    figures = Figures("runtimes", "ms")
    batches = prepared(bundle, arguments.data or shared_data() / "cxr", arguments.images)
    with tempfile.TemporaryDirectory() as name:
        runs: dict[str, Run] = {}
        for runtime, load in loaders(bundle, Path(name), arguments).items():
            began = time.perf_counter()
            run = load()
            run(batches[0])
            print(f"{runtime:<20} loaded and warm in {time.perf_counter() - began:.2f} s")
            runs[runtime] = run
        threshold = _logit_of_threshold(bundle)
        _tell_differences(runs, batches, threshold)
        for number in range(-3, arguments.rounds):
            batch = batches[number % len(batches)]
            for runtime, run in runs.items():
                began, began_cpu = time.perf_counter(), time.process_time()
                run(batch)
                took, took_cpu = time.perf_counter() - began, time.process_time() - began_cpu
                if number >= 0:
                    figures.add(number, f"wall, {arguments.threads} threads", runtime, took * 1e3)
                    figures.add(number, f"CPU, {arguments.threads} threads", runtime, took_cpu * 1e3)
    figures.report(arguments, against=NODE)


def prepared(bundle: registry.Bundle, folder: Path, count: int) -> list[FloatArray]:
    """float32 (1, rows, columns, channels) of so many pictures, drawn by a fixed seed."""
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    if not pictures:
        raise SystemExit(f"no pictures below {folder}")
    chosen = random.Random(1).sample(pictures, min(count, len(pictures)))
    read = (np.asarray(Image.open(path).convert("L"), dtype=np.uint8) for path in chosen)
    return [apply(bundle.manifest.preprocessing, grey_from_uint8(one)).array[np.newaxis] for one in read]


def loaders(bundle: registry.Bundle, folder: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], Run]]:
    threads: int = arguments.threads
    found: dict[str, Callable[[], Run]] = {
        NODE: lambda: _of(LiteRtRunner(bundle, threads)),
        "ONNX Runtime": lambda: _onnx(bundle, folder, threads),
        "OpenVINO f32": lambda: _openvino(bundle, threads, "f32"),
        "OpenVINO bf16": lambda: _openvino(bundle, threads, "bf16"),
    }
    if arguments.keras:
        found["Keras, tf.function"] = lambda: _of(KerasRunner(bundle))
    return found


def _of(runner: LiteRtRunner | KerasRunner) -> Run:
    def run(batch: FloatArray) -> Pair:
        forward = runner.run(batch)
        return forward.logits, forward.features

    return run


def _onnx(bundle: registry.Bundle, folder: Path, threads: int) -> Run:
    import onnxruntime  # noqa: PLC0415 - of the `bench` extra
    from tf2onnx.convert import from_tflite  # noqa: PLC0415

    path = folder / "model.onnx"
    from_tflite(str(compiled(bundle)), opset=17, output_path=str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    return lambda batch: _by_rank(session.run(None, {entry: batch}))


def _openvino(bundle: registry.Bundle, threads: int, precision: str) -> Run:
    import openvino  # noqa: PLC0415 - of the `bench` extra

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled_model = core.compile_model(core.read_model(str(compiled(bundle))), "CPU", options)
    return lambda batch: _by_rank(list(compiled_model(batch).values()))


def _by_rank(outputs: list[Any]) -> Pair:
    """Names and their order differ between runtimes."""
    by_rank = {one.ndim: one for one in outputs}
    return by_rank[2], by_rank[4]


def _logit_of_threshold(bundle: registry.Bundle) -> float:
    """Of the first label: the logit at which the calibrated probability is the operating point's threshold."""
    label = bundle.manifest.labels[0].key
    point = next(one for one in bundle.manifest.operating_points if one.label == label)
    curve = bundle.manifest.calibration.labels[label]
    return float((np.log(point.threshold / (1 - point.threshold)) - curve.intercept) / curve.slope)


def _tell_differences(runs: dict[str, Run], batches: list[FloatArray], threshold: float) -> None:
    expected = [runs[NODE](batch) for batch in batches]
    print(f"{len(batches)} radiographs; largest differences to {NODE}; logits beyond {threshold:.3f} are positive")
    for runtime, run in runs.items():
        got = [run(batch) for batch in batches]
        pairs = list(zip(got, expected, strict=True))
        logits = max(float(np.abs(a[0] - b[0]).max()) for a, b in pairs)
        features = max(float(np.abs(a[1] - b[1]).max()) for a, b in pairs)
        changed = sum(bool(((a[0] > threshold) != (b[0] > threshold)).any()) for a, b in pairs)
        print(f"{runtime:<20} logits {logits:.1e}  features {features:.1e}  decisions changed {changed}")


if __name__ == "__main__":
    main()
