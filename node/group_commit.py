"""Images that are durable at the same moment are recorded together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from db.domain import Intake, NewInstance
from db.errors import RecordUnavailable, RetriableError, StudyGoing
from db.intake import record_instances
from db.session import Record
from node import bell, storage

_GOING = "its study, or its own earlier file, is being deleted; send it again in a minute"


@dataclass(eq=False)
class _Waiting:
    """The row of a durable file; then what became of it."""

    new: NewInstance
    outcome: Intake | RetriableError | None = None


class GroupCommit:
    """Shares one commit among the threads that wait for it.

    Each syncs its file's folder itself, side by side with the others: the disk makes one of flushes that come together,
    and a group's files lie in folders of their own.

    A file whose commit failed stays: the commit may have come through all the same, and a second try writes the same
    name.

    There is no thread of its own: whoever gets the lock first works for all that wait by then, and the others find
    their outcome when they get it. One association alone waits for nobody.
    """

    def __init__(self, data_dir: Path, record: Record, *, most_aside_bytes: int | None = None) -> None:
        self._data_dir = data_dir
        self._record = record
        self._most_aside_bytes = most_aside_bytes
        self._queue: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._turn = threading.Lock()

    def take(self, temp: Path, new: NewInstance) -> Intake:
        """Move a synced file to `new.path` and record it; on return both survive a power cut.

        Raises StorageFull, StudyGoing or RecordUnavailable, whatever became of the others.
        """
        storage.adopt_synced(self._data_dir, temp, Path(new.path))
        mine = _Waiting(new)
        with self._queue_lock:
            self._queue.append(mine)
        with self._turn:
            if mine.outcome is None:
                with self._queue_lock:
                    group, self._queue = self._queue, []
                self._work(group)
        if isinstance(mine.outcome, Intake):
            return mine.outcome
        raise mine.outcome or RecordUnavailable("the group it was written with was interrupted")

    def _work(self, group: list[_Waiting]) -> None:
        try:
            self._commit(group)
        except RetriableError as error:
            # The record is away: it is so for each of them, and each would wait for it again.
            for one in group:
                one.outcome = error
        except SQLAlchemyError:
            self._commit_each(group)

    def _commit(self, group: Sequence[_Waiting]) -> None:
        with self._record.write_rows() as connection:
            outcomes = record_instances(connection, [one.new for one in group], most_aside_bytes=self._most_aside_bytes)
            # While nobody else can record that name: afterwards the file might be another arrival's.
            storage.remove_stored(
                self._data_dir,
                [one.new.path for one, outcome in zip(group, outcomes, strict=True) if outcome is Intake.NO_ROOM],
            )
            self._require_files([one for one, outcome in zip(group, outcomes, strict=True) if outcome is Intake.NEW])
        # Only now, when the commit has come back.
        for one, outcome in zip(group, outcomes, strict=True):
            one.outcome = StudyGoing(_GOING) if outcome is Intake.GOING else outcome
        bell.ring(self._data_dir, bell.SWEEPER)

    def _require_files(self, group: Sequence[_Waiting]) -> None:
        """The old file of an image that was deleted had the same name: was it removed after ours had come in its place?

        Asked before the commit, when the record says that no deletion is under way any more.
        """
        for one in group:
            if not (self._data_dir / one.new.path).is_file():
                raise StudyGoing(_GOING)

    def _commit_each(self, group: Sequence[_Waiting]) -> None:
        """One that cannot be recorded must not take the others with it."""
        for one in group:
            try:
                self._commit([one])
            except RetriableError as error:
                one.outcome = error
            except SQLAlchemyError as error:
                one.outcome = not_recorded(error)


def not_recorded(error: SQLAlchemyError) -> RecordUnavailable:
    # Not its text: it quotes the values that were to be written.
    return RecordUnavailable(f"the record did not take it ({type(error).__name__}); see the database's own log")
