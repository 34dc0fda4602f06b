"""What an explanation adds to a forward pass, and which way of reading a series is faster.

    python -m bench.explain --rounds 60 --series 12

Side by side in one process, interleaved round by round so that a busy moment hits both; medians. First the shipped
model: one pass through LiteRT against the same pass with the closed-form maps of every label. Then a series of slices
through its body with an attention of random weights: slice by slice with attention in NumPy, as the node serves it,
against one network over the whole stack, both in LiteRT; and how far their logits lie apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models import registry
from models.contracts import FloatArray
from models.explain import closed_form_maps, slice_map
from models.gate import pooled
from models.reading import maps_of
from models.runner import LiteRtRunner
from models.series import Attention


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", default="cxr-pneumonia")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--labels", type=int, default=14, help="Labels of the larger head that is measured beside.")
    parser.add_argument("--series", type=int, default=12, help="Slices of a series; 0 leaves this part out.")
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    _explanation(arguments.model, arguments.rounds, arguments.labels)
    if arguments.series:
        _series(arguments.model, arguments.series, arguments.side, max(5, arguments.rounds // 6))


def _explanation(model_id: str, rounds: int, labels: int) -> None:
    bundle = registry.load(model_id)
    runner = LiteRtRunner(bundle)
    random = np.random.default_rng(0)
    batch = random.uniform(-1, 1, (1, *bundle.manifest.architecture.input_shape)).astype(np.float32)
    channels = runner.run(batch).features.shape[-1]
    wide = random.normal(0, 1, (channels, labels)).astype(np.float32)
    found = _interleaved(
        rounds,
        {
            "pass": lambda: runner.run(batch),
            "pass and maps": lambda: maps_of(runner.run(batch), runner.head),
            f"pass and {labels} maps": lambda: closed_form_maps(runner.run(batch).features[0], wide),
        },
    )
    plain = found["pass"]
    print(f"{model_id}: one pass {1e3 * statistics.median(plain):.2f} ms, median of {rounds}")
    for name in list(found)[1:]:
        _compare(name, plain, found[name])


def _series(model_id: str, slices: int, side: int, rounds: int) -> None:
    """Both networks hold the same arrays: those of the model, which reads any side alike."""
    import keras  # noqa: PLC0415 - TensorFlow is needed for this part only

    from models.training.series import build_series  # noqa: PLC0415

    keras.utils.set_random_seed(1)
    bundle = registry.load(model_id)
    shape = bundle.manifest.architecture
    whole = build_series(shape.name, (side, side, 3), slices, shape.outputs, dropout=0.0)
    with np.load(bundle.weights) as held:
        for variable in whole.variables:
            if variable.path in held.files:
                variable.assign(held[variable.path].astype(np.float32))
    body = whole.get_layer("body")
    one = keras.Model(body.inputs, [body.outputs[0], whole.get_layer("logits")(_mean(body.outputs[0]))])
    arrays = {v.path.rpartition("/")[2]: np.asarray(v.value) for v in whole.get_layer("attention").variables}
    attention = Attention(arrays["content"], arrays["gate"], arrays["score"][:, 0])
    head = np.asarray(whole.get_layer("logits").kernel.value)
    stack = np.random.default_rng(0).uniform(-1, 1, (slices, side, side, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        single, series = (_compiled(model, Path(name) / f"{i}") for i, model in enumerate((one, whole)))

    def slice_by_slice() -> tuple[FloatArray, FloatArray]:
        parts = [_run(single, image[np.newaxis]) for image in stack]
        features = np.concatenate([part[4] for part in parts])
        weights = attention.weights(pooled(features))
        key = int(weights.argmax())
        return weights @ np.concatenate([part[2] for part in parts]), slice_map(features[key], weights[key], head)

    apart = np.abs(slice_by_slice()[0] - whole(stack[np.newaxis], training=False)[-1].numpy()).max()
    found = _interleaved(rounds, {"slice by slice": slice_by_slice, "whole stack": lambda: _run(series, stack[None])})
    print(f"series of {slices} slices, {side} pixels, median of {rounds}; logits {apart:.1e} from Keras")
    for way, times in found.items():
        print(f"  {way:<16} {1e3 * statistics.median(times):.1f} ms")


def _mean(features: Any) -> Any:
    from keras import ops  # noqa: PLC0415

    return ops.mean(features, axis=(1, 2))


def _compiled(model: Any, folder: Path) -> Any:
    import tensorflow as tf  # noqa: PLC0415
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    model.export(str(folder), format="tf_saved_model", verbose=False)
    flat = tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()
    interpreter = Interpreter(model_content=flat, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    return interpreter


def _run(interpreter: Any, batch: FloatArray) -> dict[int, FloatArray]:
    """Outputs by their rank, of which a network's are all different here but attention and logits of a series."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(batch))
    interpreter.invoke()
    return {len(out["shape"]): interpreter.get_tensor(out["index"]) for out in interpreter.get_output_details()}


def _interleaved(rounds: int, ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of every round of every way; three rounds before the first are thrown away."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 3):
        # Whoever comes second finds warmer caches: they take turns.
        for name in sorted(ways, reverse=bool(number % 2)):
            began = time.perf_counter()
            ways[name]()
            if number >= 3:
                times[name].append(time.perf_counter() - began)
    return times


def _compare(name: str, plain: list[float], other: list[float]) -> None:
    pairs = [after / before - 1 for before, after in zip(plain, other, strict=True)]
    added = statistics.median(other) / statistics.median(plain) - 1
    print(f"  {name:<16} adds {added:+.1%} by medians, {statistics.median(pairs):+.1%} median of pairs")


if __name__ == "__main__":
    main()
