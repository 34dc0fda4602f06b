"""Progress on standard error: bars on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from models.datasets.samples import Problem
from models.training.general import Progress
from models.training.trainer import Epoch

MOST_TOLD = 10
"""Notes of a data set that are printed."""


class ShownProgress:
    """A context whose ``progress`` is for `models.training.general.run_plan`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._told: tuple[Problem, ...] = ()
        self.progress = Progress(self._images, self._judged, self._problems, self._step, self._epoch)

    def __enter__(self) -> ShownProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _images(self, done: int, every: int) -> None:
        self._bars.update(self._task("images", every), completed=done)

    def _judged(self, done: int, every: int) -> None:
        self._bars.update(self._task("measuring", every), completed=done)

    def _problems(self, found: Sequence[Problem]) -> None:
        """Once, and not again for every fold."""
        if tuple(found) == self._told:
            return
        self._told = tuple(found)
        left_out = [one for one in found if one.left_out]
        if left_out:
            first = left_out[0]
            self._say(f"{len(left_out)} rows or images are left out; first: {first.where}: {first.what}")
        for one in [one for one in found if not one.left_out][:MOST_TOLD]:
            self._say(f"note: {one.where}: {one.what}" + (f" ({one.count} times)" if one.count > 1 else ""))
        if found:
            self._say("problems.json in the run's folder has them all.")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def _step(self, phase: str, done: int, every: int, loss: float) -> None:
        self._bars.update(self._task(phase, every), completed=done, description=f"{phase}, loss {loss:.3f}")

    def _epoch(self, found: Epoch) -> None:
        self._say(
            f"{found.phase} epoch {found.number + 1}: loss {found.loss:.4f}, validation loss "
            f"{found.validation_loss:.4f}, AUROC {found.validation_auroc:.4f}; {found.seconds:.0f} s"
        )

    def _task(self, name: str, every: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=every)
        return self._tasks[name]
