"""Running a network. The only place that loads Keras or LiteRT at run time, and only when asked to.

On a CPU the network runs in LiteRT, which loads in milliseconds and equals Keras within 1e-5; on a GPU in Keras.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from models.contracts import FloatArray
from models.errors import GoldenError, RuntimeUnavailable
from models.registry import Bundle

GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Forward:
    """logits: float32 (N, labels). features: float32 (N, h, w, channels)."""

    logits: FloatArray
    features: FloatArray


class Runner(Protocol):
    """A loaded network. `head` is the linear layer's weight, float32 (channels, labels)."""

    head: FloatArray

    def run(self, batch: FloatArray) -> Forward:
        """batch: float32 (N, rows, columns, channels) as the bundle's preprocessing leaves it."""
        ...


def visible_gpus() -> list[str]:
    """Indices of the NVIDIA devices this process may use; found without loading TensorFlow."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        return [index for index in asked.split(",") if index.strip() not in {"", "-1"}]
    devices = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i, _ in enumerate(sorted(devices.iterdir()))] if devices.is_dir() else []


def load_runner(bundle: Bundle, accelerator: Literal["auto", "cpu", "gpu"] = "auto") -> Runner:
    """Load a bundle's network and hold it against the bundle's own test vectors.

    Raises GoldenError when it answers them differently, RuntimeUnavailable when the runtime cannot be had.
    """
    gpu = accelerator == "gpu" or (accelerator == "auto" and bool(visible_gpus()))
    kind = bundle.manifest.runtime.gpu if gpu else bundle.manifest.runtime.cpu
    runner: Runner = KerasRunner(bundle) if kind == "keras" else LiteRtRunner(bundle)
    check_golden(bundle, runner)
    return runner


def check_golden(bundle: Bundle, runner: Runner) -> None:
    """Raise GoldenError unless the runner gives the bundle's own answers within GOLDEN_TOLERANCE."""
    with np.load(bundle.golden, allow_pickle=False) as golden:
        inputs, logits = golden["inputs"].astype(np.float32), golden["logits"]
    got = np.concatenate([runner.run(one[np.newaxis]).logits for one in inputs])
    worst = float(np.abs(got - logits).max())
    if not worst <= GOLDEN_TOLERANCE:
        raise GoldenError(f"bundle {bundle.manifest.id} answers its test vectors {worst:g} off; install it again")


def head_weights(bundle: Bundle) -> FloatArray:
    """float32 (channels, labels) of the linear head."""
    with np.load(bundle.weights, allow_pickle=False) as arrays:
        return arrays["logits/kernel"].astype(np.float32)


class LiteRtRunner:
    """LiteRT on the CPU; the network is compiled from the bundle's weights once per machine."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - run-time only

        from models.compile import compiled  # noqa: PLC0415 - run-time only

        self.head = head_weights(bundle)
        self.interpreter: Any = Interpreter(str(compiled(bundle)), num_threads=threads or os.cpu_count() or 1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.outputs = {len(o["shape"]): o["index"] for o in self.interpreter.get_output_details()}

    def run(self, batch: FloatArray) -> Forward:
        """One image at a time: LiteRT gains nothing from larger batches, and its memory stays bounded."""
        parts = [self._one(image) for image in batch]
        return Forward(np.concatenate([p.logits for p in parts]), np.concatenate([p.features for p in parts]))

    def _one(self, image: FloatArray) -> Forward:
        self.interpreter.set_tensor(self.input, np.ascontiguousarray(image[np.newaxis], dtype=np.float32))
        self.interpreter.invoke()
        return Forward(
            self.interpreter.get_tensor(self.outputs[2]).copy(), self.interpreter.get_tensor(self.outputs[4]).copy()
        )


class KerasRunner:
    """Keras, compiled by tf.function; for GPUs."""

    def __init__(self, bundle: Bundle) -> None:
        try:
            import tensorflow as tf  # noqa: PLC0415 - run-time only
        except ImportError as error:
            raise RuntimeUnavailable("TensorFlow is not installed; install radnode[cpu] or radnode[gpu]") from error
        from models import backbones  # noqa: PLC0415 - run-time only

        shape = bundle.manifest.architecture
        model = backbones.build(shape.name, shape.input_shape, shape.outputs)
        backbones.load_weights(model, bundle.weights)
        self.head = head_weights(bundle)
        self.forward = tf.function(lambda images: model(images, training=False), reduce_retracing=True)

    def run(self, batch: FloatArray) -> Forward:
        features, logits = self.forward(batch)
        return Forward(logits.numpy(), features.numpy())
