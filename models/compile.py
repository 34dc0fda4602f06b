"""Once per machine: a bundle's weights become a LiteRT file.

The bundle holds its weights once, as arrays; what a runtime wants is derived from them and kept in a cache, under the
bundle's digest. TensorFlow does the conversion in a process of its own, so that the caller never loads it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from models.errors import RuntimeUnavailable
from models.registry import Bundle, load_bundle

TIMEOUT_S = 600.0


def cache_folder() -> Path:
    """`RADNODE_MODEL_CACHE`, else the user's cache folder."""
    configured = os.environ.get("RADNODE_MODEL_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radnode" / "models"


def target_of(bundle: Bundle) -> Path:
    """Where this machine keeps the LiteRT file of a bundle, made or not."""
    return cache_folder().resolve() / f"{bundle.identity.bundle_digest}.tflite"


def compiled(bundle: Bundle) -> Path:
    """The LiteRT file of a bundle, made now if this machine has none. Raises RuntimeUnavailable."""
    target = target_of(bundle)
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        done = subprocess.run(
            [sys.executable, "-m", "models.compile", str(bundle.folder.resolve()), "--target", str(target)],
            cwd=Path(__file__).resolve().parents[1],  # where `-m` finds this package, installed or not
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeUnavailable(f"model {bundle.manifest.id} cannot be compiled into {target.parent}") from error
    if done.returncode or not target.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeUnavailable(f"model {bundle.manifest.id} was not compiled for this machine: {last}")
    return target


def compile_bundle(bundle: Bundle, target: Path) -> None:
    """Convert and move into place. Two processes may do so at once: the second replaces equal by equal."""
    import tensorflow as tf  # noqa: PLC0415 - this process exists to load it

    from models.networks import network_of  # noqa: PLC0415 - imports Keras on use

    model = network_of(bundle)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # By way of a SavedModel: conversion from concrete functions has given NaN for networks with two outputs.
        model.export(folder, format="tf_saved_model", verbose=False)
        flat = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        temporary = Path(folder) / "model.tflite"
        temporary.write_bytes(flat)
        temporary.replace(target)


def main() -> None:
    """`python -m models.compile BUNDLE [--target FILE]`: compile a bundle for this machine's cache."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", type=Path)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    compile_bundle(bundle, arguments.target or target_of(bundle))


if __name__ == "__main__":
    main()
