"""Storage commitment reports and requests as values (PS3.4 annex J)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset

from node.dataset_source import HeaderError
from node.header import valid_uid

COMMITMENT_CLASS = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
_PROCESSING_FAILURE = 0x0110


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
    # pydicom reads late: a malformed data set shows in any of these, at any access.
    except (AttributeError, ValueError, TypeError, KeyError, NotImplementedError, OSError, RecursionError) as error:
        raise HeaderError(f"the commitment report cannot be read ({type(error).__name__})") from error
    if not valid_uid(transaction):
        raise HeaderError("the commitment report has no Transaction UID")
    return CommitmentReport(transaction, committed, failed)


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
