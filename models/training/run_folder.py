"""The folder of a run: what was asked for, on what, with which versions, and how it went."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tensorflow as tf

from models.datasets.samples import Sample
from models.datasets.splits import SplitSets
from models.errors import RuntimeUnavailable
from models.training.plan import Plan
from models.training.trainer import PHASES, Epoch

HISTORY = "history.jsonl"
TIMINGS = "timings.jsonl"
"""Beside the history, which a run taken up writes as one that was not broken off; how long it took nobody repeats."""

_PACKAGES = ("radnode", "tensorflow", "tensorflow-cpu", "keras", "numpy", "pillow", "pydantic")
# What tf.summary.scalar would write; that function asks for TensorBoard itself, which is for the reader to have.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)
_DECIDING = ("tensorflow", "tensorflow-cpu", "keras", "numpy")


def environment() -> dict[str, Any]:
    """Versions and machine; no name of a user, a host or a folder."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count() or 1,
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "packages": _versions(_PACKAGES),
    }


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def identity_of(plan: Plan, digest: str, start_sha256: str) -> str:
    """SHA-256 of all that decides a run's weights: plan, split, start weights, versions."""
    # Without several sets or windows a run is the one it was before there could be any.
    unsaid = {"data": set() if plan.data.sets else {"sets"}, "input": set() if plan.input.windows else {"windows"}}
    deciding = {
        "plan": plan.model_dump(mode="json", exclude={"bundle": True, **unsaid}),
        "labels": plan.bundle.keys,
        "split": digest,
        "start": start_sha256,
        "versions": _versions(_DECIDING),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


class RunFolder:
    """Writes into ``path``; made where it is not there. Raises RuntimeUnavailable when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RuntimeUnavailable(f"the run's folder {path.name} cannot be made") from error
        self._events: Any = None

    def describe(self, plan: Plan, text: str, split: SplitSets, problems: Sequence[Any]) -> None:
        """config.toml as given, plan.json as understood, split.json and split.csv, environment.json, problems.json."""
        self._write("config.toml", text)
        self.write_json("plan.json", plan.model_dump(mode="json", by_alias=True))
        self.write_json("split.json", split_record(split))
        self._write("split.csv", _split_table(split))
        self.write_json("environment.json", environment())
        self.write_json("problems.json", [asdict(problem) for problem in problems])

    def begin(self, phase: int, epoch: int) -> None:
        """History from there on is written anew: a broken run's last epoch may be told twice otherwise."""
        for name in (HISTORY, TIMINGS):
            kept = [line for line in self._lines(name) if (PHASES.index(line["phase"]), line["epoch"]) < (phase, epoch)]
            self._write(name, "".join(json.dumps(line) + "\n" for line in kept))
        self._events = tf.summary.create_file_writer(str(self.path / "tensorboard"))

    def epoch(self, found: Epoch) -> None:
        """One line of history, the same as TensorBoard's scalars, and how long it took."""
        figures = {key: value for key, value in asdict(found).items() if key not in ("phase", "number", "seconds")}
        which = {"phase": found.phase, "epoch": found.number}
        self._append(HISTORY, which | {k: _finite(v) for k, v in figures.items()})
        self._append(TIMINGS, which | {"seconds": round(found.seconds, 2)})
        with self._events.as_default(step=found.number):
            for key, value in figures.items():
                tf.summary.write(f"{found.phase}/{key}", tf.constant(value, tf.float32), metadata=_SCALAR)
        self._events.flush()

    def write_json(self, name: str, document: Any) -> None:
        """Indented, for people and for diffs."""
        self._write(name, json.dumps(document, indent=2) + "\n")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.is_file():
            return []
        # The last line may have been cut short by whatever broke the run.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _write(self, name: str, text: str) -> None:
        try:
            (self.path / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise RuntimeUnavailable(f"{name} cannot be written into the run's folder") from error


def _split_table(split: SplitSets) -> str:
    """Which file is in which part, as `radnode evaluate --split-file` reads it."""
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(["file", "split"])
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    lines.writerows([sample.file, part] for part, samples in parts.items() for sample in samples)
    return table.getvalue()


def split_record(split: SplitSets) -> dict[str, Any]:
    """Counts of each part by source, and the digest; no patient's number and no file's name."""
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {"sha256": split.digest, **{name: _counts(samples) for name, samples in parts.items()}}


def _counts(samples: Sequence[Sample]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source in sorted({sample.source for sample in samples}):
        held = [sample for sample in samples if sample.source == source]
        labels: Mapping[str, float] = held[0].targets
        found[source] = {
            "images": len(held),
            "patients": len({sample.patient for sample in held}),
            "positive": {label: sum(sample.targets[label] == 1 for sample in held) for label in labels},
        }
    return found


def _finite(value: float) -> float | None:
    return round(value, 6) if value == value and abs(value) != float("inf") else None  # noqa: PLR0124
