"""What MPPS, IAN and requests for storage commitment say, read from their data sets (PS3.4 annexes F, R and J)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydicom.dataset import Dataset

from db.errors import RefusedError
from db.states import NoticeState
from node.commitment import MALFORMED, decode
from node.dataset_source import HeaderError
from node.statuses import Status
from node.uids import valid_uid

T = TypeVar("T")
# Of one procedure step, and by one peer's word.
_MOST_STUDIES = 16
_UNAVAILABLE = "UNAVAILABLE"


class NoticeRefused(RefusedError):
    """Carries the status to answer."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Told:
    """What a notice says. state: None where it does not say. studies, instances: UIDs, each once."""

    state: NoticeState | None
    studies: tuple[str, ...]
    instances: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A request for storage commitment. refs: (SOP Class UID, SOP Instance UID)."""

    transaction_uid: str
    refs: tuple[tuple[str, str], ...]


def availability(data: bytes, transfer_syntax: str) -> Told:
    """An Instance Availability Notification. Raises NoticeRefused."""

    def told(found: Dataset) -> Told:
        study = _uid(found, "StudyInstanceUID")
        items = (
            item for series in _items(found, "ReferencedSeriesSequence") for item in _items(series, _REFERENCED_SOP)
        )
        here = (item for item in items if str(item.get("InstanceAvailability", "")).strip() != _UNAVAILABLE)
        return Told(NoticeState.COMPLETED, (study,), _instances(here))

    return _read(data, transfer_syntax, told)


def step_begun(data: bytes, transfer_syntax: str) -> Told:
    """The N-CREATE of a Modality Performed Procedure Step. Raises NoticeRefused."""

    def told(found: Dataset) -> Told:
        state = _state(found)
        if state is None:
            raise NoticeRefused(Status.MISSING_ATTRIBUTE, "it has no Performed Procedure Step Status")
        if state is not NoticeState.IN_PROGRESS:
            raise NoticeRefused(Status.INVALID_VALUE, "a procedure step begins as IN PROGRESS")
        studies = {_uid(item, "StudyInstanceUID") for item in _items(found, "ScheduledStepAttributesSequence")}
        if not studies:
            raise NoticeRefused(Status.MISSING_ATTRIBUTE, "it has no Scheduled Step Attributes Sequence")
        if len(studies) > _MOST_STUDIES:
            raise NoticeRefused(Status.INVALID_VALUE, f"it names more than {_MOST_STUDIES} studies")
        return Told(state, tuple(sorted(studies)), _performed(found))

    return _read(data, transfer_syntax, told)


def step_changed(data: bytes, transfer_syntax: str) -> Told:
    """An N-SET of a Modality Performed Procedure Step; it names no study. Raises NoticeRefused."""
    return _read(data, transfer_syntax, lambda found: Told(_state(found), (), _performed(found)))


def commitment_asked(data: bytes, transfer_syntax: str) -> Asked:
    """The Action Information of a request for storage commitment. Raises NoticeRefused."""

    def asked(found: Dataset) -> Asked:
        transaction = _uid(found, "TransactionUID")
        refs = [
            (_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))
            for item in _items(found, _REFERENCED_SOP)
        ]
        if not refs:
            raise NoticeRefused(Status.MISSING_ATTRIBUTE, "it names no instance")
        return Asked(transaction, tuple(dict.fromkeys(refs)))

    return _read(data, transfer_syntax, asked)


_REFERENCED_SOP = "ReferencedSOPSequence"


def _read(data: bytes, transfer_syntax: str, parse: Callable[[Dataset], T]) -> T:
    try:
        with warnings.catch_warnings(action="ignore"):
            return parse(decode(data, transfer_syntax))
    except HeaderError as error:
        raise NoticeRefused(Status.PROCESSING_FAILURE, str(error)) from error
    except MALFORMED as error:
        raise NoticeRefused(Status.PROCESSING_FAILURE, f"it cannot be read ({type(error).__name__})") from error


def _state(found: Dataset) -> NoticeState | None:
    said = str(found.get("PerformedProcedureStepStatus", "") or "").strip()
    if not said:
        return None
    try:
        return NoticeState(said)
    except ValueError as error:
        raise NoticeRefused(Status.INVALID_VALUE, "its Performed Procedure Step Status is none") from error


def _performed(found: Dataset) -> tuple[str, ...]:
    return _instances(
        item
        for series in _items(found, "PerformedSeriesSequence")
        for sequence in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
        for item in _items(series, sequence)
    )


def _instances(items: Iterable[Dataset]) -> tuple[str, ...]:
    return tuple(sorted({_uid(item, "ReferencedSOPInstanceUID") for item in items}))


def _items(found: Dataset, keyword: str) -> Iterator[Dataset]:
    value: Any = found.get(keyword)
    if value is None:
        return
    for item in value:
        if not isinstance(item, Dataset):
            raise NoticeRefused(Status.INVALID_VALUE, f"its {keyword} is no sequence")
        yield item


def _uid(found: Dataset, keyword: str) -> str:
    value = str(found.get(keyword, "") or "").strip()
    if not value:
        raise NoticeRefused(Status.MISSING_ATTRIBUTE, f"it has an item without {keyword}")
    if not valid_uid(value):
        raise NoticeRefused(Status.INVALID_VALUE, f"a {keyword} in it is no UID")
    return value
