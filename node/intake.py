"""From a data set that comes in to a status: check, make durable, record, and only then say Success."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.domain import Intake, NewInstance, NewRefusal
from db.errors import RefusedError, RetriableError, StorageFull, StudyGoing
from db.intake import record_refusal, sha256_of_earlier
from db.retention import aside_bytes, is_named
from db.session import Record
from db.states import RefusalKind
from node import storage
from node.audit.alerts import Alerts
from node.dataset_source import HeaderError
from node.digests import digest_of
from node.group_commit import GroupCommit, not_recorded
from node.header import Header, examine_stream, facts
from node.identity import MANUFACTURER
from node.incoming import IncomingFile, written
from node.retrieve.arrivals import take_prior
from node.settings import Settings
from node.statuses import Status
from node.syntaxes import readable_sop_classes
from node.uids import valid_uid
from node.upper_layer.association import printable

log = structlog.get_logger(__name__)

_IMAGES = readable_sop_classes(secondary_capture=True, for_processing=True)
_NO_ROOM = (
    "quarantine holds as much as retention.aside_max_bytes allows; see `radnode quarantine list`, then raise it or "
    "delete what lies there"
)


@dataclass(frozen=True)
class Arrival:
    """A C-STORE request. The UIDs are the command's, as the peer sent them; ``abstract_syntax`` and
    ``transfer_syntax_uid`` are those of its presentation context. move_originator: the AE title whose C-MOVE brings it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: datetime
    move_originator: str = ""


