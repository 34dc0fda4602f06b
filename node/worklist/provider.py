"""The listener's part in what peers tell of studies: MPPS, IAN, and storage commitment where the settings permit it.

A notice is Success once it is on record. It hastens the study it names and does nothing else, so whoever invents one
gains a reading that comes too early, and a second one when the other images come.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db import notices, pledges
from db.errors import RetriableError
from db.session import Record
from db.states import NoticeKind, NoticeState
from node import storage
from node.commitment import COMMITMENT_CLASS, COMMITMENT_INSTANCE, MOST_REPORT_BYTES
from node.settings import Settings
from node.statuses import Status
from node.syntaxes import AVAILABILITY_CLASS, PERFORMED_STEP_CLASS
from node.uids import valid_uid
from node.upper_layer import commands
from node.upper_layer.association import Caller, DataSet, printable
from node.upper_layer.commands import Command
from node.upper_layer.negotiation import Context
from node.worklist import reading
from node.worklist.reading import NoticeRefused

log = structlog.get_logger(__name__)

_COMMIT_ACTION = 1

Service = Callable[[Command, bytes, str, Caller], Status]


class NoticeProvider:
    """Called from the threads of associations."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self._services: dict[tuple[str, int], Service] = {}
        if settings.notices.ian:
            self._services[AVAILABILITY_CLASS, commands.N_CREATE_RQ] = self._available
        if settings.notices.mpps:
            self._services[PERFORMED_STEP_CLASS, commands.N_CREATE_RQ] = self._begun
            self._services[PERFORMED_STEP_CLASS, commands.N_SET_RQ] = self._changed
        if settings.notices.commitment:
            self._services[COMMITMENT_CLASS, commands.N_ACTION_RQ] = self._commit

    def serves(self, command: Command, context: Context) -> bool:
        """Whether this is one of the operations above."""
        return (context.abstract_syntax, command.field) in self._services

    def serve(self, command: Command, context: Context, data_set: DataSet, caller: Caller) -> Status:
        """The status to answer; what is refused is in the log, without a word of the peer's."""
        try:
            data = _whole(data_set)
            if not valid_uid(command.sop_instance_uid):
                raise NoticeRefused(Status.INVALID_INSTANCE, "its SOP Instance UID is empty or no UID")
            storage.require_room(self.settings)
            service = self._services[context.abstract_syntax, command.field]
            return service(command, data, context.transfer_syntax, caller)
        except NoticeRefused as refusal:
            status, reason = refusal.status, str(refusal)
        except (RetriableError, SQLAlchemyError) as error:
            status, reason = Status.PROCESSING_FAILURE, type(error).__name__
        log.warning(
            "notice_refused",
            sop_class=context.abstract_syntax,
            calling_ae=caller.ae_title,
            status=f"{status:#06x}",
            reason=reason,
        )
        return status

    def _available(self, command: Command, data: bytes, syntax: str, caller: Caller) -> Status:
        return self._note(NoticeKind.IAN, command, reading.availability(data, syntax), caller)

    def _begun(self, command: Command, data: bytes, syntax: str, caller: Caller) -> Status:
        return self._note(NoticeKind.MPPS, command, reading.step_begun(data, syntax), caller)

    def _note(self, kind: NoticeKind, command: Command, told: reading.Told, caller: Caller) -> Status:
        with self.record.write() as session:
            new = notices.record(
                session,
                kind,
                command.sop_instance_uid,
                told.studies,
                state=told.state or NoticeState.COMPLETED,
                instances=told.instances,
                calling_ae=printable(caller.ae_title)[:16],
            )
        if not new:
            raise NoticeRefused(Status.DUPLICATE_INSTANCE, "a notice of that UID is known already")
        log.info("notice_taken", kind=kind.value, uid=command.sop_instance_uid, instances=len(told.instances))
        return Status.SUCCESS

    def _changed(self, command: Command, data: bytes, syntax: str, caller: Caller) -> Status:
        told = reading.step_changed(data, syntax)
        state = told.state or NoticeState.IN_PROGRESS
        with self.record.write() as session:
            before = notices.change_step(session, command.sop_instance_uid, state, told.instances)
        if before is None:
            raise NoticeRefused(Status.NO_SUCH_INSTANCE, "no procedure step of that UID was begun here")
        if before is not NoticeState.IN_PROGRESS:
            raise NoticeRefused(Status.PROCESSING_FAILURE, "the procedure step has ended and is not changed any more")
        log.info("notice_taken", kind=NoticeKind.MPPS.value, uid=command.sop_instance_uid, state=state.value)
        return Status.SUCCESS

    def _commit(self, command: Command, data: bytes, syntax: str, caller: Caller) -> Status:
        """PS3.4 J.3.2: what is held is decided now, and told by a report of its own (`node.worklist.reporter`)."""
        if command.sop_instance_uid != COMMITMENT_INSTANCE:
            raise NoticeRefused(Status.NO_SUCH_INSTANCE, "storage commitment has one well-known instance")
        if command.action_type != _COMMIT_ACTION:
            raise NoticeRefused(Status.NO_SUCH_ACTION, "storage commitment has one action")
        known = self.settings.peer_by_ae(caller.ae_title)
        if known is None:
            raise NoticeRefused(Status.NOT_AUTHORISED, "no peer entry names its AE title, so it could not be answered")
        asked = reading.commitment_asked(data, syntax)
        with self.record.read() as session:
            held = pledges.held(session, [instance for _, instance in asked.refs])
        verdicts = [(*ref, self._failure(held.get(ref[1]), ref[0])) for ref in asked.refs]
        committed = tuple((a, b) for a, b, failure in verdicts if failure is None)
        failed = tuple((a, b, int(failure)) for a, b, failure in verdicts if failure is not None)
        with self.record.write() as session:
            pledges.promise(session, pledges.Answer(known[0], asked.transaction_uid, committed, failed))
            if not failed:
                # Whoever asks has sent all it names.
                notices.record(
                    session,
                    NoticeKind.COMMITMENT,
                    asked.transaction_uid,
                    sorted({one.study_instance_uid for one in held.values()}),
                    state=NoticeState.COMPLETED,
                    instances=[instance for _, instance in committed],
                    calling_ae=caller.ae_title,
                )
        log.info(
            "commitment_asked",
            transaction_uid=asked.transaction_uid,
            peer=known[0],
            committed=len(committed),
            failed=len(failed),
        )
        return Status.SUCCESS

    def _failure(self, held: pledges.Held | None, sop_class_uid: str) -> Status | None:
        """Failure Reason (0008,1197) of an instance; None where it is in the record and whole on the disk."""
        if held is None:
            return Status.NO_SUCH_INSTANCE
        if held.sop_class_uid != sop_class_uid:
            return Status.CLASS_INSTANCE_CONFLICT
        return _on_disk(self.settings.data_dir / held.path, held.size_bytes)


def _on_disk(path: Path, size_bytes: int) -> Status | None:
    try:
        return None if path.stat().st_size == size_bytes else Status.PROCESSING_FAILURE
    except FileNotFoundError:
        return Status.NO_SUCH_INSTANCE
    except OSError as error:
        log.error("stored_file_unreadable", cause=type(error).__name__, reason=error.strerror)
        return Status.PROCESSING_FAILURE


def _whole(data_set: DataSet) -> bytes:
    whole = data_set.whole(MOST_REPORT_BYTES)
    if whole is None:
        raise NoticeRefused(Status.PROCESSING_FAILURE, f"it is longer than {MOST_REPORT_BYTES} bytes")
    return whole
