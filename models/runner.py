"""Running a network. The only place that loads Keras or LiteRT at run time, and only when asked to.

On a CPU the network runs in LiteRT, which loads in milliseconds and equals Keras within 1e-5; on a GPU in Keras.
A runner belongs to one thread, or to those that take turns at it: LiteRT's interpreter keeps its tensors between calls.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from models.comparison import compared_logits
from models.contracts import FloatArray
from models.errors import ArchitectureError, GoldenError, PreprocessError, RuntimeUnavailable
from models.gate import pooled, require_fit
from models.preprocess import apply, grey_from_uint8
from models.registry import Bundle
from models.series import attention_of

GOLDEN_TOLERANCE = 1e-3
"""In logits, or of the largest logit of a test vector where that is above 1: rounding grows with the numbers. Runtimes
differ by about 1e-5, a wrong preprocessing or a broken conversion by far more."""

Accelerator = Literal["auto", "cpu", "gpu"]
Turn = AbstractContextManager[object]
"""Held for one pass of a network, by whoever shares a runner or the processor."""

_ALONE: Turn = nullcontext()


@dataclass(frozen=True)
class Forward:
    """What one pass gives.

    logits: float32 (N, labels). features: float32 (N, h, w, channels). gradients: float32 (N, labels, h, w, channels)
    of the logits with respect to the features; None where the head is linear and the gradient known beforehand.
    Of series: features float32 (N, slices, h, w, channels), and attention float32 (N, slices), which adds up to 1.
    """

    logits: FloatArray
    features: FloatArray
    gradients: FloatArray | None = None
    attention: FloatArray | None = None


class Runner(Protocol):
    """A loaded network. ``head`` is the pooled linear layer's weight, float32 (channels, labels); None for others."""

    @property
    def head(self) -> FloatArray | None: ...

    def run(self, batch: FloatArray) -> Forward:
        """batch: float32 (N, rows, columns, channels) as the bundle's preprocessing leaves it; of series (N, slices,
        rows, columns, channels)."""
        ...


class ImageRunner(Runner, Protocol):
    """One of single images. at_once: images of a pass, where many are coming: with more the first only wait longer."""

    @property
    def at_once(self) -> int: ...


@runtime_checkable
class ReadsSlices(Runner, Protocol):
    """One of series."""

    def run_slices(self, slices: Iterable[FloatArray], places: Sequence[int]) -> Forward:
        """A pass over one series whose slices are looked at as they come, and not kept.

        slices: each float32 (rows, columns, channels), none of them twice. places: for every slice of the series, which
        of them it is. Returns as `run` of one series; raises what ``slices`` raises.
        """
        ...


def visible_gpus() -> list[str]:
    """Indices (or UUIDs) of the NVIDIA devices this process may use; found without loading TensorFlow."""
    devices = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not devices:
        return devices
    return [index.strip() for index in allowed.split(",") if index.strip() not in {"", "-1"}]


def load_runner(bundle: Bundle, accelerator: Accelerator = "auto", turn: Turn = _ALONE) -> Runner:
    """Load a bundle's network and hold it against the bundle's own test vectors. turn: taken for every pass.

    Raises:
        GoldenError: it answers the test vectors differently.
        ArchitectureError: the weights do not fit the architecture.
        RuntimeUnavailable: the runtime, or the GPU asked for, cannot be had.
    """
    single = _runner(bundle, accelerator, turn)
    runner = single if bundle.manifest.architecture.slices is None else SeriesRunner(bundle, single)
    check_golden(bundle, runner)
    return runner


def _runner(bundle: Bundle, accelerator: Accelerator, turn: Turn) -> ImageRunner:
    if accelerator == "gpu" and not visible_gpus():
        raise RuntimeUnavailable("no GPU is visible to this process; set the accelerator to auto or cpu")
    if accelerator != "cpu" and visible_gpus():
        return KerasRunner(bundle, needs_gpu=accelerator == "gpu", turn=turn)
    if bundle.manifest.runtime.cpu == "keras":
        return KerasRunner(bundle, turn=turn)
    return LiteRtRunner(bundle, turn=turn)


def check_golden(bundle: Bundle, runner: Runner) -> float:
    """The largest difference to the bundle's own logits, on the scale of GOLDEN_TOLERANCE.

    Raises GoldenError where it exceeds GOLDEN_TOLERANCE or this release prepares the bundle's test picture differently,
    ArchitectureError where the bundle's gate does not fit.
    """
    _check_preprocessing(bundle)
    inputs, expected = _golden(bundle)
    passes = [runner.run(one[np.newaxis]) for one in inputs]
    require_fit(bundle, passes[0].features)
    worst = _off(bundle, np.concatenate([one.logits for one in passes]), expected)
    return worst if bundle.manifest.priors is None else max(worst, _off(bundle, *compared_logits(bundle, runner)))