class Refused(RefusedError):
    """Carries the status to answer."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Receiver:
    """Takes data sets; safe to call from many threads.

    owner: the name of this process's folder for unfinished files.
    """

    def __init__(self, settings: Settings, record: Record, owner: str, alerts: Alerts) -> None:
        self.settings = settings
        self.record = record
        self._alerts = alerts
        self._incoming = settings.data_dir / storage.INCOMING / owner
        self._commits = GroupCommit(settings.data_dir, record, most_aside_bytes=settings.retention.aside_max_bytes)

    def take(self, arrival: Arrival, data_set: Iterable[memoryview]) -> Status:
        """What the peer is to be told. Success means durable and recorded; refusals are recorded too.

        What is refused is read to its end and goes nowhere, so that the peer hears the answer; only of what is too
        long the rest is left.
        """
        pieces = self._bounded(data_set)
        try:
            return self._take(arrival, pieces)
        except Refused as refusal:
            status, reason = refusal.status, str(refusal)
        except RetriableError as error:
            log.error("instance_postponed", sop_instance_uid=printable(arrival.sop_instance_uid), reason=str(error))
            status, reason = Status.OUT_OF_RESOURCES, str(error)
        with suppress(Refused):
            for _ in pieces:
                pass
        return self._refuse(arrival, status, reason)

    def _refuse(self, arrival: Arrival, status: Status, reason: str) -> Status:
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

    def _bounded(self, data_set: Iterable[memoryview]) -> Iterator[memoryview]:
        most, size = self.settings.limits.max_dataset_bytes, 0
        for piece in data_set:
            size += len(piece)
            if size > most:
                raise Refused(Status.CANNOT_UNDERSTAND, f"it is longer than {most} bytes; the transfer was aborted")
            yield piece

    def _take(self, arrival: Arrival, pieces: Iterator[memoryview]) -> Status:
        _check_command(arrival)
        storage.require_room(self.settings)
        uids = arrival.sop_class_uid, arrival.sop_instance_uid, arrival.transfer_syntax_uid
        with IncomingFile(self._incoming, *uids) as file:
            header = self._write(arrival, file, pieces)
            if arrival.move_originator in {self.settings.ae_title, arrival.calling_ae} - {""}:
                held = take_prior(self.settings, self.record, header, file)
                if held is not None:
                    return held
            new = _new_instance(arrival, header, file)
            file.sync()
            outcome = self._commits.take(file.path, new)
            file.moved()
        if outcome is Intake.NO_ROOM:
            raise StorageFull(_NO_ROOM)
        if outcome is Intake.CONFLICT and self._is_known_by_sha256(new):
            outcome = Intake.DUPLICATE
        if outcome is Intake.CONFLICT:
            self._set_aside(arrival, new)
        else:
            log.info(
                "instance_received",
                sop_instance_uid=arrival.sop_instance_uid,
                outcome=outcome.value,
                bytes=new.size_bytes,
            )
        return Status.SUCCESS

    def _write(self, arrival: Arrival, file: IncomingFile, pieces: Iterator[memoryview]) -> Header:
        """The data set into the file, its header read on the way."""
        rest = written(self.settings, file, pieces)
        try:
            header = examine_stream(rest, arrival.transfer_syntax_uid, self.settings.limits.max_inflated_bytes)
        except HeaderError as error:
            raise Refused(Status.CANNOT_UNDERSTAND, str(error)) from error
        # Its last element has ended; a writer's padding may follow.
        for _ in rest:
            pass
        _check_header(arrival, header)
        return header

    def _is_known_by_sha256(self, new: NewInstance) -> bool:
        """Whether an earlier release took the same bytes, whose digest was another; if so, the second file goes."""
        with self.record.read() as session:
            known = sha256_of_earlier(session, new.sop_instance_uid)
        stored = self.settings.data_dir / new.path
        try:
            same = bool(known) and digest_of(stored, "sha256", whole=False) == known
        except OSError as error:
            raise StorageFull(f"{stored} cannot be read ({error.strerror}); check the disk") from error
        if same:
            storage.remove_stored(self.settings.data_dir, [new.path])
        return same

    def _set_aside(self, arrival: Arrival, new: NewInstance) -> None:
        stored = self.settings.data_dir / new.path
        identity = f"{arrival.sop_instance_uid}:{new.blake3}"
        place = storage.derived_path(storage.QUARANTINE, identity).as_posix()
        with self.record.read() as session:
            # What lies there already takes no more room, and its sender is not to try for ever.
            more = 0 if is_named(session, place, arrival.sop_instance_uid) else new.size_bytes
            lies = aside_bytes(session) if more else 0
        if lies + more > self.settings.retention.aside_max_bytes:
            storage.remove([stored])
            raise StorageFull(_NO_ROOM)
        aside = storage.quarantine(self.settings.data_dir, stored, identity)
        reason = "another object with this SOP Instance UID is stored already; this one is kept aside"
        conflict = replace(
            _refusal(arrival, Status.SUCCESS, reason),
            study_instance_uid=new.study_instance_uid,
            path=aside.as_posix(),
            blake3=new.blake3,
            size_bytes=new.size_bytes,
        )
        self._note(RefusalKind.CONFLICT, conflict)
        log.warning("instance_conflict", sop_instance_uid=arrival.sop_instance_uid, calling_ae=arrival.calling_ae)

    def _note(self, kind: RefusalKind, refusal: NewRefusal) -> None:
        try:
            with self.record.write() as session:
                told = record_refusal(session, kind, refusal, take_row=lambda: self._take_row(refusal))
                if refusal.path and not (self.settings.data_dir / refusal.path).is_file():
                    raise StudyGoing("an object like it was just deleted; send it again")
        except SQLAlchemyError as error:
            raise not_recorded(error) from error
        if not told:
            self._alerts.count("instance_refused", refusal.calling_ae, refusal.peer_address, refusal.reason)

    def _take_row(self, refusal: NewRefusal) -> bool:
        """What was kept aside has its row always: a person decides on it, and their bytes are bounded."""
        return bool(refusal.path) or self._alerts.take_row("instance_refused", refusal.peer_address)


def _check_command(arrival: Arrival) -> None:
    if not valid_uid(arrival.sop_instance_uid):
        raise Refused(Status.INVALID_INSTANCE, "its SOP Instance UID is empty or no UID")
    if arrival.abstract_syntax != arrival.sop_class_uid:
        raise Refused(
            Status.CLASS_NOT_SUPPORTED, "its SOP class is not the one negotiated for its presentation context"
        )


def _check_header(arrival: Arrival, header: Header) -> None:
    uids = {
        "SOP Class UID": header.sop_class_uid,
        "SOP Instance UID": header.sop_instance_uid,
        "Study Instance UID": header.study_instance_uid,
        "Series Instance UID": header.series_instance_uid,
    }
    missing = [name for name, uid in uids.items() if not valid_uid(uid)]
    if missing:
        raise Refused(Status.CANNOT_UNDERSTAND, f"its {', '.join(missing)} is missing or no UID")
    if (header.sop_class_uid, header.sop_instance_uid) != (arrival.sop_class_uid, arrival.sop_instance_uid):
        raise Refused(Status.MISMATCH, "its data set is not the SOP class or instance that the command names")
    if header.sop_class_uid in _IMAGES and not header.has_pixels:
        # Pixel data is of type 1 in their definitions (PS3.3), and the last of their elements: a cut between two
        # elements shows in nothing else.
        raise Refused(Status.CANNOT_UNDERSTAND, "truncated: an image without pixel data")


def _refusal(arrival: Arrival, status: Status, reason: str) -> NewRefusal:
    return NewRefusal(
        sop_instance_uid=printable(arrival.sop_instance_uid),
        sop_class_uid=printable(arrival.sop_class_uid),
        status=int(status),
        reason=reason,
        calling_ae=arrival.calling_ae,
        peer_address=arrival.peer_address,
    )


def _new_instance(arrival: Arrival, header: Header, file: IncomingFile) -> NewInstance:
    # The digest is part of the name: two associations that bring other bytes for the same UID at the same moment must
    # not overwrite each other's file.
    digest = file.blake3
    relative = storage.derived_path(storage.INSTANCES, f"{arrival.sop_instance_uid}:{digest}")
    return NewInstance(
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        path=relative.as_posix(),
        size_bytes=file.file_size,
        blake3=digest,
        facts=facts(header, arrival.calling_ae),
        calling_ae=arrival.calling_ae,
        called_ae=arrival.called_ae,
        peer_address=arrival.peer_address,
        received_at=arrival.received_at,
        own_result=header.manufacturer == MANUFACTURER,
        patient_id=header.patient_id,
        patient_name=header.patient_name,
        patient_birth_date=header.patient_birth_date,
        study_date=header.study_date,
        accession_number=header.accession_number,
        study_description=header.study_description,
        modality=header.modality,
        series_description=header.series_description,
        expected_instances=header.number_of_study_related_instances,
    )
