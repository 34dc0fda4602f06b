"""From a received file to a status: check, make durable, record in one transaction, and only then say Success."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.domain import Intake, NewInstance, NewRefusal
from db.errors import RecordUnavailable, RefusedError, RetriableError
from db.intake import find_instance, record_instance, record_refusal
from db.session import Record
from db.states import RefusalKind
from node import storage
from node.dataset_source import HeaderError
from node.header import Header, examine, facts, valid_uid
from node.identity import MANUFACTURER
from node.settings import Settings
from node.statuses import Status

log = structlog.get_logger(__name__)

_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Arrival:
    """A C-STORE whose data set lies in a temporary DICOM file. The UIDs are the command's, as the peer sent them."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: datetime


class Refused(RefusedError):
    """Carries the status to answer."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Receiver:
    """Takes arrivals; safe to call from many threads."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record

    def take(self, arrival: Arrival) -> Status:
        """What the peer is to be told. Success means durable and recorded; refusals are recorded too."""
        try:
            return self._take(arrival)
        except Refused as refusal:
            return self.refuse(arrival, refusal.status, str(refusal))
        except RetriableError as error:
            log.error("instance_postponed", sop_instance_uid=printable(arrival.sop_instance_uid), reason=str(error))
            return self.refuse(arrival, Status.OUT_OF_RESOURCES, str(error))

    def refuse(self, arrival: Arrival, status: Status, reason: str) -> Status:
        """Note a refusal and give the status back. A record that is away must not change the answer."""
        log.warning(
            "instance_refused",
            sop_instance_uid=printable(arrival.sop_instance_uid),
            calling_ae=arrival.calling_ae,
            status=f"{status:#06x}",
            reason=reason,
        )
        try:
            self._note(RefusalKind.REFUSED, _refusal(arrival, status, reason))
        except RetriableError as error:
            log.error("refusal_not_recorded", reason=str(error))
        return status

    def _take(self, arrival: Arrival) -> Status:
        storage.require_room(self.settings)
        header = self._check(arrival)
        digest, size = _digest(arrival.path)
        known = self._known(arrival.sop_instance_uid)
        if known is not None:
            return self._again(arrival, header, digest, same=known == digest)
        # The digest is part of the name: two associations that bring other bytes for the same UID at the same moment
        # must not overwrite each other's file.
        relative = storage.derived_path(storage.INSTANCES, f"{arrival.sop_instance_uid}:{digest}")
        stored = storage.adopt(self.settings.data_dir, arrival.path, relative)
        outcome = self._record(_new_instance(arrival, header, relative, digest, size))
        if outcome is Intake.CONFLICT:
            return self._again(replace(arrival, path=stored), header, digest, same=False)
        log.info("instance_received", sop_instance_uid=arrival.sop_instance_uid, outcome=outcome.value, bytes=size)
        return Status.SUCCESS

    def _check(self, arrival: Arrival) -> Header:
        if not valid_uid(arrival.sop_instance_uid):
            raise Refused(Status.INVALID_INSTANCE, "its SOP Instance UID is empty or no UID")
        limits = self.settings.limits
        if arrival.path.stat().st_size > limits.max_dataset_bytes:
            raise Refused(Status.CANNOT_UNDERSTAND, f"it is longer than {limits.max_dataset_bytes} bytes")
        try:
            with arrival.path.open("rb") as file:
                header = examine(file, arrival.transfer_syntax_uid, limits.max_inflated_bytes)
        except HeaderError as error:
            raise Refused(Status.CANNOT_UNDERSTAND, str(error)) from error
        missing = [
            name
            for name, uid in (
                ("SOP Class UID", header.sop_class_uid),
                ("SOP Instance UID", header.sop_instance_uid),
                ("Study Instance UID", header.study_instance_uid),
                ("Series Instance UID", header.series_instance_uid),
            )
            if not valid_uid(uid)
        ]
        if missing:
            raise Refused(Status.CANNOT_UNDERSTAND, f"its {', '.join(missing)} is missing or no UID")
        if (header.sop_class_uid, header.sop_instance_uid) != (arrival.sop_class_uid, arrival.sop_instance_uid):
            raise Refused(Status.MISMATCH, "its data set is not the SOP class or instance that the command names")
        return header

    def _known(self, sop_instance_uid: str) -> str | None:
        try:
            with self.record.read() as session:
                found = find_instance(session, sop_instance_uid)
        except SQLAlchemyError as error:
            raise _record_failed(error) from error
        return None if found is None else found[0]

    def _record(self, new: NewInstance) -> Intake:
        try:
            with self.record.write() as session:
                return record_instance(session, new)
        except SQLAlchemyError as error:
            # The file stays: the commit may have come through all the same, and a second try writes the same name.
            raise _record_failed(error) from error

    def _again(self, arrival: Arrival, header: Header, digest: str, *, same: bool) -> Status:
        if same:
            log.info("instance_received", sop_instance_uid=arrival.sop_instance_uid, outcome=Intake.DUPLICATE.value)
            return Status.SUCCESS
        aside = storage.quarantine(self.settings.data_dir, arrival.path, f"{arrival.sop_instance_uid}:{digest}")
        reason = "another object with this SOP Instance UID is stored already; this one is kept aside"
        conflict = replace(
            _refusal(arrival, Status.SUCCESS, reason),
            study_instance_uid=header.study_instance_uid,
            path=aside.as_posix(),
            sha256=digest,
        )
        self._note(RefusalKind.CONFLICT, conflict)
        log.warning("instance_conflict", sop_instance_uid=arrival.sop_instance_uid, calling_ae=arrival.calling_ae)
        return Status.SUCCESS

    def _note(self, kind: RefusalKind, refusal: NewRefusal) -> None:
        try:
            with self.record.write() as session:
                record_refusal(session, kind, refusal)
        except SQLAlchemyError as error:
            raise _record_failed(error) from error


def printable(text: str) -> str:
    """A peer's string made fit for the record and the log: printable ASCII, at most 64 characters."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:64])


def _record_failed(error: SQLAlchemyError) -> RecordUnavailable:
    # Not its text: it quotes the values that were to be written.
    return RecordUnavailable(f"the record did not take it ({type(error).__name__}); see the database's own log")


def _digest(path: Path) -> tuple[str, int]:
    """SHA-256 of the data set's bytes, as sent, and the file's size in bytes.

    The listener wrote the file meta information itself, so its group length (0002,0000) can be trusted (PS3.10 7.1).
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(140)
        file.seek(144 + int.from_bytes(file.read(4), "little"))
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest(), file.tell()


def _refusal(arrival: Arrival, status: Status, reason: str) -> NewRefusal:
    return NewRefusal(
        sop_instance_uid=printable(arrival.sop_instance_uid),
        sop_class_uid=printable(arrival.sop_class_uid),
        status=int(status),
        reason=reason,
        calling_ae=arrival.calling_ae,
        peer_address=arrival.peer_address,
    )


def _new_instance(arrival: Arrival, header: Header, relative: Path, digest: str, size: int) -> NewInstance:
    return NewInstance(
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        path=relative.as_posix(),
        size_bytes=size,
        sha256=digest,
        facts=facts(header, arrival.calling_ae),
        calling_ae=arrival.calling_ae,
        called_ae=arrival.called_ae,
        peer_address=arrival.peer_address,
        received_at=arrival.received_at,
        own_result=header.manufacturer == MANUFACTURER,
        patient_id=header.patient_id,
        patient_name=header.patient_name,
        accession_number=header.accession_number,
        study_description=header.study_description,
        modality=header.modality,
        series_description=header.series_description,
        expected_instances=header.number_of_study_related_instances,
    )
