"""The listener's part in work items that peers push to this node: UPS Push, Pull, Watch and Query (PS3.4 annex CC).

This node is the manager of what is pushed to it, and as a rule its performer (`node.worklist.pushed_performer`).
Another performer may claim an item before its images have come; from then on the item is that one's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pydicom.dataset import Dataset
from sqlalchemy.exc import SQLAlchemyError

from db import workitem_queries, workitem_rules, workitem_subscriptions, workitems
from db.dicom_json import Json, text
from db.errors import RetriableError, StorageFull
from db.session import Record
from db.states import WorkitemState
from db.types import utcnow
from db.workitem_rules import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, PUSH_CLASS, UpsStatus
from node import storage
from node.settings import Settings
from node.statuses import Status
from node.syntaxes import UPS_PULL_CLASS, UPS_PUSH_CLASS, UPS_QUERY_CLASS, UPS_WATCH_CLASS
from node.uids import valid_uid
from node.upper_layer import commands
from node.upper_layer.association import Answer, Caller, DataSet
from node.upper_layer.commands import Command
from node.upper_layer.negotiation import Context
from node.worklist import pushed_reading as reading
from node.worklist.pushed_reading import MOST_BYTES, WorkitemRefused

log = structlog.get_logger(__name__)

_CHANGE, _CANCEL, _SUBSCRIBE, _UNSUBSCRIBE, _SUSPEND = 1, 2, 3, 4, 5
# Which actions belong to which class (PS3.4 tables CC.2-1 to CC.2-5).
_ACTIONS = {
    UPS_PUSH_CLASS: frozenset({_CANCEL}),
    UPS_PULL_CLASS: frozenset({_CHANGE}),
    UPS_WATCH_CLASS: frozenset({_CANCEL, _SUBSCRIBE, _UNSUBSCRIBE, _SUSPEND}),
}
_CREATE, _GET, _SET, _ACT, _FIND = (
    commands.N_CREATE_RQ,
    commands.N_GET_RQ,
    commands.N_SET_RQ,
    commands.N_ACTION_RQ,
    commands.C_FIND_RQ,
)
_OPERATIONS = {
    UPS_PUSH_CLASS: frozenset({_CREATE, _ACT, _GET}),
    UPS_PULL_CLASS: frozenset({_FIND, _GET, _SET, _ACT}),
    UPS_WATCH_CLASS: frozenset({_ACT, _GET, _FIND}),
    UPS_QUERY_CLASS: frozenset({_FIND}),
}
_RECEIVER, _LOCK = "00741234", "00741230"
# Of one query.
_MOST_MATCHES, _MOST_MATCH_BYTES = 1000, 16 << 20


@dataclass(frozen=True)
class _Asked:
    """An operation with all that came with it."""

    command: Command
    context: Context
    data: bytes
    caller: Caller

    @property
    def uid(self) -> str:
        return self.command.sop_instance_uid

    def found(self) -> Dataset:
        """What came with it. Raises WorkitemRefused."""
        return reading.decoded(self.data, self.context.transfer_syntax)


class WorkitemProvider:
    """Called from the threads of associations."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self._services: dict[int, Callable[[_Asked], Answer]] = {
            _CREATE: self._create,
            _GET: self._get,
            _SET: self._set,
            _ACT: self._act,
            _FIND: self._find,
        }

    def serves(self, command: Command, context: Context) -> bool:
        """Whether this is one of the operations above."""
        return self.settings.ups.push and command.field in _OPERATIONS.get(context.abstract_syntax, ())

    def serve(self, command: Command, context: Context, data_set: DataSet, caller: Caller) -> Answer:
        """The answer; what is refused is in the log, without a word of the peer's."""
        try:
            return self._serve(command, context, data_set, caller)
        except WorkitemRefused as refusal:
            status, reason = refusal.status, str(refusal)
        except StorageFull:
            status, reason = Status.RESOURCE_LIMITATION, "the disk is full (limits.min_free_bytes)"
        except (RetriableError, SQLAlchemyError) as error:
            status, reason = Status.PROCESSING_FAILURE, type(error).__name__
        log.warning(
            "workitem_refused",
            calling_ae=caller.ae_title,
            operation=f"{command.field:#06x}",
            status=f"{status:#06x}",
            reason=reason,
        )
        return Answer(status, reason)

    def _serve(self, command: Command, context: Context, data_set: DataSet, caller: Caller) -> Answer:
        data = data_set.whole(MOST_BYTES)
        if data is None:
            raise WorkitemRefused(Status.RESOURCE_LIMITATION, f"is longer than {MOST_BYTES} bytes")
        if command.field != _FIND and command.sop_class_uid != PUSH_CLASS:
            raise WorkitemRefused(Status.NO_SUCH_CLASS, "every work item is of the class UPS Push")
        if command.field != _FIND and not valid_uid(command.sop_instance_uid):
            raise WorkitemRefused(Status.INVALID_INSTANCE, "the SOP Instance UID is empty or no UID")
        return self._services[command.field](_Asked(command, context, data, caller))

    def _create(self, asked: _Asked) -> Answer:
        ups = self.settings.ups
        pushed = reading.created(
            asked.found(),
            asked.uid,
            created_by=asked.caller.ae_title,
            own_ae=self.settings.ae_title,
            study_for_s=ups.study_for_s,
            now=utcnow(),
        )
        storage.require_room(self.settings)
        with self.record.write() as session:
            if workitem_queries.open_count(session) >= ups.most_open:
                raise WorkitemRefused(Status.RESOURCE_LIMITATION, "the worklist is full (ups.most_open)")
            if not workitems.create(session, pushed.new):
                raise WorkitemRefused(UpsStatus.DUPLICATE, "a work item of that UID is on the worklist")
        log.info(
            "workitem_received", workitem=asked.uid, calling_ae=asked.caller.ae_title, priority=pushed.new.priority
        )
        if pushed.modified:
            return Answer(UpsStatus.MODIFIED, "attributes of type 2 were put in, without a value")
        return Answer(UpsStatus.SUCCESS)

    def _get(self, asked: _Asked) -> Answer:
        with self.record.read() as session:
            found = workitems.load(session, asked.uid)
        if found is None:
            return Answer(UpsStatus.NO_SUCH_WORKITEM)
        wanted = [f"{tag:08X}" for tag in asked.command.attributes] or list(found.data)
        told = {tag: found.data[tag] for tag in wanted if tag in found.data}
        status = UpsStatus.SUCCESS if len(told) == len(set(wanted)) else UpsStatus.ATTRIBUTES_NOT_SUPPORTED
        return Answer(status, data=reading.encoded(told, asked.context.transfer_syntax))

    def _set(self, asked: _Asked) -> Answer:
        changes, lock = reading.changes(asked.found())
        with self.record.write() as session:
            return Answer(workitems.change(session, asked.uid, changes, lock, actor=asked.caller.ae_title))

    def _act(self, asked: _Asked) -> Answer:
        kind = asked.command.action_type
        if kind not in _ACTIONS[asked.context.abstract_syntax]:
            raise WorkitemRefused(Status.NO_SUCH_ACTION, "its SOP class has no such action")
        told = reading.keys(asked.found()) if kind == _SUBSCRIBE else reading.as_json(asked.found())
        if kind == _CHANGE:
            return Answer(self._change(asked, told))
        if kind == _CANCEL:
            return Answer(self._cancel(asked, told))
        return Answer(self._subscription(kind, asked, told))

    def _change(self, asked: _Asked, told: Json) -> UpsStatus:
        lock, wanted = text(told, workitem_rules.TRANSACTION), text(told, workitem_rules.STATE)
        if wanted not in set(WorkitemState):
            raise WorkitemRefused(Status.INVALID_ARGUMENT, "ProcedureStepState is none")
        caller = asked.caller.ae_title
        # Whoever claims under this node's own name would have it perform what it does not hold.
        if not caller or caller == self.settings.ae_title:
            raise WorkitemRefused(Status.NOT_AUTHORISED, "a performer needs an AE title of its own")
        with self.record.write() as session:
            return workitems.change_state(
                session, asked.uid, WorkitemState(wanted), lock if valid_uid(lock) else "", actor=caller, own=False
            )

    def _cancel(self, asked: _Asked, told: Json) -> UpsStatus:
        with self.record.write() as session:
            return workitems.request_cancel(
                session,
                asked.uid,
                requesting_ae=asked.caller.ae_title,
                own_ae=self.settings.ae_title,
                information=told,
            )

    def _subscription(self, kind: int, asked: _Asked, told: Json) -> UpsStatus:
        receiver = text(told, _RECEIVER)
        everything = asked.uid in (GLOBAL_SUBSCRIPTION, FILTERED_SUBSCRIPTION)
        if self.settings.peer_by_ae(receiver) is None:
            raise WorkitemRefused(UpsStatus.UNKNOWN_RECEIVER, "no peer entry names the receiving AE")
        if kind == _SUSPEND and not everything:
            return UpsStatus.NOT_APPROPRIATE
        with self.record.write() as session:
            if kind == _SUSPEND:
                workitem_subscriptions.suspend(session, receiver)
            elif kind == _UNSUBSCRIBE:
                if not everything:
                    return workitem_subscriptions.unsubscribe(session, asked.uid, receiver)
                workitem_subscriptions.unsubscribe_globally(session, receiver)
            else:
                lock = text(told, _LOCK) == "TRUE"
                if not everything:
                    return workitem_subscriptions.subscribe(session, asked.uid, receiver, lock=lock)
                keys = {tag: key for tag, key in told.items() if tag not in (_RECEIVER, _LOCK)}
                matching = keys if asked.uid == FILTERED_SUBSCRIPTION else {}
                workitem_subscriptions.subscribe_globally(session, receiver, lock=lock, matching=matching)
        return UpsStatus.SUCCESS

    def _find(self, asked: _Asked) -> Answer:
        """Collected before the first is sent: a peer that takes its time holds up no transaction."""
        query = reading.keys(asked.found())
        wanted = dict.fromkeys((*query, workitem_rules.SOP_CLASS, workitem_rules.SOP_INSTANCE))
        wanted.pop(workitem_rules.TRANSACTION, None)
        matches: list[bytes] = []
        size = 0
        with self.record.read() as session:
            for found in workitem_queries.find(session, query, limit=_MOST_MATCHES + 1):
                told = {tag: found.data.get(tag) or {"vr": query.get(tag, {}).get("vr", "UI")} for tag in wanted}
                matches.append(reading.encoded(told, asked.context.transfer_syntax))
                size += len(matches[-1])
                if len(matches) > _MOST_MATCHES or size > _MOST_MATCH_BYTES:
                    return Answer(Status.OUT_OF_RESOURCES, "too many matches; ask by more keys", pending=matches[:-1])
        return Answer(Status.SUCCESS, pending=matches)
