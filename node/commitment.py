"""Storage commitment reports and requests as values (PS3.4 annex J)."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset
from sqlalchemy.exc import SQLAlchemyError

from db.errors import RetriableError
from node.dataset_source import IMPLICIT_VR_LITTLE_ENDIAN, HeaderError
from node.statuses import Status
from node.uids import valid_uid

log = structlog.get_logger(__name__)

COMMITMENT_CLASS = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
_PROCESSING_FAILURE = 0x0110
MOST_REPORT_BYTES = 1 << 20
"""A report on seven thousand instances; the node asks for a handful at a time."""

# pydicom reads late: a malformed data set shows in any of these, at any access.
MALFORMED = (
    AttributeError,
    BytesLengthException,
    KeyError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
_ITEM = b"\xfe\xff\x00\xe0"
_MOST_ITEMS = 10_000
"""More than fit into `MOST_REPORT_BYTES` with what an item has to hold; each costs pydicom some 40 microseconds."""


@dataclass(frozen=True)
class CommitmentReport:
    """committed: SOP Instance UIDs. failed: SOP Instance UID to Failure Reason (0008,1197)."""

    transaction_uid: str
    committed: tuple[str, ...] = ()
    failed: dict[str, int] = field(default_factory=dict)


def parse_report(information: Any) -> CommitmentReport:
    """The Event Information of an N-EVENT-REPORT. Raises HeaderError where it is no report."""
    try:
        transaction = str(information.get("TransactionUID", ""))
        committed = tuple(str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ())
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", _PROCESSING_FAILURE))
            for item in information.get("FailedSOPSequence") or ()
        }
    except MALFORMED as error:
        raise HeaderError(f"the commitment report cannot be read ({type(error).__name__})") from error
    if not valid_uid(transaction):
        raise HeaderError("the commitment report has no Transaction UID")
    return CommitmentReport(transaction, committed, failed)


def decode(data: bytes, transfer_syntax: str) -> Dataset:
    """A data set that came with a command, in one of the little endian syntaxes. Its values are read at their access.

    Raises HeaderError where it has too many items, or one of `MALFORMED`.
    """
    if data.count(_ITEM) > _MOST_ITEMS:
        raise HeaderError(f"it has more than {_MOST_ITEMS} items")
    return read_dataset(BytesIO(data), transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN, True)


def decode_report(data: bytes, transfer_syntax: str) -> CommitmentReport:
    """`parse_report` of an N-EVENT-REPORT's data set, in one of the little endian syntaxes. Raises HeaderError."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return parse_report(decode(data, transfer_syntax))
    except MALFORMED as error:
        raise HeaderError(f"the commitment report cannot be read ({type(error).__name__})") from error


def settle_report(read: Callable[[], CommitmentReport], apply: Callable[[CommitmentReport], bool]) -> Status:
    """The answer to an N-EVENT-REPORT: Success only after `apply` has written it down."""
    try:
        report = read()
        known = apply(report)
    except HeaderError as error:
        log.warning("commitment_report_refused", reason=str(error))
        return Status.PROCESSING_FAILURE
    except (RetriableError, SQLAlchemyError) as error:
        log.error("commitment_report_postponed", cause=type(error).__name__)
        return Status.PROCESSING_FAILURE
    log.info(
        "commitment_reported",
        transaction_uid=report.transaction_uid,
        committed=len(report.committed),
        failed=len(report.failed),
        known=known,
    )
    return Status.SUCCESS if known else Status.NO_SUCH_INSTANCE


def build_request(transaction_uid: str, refs: Iterable[tuple[str, str]]) -> Dataset:
    """Action Information of the N-ACTION; refs are (SOP Class UID, SOP Instance UID)."""
    request = Dataset()
    request.TransactionUID = transaction_uid
    items = []
    for sop_class, sop_instance in refs:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = sop_instance
        items.append(item)
    request.ReferencedSOPSequence = items
    return request