def _off(bundle: Bundle, got: FloatArray, expected: FloatArray) -> float:
    if got.shape != expected.shape:
        raise GoldenError(f"bundle {bundle.manifest.id} answers in shape {got.shape}, not {expected.shape}")
    scale = np.maximum(1.0, np.abs(expected).max(axis=1, keepdims=True))
    worst = float((np.abs(got - expected) / scale).max())
    if not worst <= GOLDEN_TOLERANCE:
        raise GoldenError(f"bundle {bundle.manifest.id} answers its test vectors {worst:g} off; install it again")
    return worst


def _check_preprocessing(bundle: Bundle) -> None:
    """A picture, uint8, and what the steps made of it where the bundle was made; not every bundle has one."""
    try:
        with np.load(bundle.golden, allow_pickle=False) as golden:
            if "raw" not in golden.files:
                return
            raw, expected = golden["raw"], golden["raw_input"].astype(np.float32)
        got = apply(bundle.manifest.preprocessing, grey_from_uint8(raw)).array
    except (KeyError, ValueError, OSError, PreprocessError, zipfile.BadZipFile) as error:
        raise GoldenError(f"bundle {bundle.manifest.id} has no readable test picture; install it again") from error
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    if got.shape != expected.shape or not float(np.abs(got - expected).max()) / scale <= GOLDEN_TOLERANCE:
        raise GoldenError(f"this release prepares the test picture of bundle {bundle.manifest.id} differently")


def _golden(bundle: Bundle) -> tuple[FloatArray, FloatArray]:
    """Inputs and logits of the test vectors. Raises GoldenError.

    Series share slices, hence ``inputs`` holds each of them once and ``series`` says which make up a series, in order.
    """
    architecture = bundle.manifest.architecture
    try:
        with np.load(bundle.golden, allow_pickle=False) as golden:
            inputs, expected = golden["inputs"].astype(np.float32), golden["logits"].astype(np.float32)
            if architecture.slices is not None:
                series = golden["series"].astype(np.int64)
                if series.ndim != 2 or series.shape[1] != architecture.slices or inputs.ndim != 4:
                    raise GoldenError(
                        f"bundle {bundle.manifest.id} has no test vectors of {architecture.slices} slices"
                    )
                inputs = inputs[series]
    except (KeyError, ValueError, IndexError, OSError, zipfile.BadZipFile) as error:
        raise GoldenError(f"bundle {bundle.manifest.id} has no readable test vectors; install it again") from error
    if not len(inputs) or inputs.shape[-3:] != architecture.input_shape or expected.ndim != 2:
        raise GoldenError(f"bundle {bundle.manifest.id} has no test vectors of its input's shape")
    return inputs, expected


def head_weights(bundle: Bundle) -> FloatArray | None:
    """float32 (channels, labels) of a pooled linear head; None for other heads. Raises ArchitectureError."""
    if bundle.manifest.architecture.head != "gap_dense":
        return None
    try:
        with np.load(bundle.weights, allow_pickle=False) as arrays:
            kernel: FloatArray = arrays["logits/kernel"].astype(np.float32)
    except (KeyError, ValueError, OSError) as error:
        raise ArchitectureError(f"bundle {bundle.manifest.id} has no weights of a linear head") from error
    return kernel


class LiteRtRunner:
    """LiteRT on the CPU; the network is compiled from the bundle's weights once per machine."""

    head: FloatArray | None
    at_once = 1

    def __init__(self, bundle: Bundle, threads: int | None = None, turn: Turn = _ALONE) -> None:
        self.head = head_weights(bundle)
        self._turn = turn
        self._interpreter = _interpreter(bundle, threads or os.cpu_count() or 1)
        self._input: int = self._interpreter.get_input_details()[0]["index"]
        by_rank = {len(output["shape"]): output["index"] for output in self._interpreter.get_output_details()}
        self._logits, self._features = by_rank[2], by_rank[4]

    def run(self, batch: FloatArray) -> Forward:
        """One image at a time: LiteRT gains nothing from larger batches, and its memory stays bounded."""
        parts = [self._one(image) for image in batch]
        return Forward(np.concatenate([p.logits for p in parts]), np.concatenate([p.features for p in parts]))

    def _one(self, image: FloatArray) -> Forward:
        interpreter = self._interpreter
        with self._turn:
            interpreter.set_tensor(self._input, np.ascontiguousarray(image[np.newaxis], dtype=np.float32))
            interpreter.invoke()
            return Forward(interpreter.get_tensor(self._logits), interpreter.get_tensor(self._features))


def _interpreter(bundle: Bundle, threads: int) -> Any:
    from models.compile import compiled  # noqa: PLC0415 - run-time only

    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - run-time only
    except ImportError as error:
        raise RuntimeUnavailable("LiteRT cannot be loaded; install ai-edge-litert for this platform") from error
    path = compiled(bundle)
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        # Left by a full disk or an older runtime: the next attempt compiles it again.
        path.unlink(missing_ok=True)
        raise RuntimeUnavailable(f"model {bundle.manifest.id} was compiled badly here; the file is removed") from error
    return interpreter


