"""Everything a broken run needs to go on as if it had not been broken, in one file that is whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backbones.weights import read_arrays
from models.errors import BundleError, DatasetError, RuntimeUnavailable

Arrays = dict[str, NDArray[Any]]
_STATE = "state"


@dataclass
class State:
    """Where a run is.

    identity: SHA-256 of the plan and of who is in which part; another run's checkpoint is not taken.
    phase: 0 head, 1 fine-tuning, 2 done. epoch, step: finished ones, of the phase and of the epoch.
    loss: sum over the steps of the epoch. best, best_epoch, stale: of early stopping.
    """

    identity: str
    phase: int = 0
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    stale: int = 0


def save(path: Path, state: State, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replace the checkpoint. Raises RuntimeUnavailable when the folder cannot be written."""
    document = np.frombuffer(json.dumps(asdict(state)).encode(), dtype=np.uint8)
    stored: dict[str, Any] = {**arrays, _STATE: document}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **stored)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RuntimeUnavailable(f"the run's folder {path.parent.name} cannot be written") from error


def load(path: Path, identity: str) -> tuple[State, Arrays] | None:
    """The checkpoint, or None where there is none yet.

    Raises DatasetError where it is damaged, or of a run with another plan or other data.
    """
    if not path.is_file():
        return None
    try:
        arrays = read_arrays(path, None)
        state = State(**json.loads(arrays.pop(_STATE).tobytes()))
    except (BundleError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path.parent.name}/{path.name} is no checkpoint; choose another folder") from error
    if state.identity != identity:
        raise DatasetError(
            f"{path.parent.name} holds a run with another plan, other data or other versions; choose another folder"
        )
    return state, arrays
