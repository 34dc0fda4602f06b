"""Progress on standard error: bars on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from models.training.general import Progress
from models.training.trainer import Epoch


class ShownProgress:
    """A context whose ``progress`` is for `models.training.general.run_plan`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self.progress = Progress(self._images, self._judged, self._step, self._epoch)

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

    def _step(self, phase: str, done: int, every: int, loss: float) -> None:
        self._bars.update(self._task(phase, every), completed=done, description=f"{phase}, loss {loss:.3f}")

    def _epoch(self, found: Epoch) -> None:
        self._console.print(
            f"{found.phase} epoch {found.number + 1}: loss {found.loss:.4f}, validation loss "
            f"{found.validation_loss:.4f}, AUROC {found.validation_auroc:.4f}; {found.seconds:.0f} s",
            markup=False,
            soft_wrap=True,
        )

    def _task(self, name: str, every: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=every)
        return self._tasks[name]