class SeriesRunner:
    """Series through a runner of single images: each slice by itself, pooled by the bundle's attention.

    A network over the whole stack would hold every slice's layers at once, and is not faster (`bench/explain.py`). A
    slice that stands in a series more than once is run once.
    """

    def __init__(self, bundle: Bundle, slices: ImageRunner) -> None:
        self._slices, self._attention = slices, attention_of(bundle)

    @property
    def head(self) -> FloatArray | None:
        """Of the slices' own linear layer, which is the series'."""
        return self._slices.head

    def run(self, batch: FloatArray) -> Forward:
        """batch: float32 (N, slices, rows, columns, channels)."""
        passes = [self._one(stack) for stack in batch]
        logits, features = (np.concatenate([getattr(one, name) for one in passes]) for name in ("logits", "features"))
        return Forward(logits, features, attention=np.concatenate([one.attention for one in passes]))

    def run_slices(self, slices: Iterable[FloatArray], places: Sequence[int]) -> Forward:
        """As `ReadsSlices` says."""
        found = [self._slices.run(some) for some in _batches(self._slices.at_once, slices)]
        features = np.concatenate([one.features for one in found])
        logits = np.concatenate([one.logits for one in found])
        if len(places) > len(features):
            features, logits = features[places], logits[places]
        weights = self._attention.weights(pooled(features))
        return Forward((weights @ logits)[np.newaxis], features[np.newaxis], attention=weights[np.newaxis])

    def _one(self, stack: FloatArray) -> Forward:
        first, places = _distinct(stack)
        return self.run_slices((stack[index] for index in first), places)


def _batches(count: int, slices: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """float32 (N, rows, columns, channels), N being that many; the last may have fewer."""
    coming = iter(slices)
    while some := list(islice(coming, count)):
        yield some[0][np.newaxis] if len(some) == 1 else np.stack(some)


def _distinct(stack: FloatArray) -> tuple[list[int], list[int]]:
    """Where each different slice stands first, and for every slice which of those it is. Equals are neighbours."""
    first, place = [0], [0]
    for index in range(1, len(stack)):
        if not np.array_equal(stack[index], stack[first[-1]]):
            first.append(index)
        place.append(len(first) - 1)
    return first, place


class KerasRunner:
    """Keras inside tf.function: for GPUs, and for heads whose maps need a gradient."""

    head: FloatArray | None
    at_once = 16

    def __init__(self, bundle: Bundle, *, needs_gpu: bool = False, turn: Turn = _ALONE) -> None:
        self._turn = turn
        tf = _tensorflow(needs_gpu=needs_gpu)
        from models.networks import network_of  # noqa: PLC0415 - run-time only

        model = network_of(bundle)
        self.head = head_weights(bundle)
        self._forward = linear_forward(tf, model) if self.head is not None else gradient_forward(tf, model)

    def run(self, batch: FloatArray) -> Forward:
        """The whole batch in one pass."""
        with self._turn:
            features, logits, *gradients = self._forward(batch)
            return Forward(logits.numpy(), features.numpy(), gradients[0].numpy() if gradients else None)


def _tensorflow(*, needs_gpu: bool) -> Any:
    try:
        import tensorflow as tf  # noqa: PLC0415 - run-time only
    except ImportError as error:
        raise RuntimeUnavailable("TensorFlow is not installed; install radnode[cpu] or radnode[gpu]") from error
    devices = tf.config.list_physical_devices("GPU")
    if needs_gpu and not devices:
        raise RuntimeUnavailable("TensorFlow sees no GPU; check the driver, and that radnode[gpu] is installed")
    try:
        for device in devices:
            tf.config.experimental.set_memory_growth(device, True)
    except RuntimeError as error:
        raise RuntimeUnavailable("TensorFlow was in use before the model was loaded; restart the worker") from error
    # TF32 rounds products to ten bits, which the golden tolerance is there to notice.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return tf


def linear_forward(tf: Any, model: Any) -> Any:
    """tf.function: batch to (features, logits)."""
    return tf.function(lambda images: model(images, training=False), reduce_retracing=True)


def gradient_forward(tf: Any, model: Any) -> Any:
    """tf.function: batch to (features, logits, gradients (N, labels, h, w, channels)).

    Only the head is differentiated, once for all labels; the body runs once.
    """
    features_tensor, logits_tensor = model.outputs
    body = type(model)(model.inputs, features_tensor)
    head = type(model)(features_tensor, logits_tensor)

    def forward(images: Any) -> tuple[Any, Any, Any]:
        features = body(images, training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = head(features, training=False)
        return features, logits, tape.batch_jacobian(logits, features)

    return tf.function(forward, reduce_retracing=True)
