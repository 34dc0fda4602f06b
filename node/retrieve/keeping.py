"""Images of one prior study on their way to the disk, each held against the patient before it is kept.

One that is another patient's condemns the study: nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from db.errors import StorageFull
from db.priors import PriorFile, Wish
from node import storage
from node.dataset_source import HeaderError
from node.header import Header, examine_stream, facts, read_file
from node.incoming import IncomingFile, written
from node.retrieve.choosing import Current, refusal_of
from node.retrieve.retrieving import Incoming
from node.settings import Settings
from node.statuses import Status
from node.uids import valid_uid
from node.upper_layer.association import printable
from node.worklist.matching import day

log = structlog.get_logger(__name__)

# Of unfinished files; see `node.storage.incoming_dir`.
_FOLDER = "priors"


@dataclass(frozen=True)
class Asked:
    """One prior study, and what of it was asked for."""

    study_instance_uid: str
    series_instance_uids: tuple[str, ...]


@dataclass
class PriorStudy:
    """What has come of a prior study. mismatch: why nothing of it may be kept; "" where nothing speaks against it.

    reason: why some image was not taken.
    """

    settings: Settings
    current: Current
    wish: Wish
    asked: Asked
    sop_classes: Sequence[str]
    request_id: int
    files: dict[str, PriorFile] = field(default_factory=dict)
    mismatch: str = ""
    reason: str = ""

    def take(self, incoming: Incoming, pieces: Iterator[memoryview]) -> int:
        """An image that comes by C-GET; see `Take`. Of one that is too long the rest is left."""
        bounded = self._bounded(pieces)
        try:
            return self._take(incoming, bounded)
        except HeaderError as error:
            status, self.reason = Status.CANNOT_UNDERSTAND, str(error)
        except StorageFull as error:
            status, self.reason = Status.OUT_OF_RESOURCES, str(error)
        log.warning("prior_image_refused", sop_instance_uid=printable(incoming.sop_instance_uid), reason=self.reason)
        with suppress(HeaderError):
            for _ in bounded:
                pass
        return status

    def _bounded(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        most, size = self.settings.limits.max_dataset_bytes, 0
        for piece in pieces:
            size += len(piece)
            if size > most:
                raise HeaderError(f"it is longer than {most} bytes")
            yield piece

    def _take(self, incoming: Incoming, pieces: Iterator[memoryview]) -> Status:
        if not valid_uid(incoming.sop_instance_uid) or incoming.sop_class_uid != incoming.abstract_syntax:
            raise HeaderError("its UIDs are none, or not those of its context")
        storage.require_room(self.settings)
        folder = storage.incoming_dir(self.settings.data_dir, _FOLDER)
        with IncomingFile(
            folder, incoming.sop_class_uid, incoming.sop_instance_uid, incoming.transfer_syntax_uid
        ) as file:
            header = self._receive(file, incoming.transfer_syntax_uid, pieces)
            if (header.sop_class_uid, header.sop_instance_uid) != (incoming.sop_class_uid, incoming.sop_instance_uid):
                raise HeaderError("its data set is not the class or instance that the command names")
            if not self.judge(header):
                return Status.CANNOT_UNDERSTAND
            if header.sop_instance_uid not in self.files:
                self.files[header.sop_instance_uid] = keep(self.settings, file, header, f"{self.request_id}:get")
        return Status.SUCCESS

    def _receive(self, file: IncomingFile, transfer_syntax_uid: str, pieces: Iterator[memoryview]) -> Header:
        """A data set into a file, its header read on the way."""
        rest = written(self.settings, file, pieces)
        header = examine_stream(rest, transfer_syntax_uid, self.settings.limits.max_inflated_bytes)
        for _ in rest:
            pass
        return header

    def judge(self, header: Header) -> bool:
        """Whether an image may be kept; remembers what speaks against it."""
        refusal = refusal_of(
            header, self.current, self.wish, self.asked.study_instance_uid, self.asked.series_instance_uids
        )
        if refusal is None and header.sop_class_uid not in self.sop_classes:
            self.reason = "its SOP class is not one that models read"
            return False
        if refusal is None:
            return True
        self.reason = refusal.reason
        if refusal.mismatch:
            self.mismatch = refusal.reason
        log.warning("prior_image_refused", sop_instance_uid=printable(header.sop_instance_uid), reason=refusal.reason)
        return False

    def take_held(self, held: Iterable[PriorFile]) -> None:
        """What the listener holds of it, brought by C-MOVE: kept, or removed."""
        for one in held:
            try:
                fits = self.judge(read_file(self.settings.data_dir / one.path))
            except (HeaderError, OSError) as error:
                fits, self.reason = False, f"what the listener holds cannot be read ({type(error).__name__})"
            if fits and one.sop_instance_uid not in self.files:
                self.files[one.sop_instance_uid] = one
            else:
                storage.remove_stored(self.settings.data_dir, [one.path])

    def discard(self) -> None:
        """Nothing of it stays. Raises StorageFull."""
        storage.remove_stored(self.settings.data_dir, [one.path for one in self.files.values()])
        self.files.clear()


def keep(settings: Settings, file: IncomingFile, header: Header, scope: str) -> PriorFile:
    """Make a received image durable among the priors. scope: of its name; equal images of two scopes are two files."""
    relative = storage.derived_path(storage.PRIORS, f"{scope}:{header.sop_instance_uid}:{file.blake3}")
    size = file.file_size
    file.sync()
    storage.adopt(settings.data_dir, file.path, relative)
    file.moved()
    return prior_file(header, relative.as_posix(), size, file.blake3)


def prior_file(header: Header, path: str, size_bytes: int, blake3: str) -> PriorFile:
    """What the record keeps of an image; nothing of its patient."""
    return PriorFile(
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        study_date=day(header.study_date),
        path=path,
        size_bytes=size_bytes,
        blake3=blake3,
        facts=facts(header, ""),
    )
