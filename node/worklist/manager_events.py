"""What managers report of work items that this node performs (UPS Event, PS3.4 CC.2.4): requests to cancel them."""

from __future__ import annotations

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db import performances
from db.errors import RetriableError
from db.session import Record
from node.access import Resolve, is_peer
from node.commitment import MOST_REPORT_BYTES
from node.settings import Settings
from node.statuses import Status
from node.upper_layer.association import Caller, DataSet
from node.upper_layer.commands import Command

log = structlog.get_logger(__name__)

_CANCEL_REQUESTED = 2


class ManagerEvents:
    """Called from the threads of associations. What a report says beside its type is not needed, and not read."""

    def __init__(self, settings: Settings, record: Record, resolve: Resolve) -> None:
        self.settings = settings
        self.record = record
        self._resolve = resolve

    def take(self, command: Command, data_set: DataSet, caller: Caller) -> Status:
        """The status to answer. A state that has changed is seen when the manager is told something, or asked."""
        if data_set.whole(MOST_REPORT_BYTES) is None:
            log.warning("manager_event_refused", reason=f"it is longer than {MOST_REPORT_BYTES} bytes")
            return Status.PROCESSING_FAILURE
        managers = [
            name
            for name, manager in self.settings.ups.managers.items()
            if is_peer(self.settings.peers[manager.peer], caller.ae_title, caller.address, self._resolve)
        ]
        if not managers:
            log.warning("manager_event_refused", calling_ae=caller.ae_title, peer_address=caller.address)
            return Status.NOT_AUTHORISED
        try:
            return self._apply(command, managers)
        except (RetriableError, SQLAlchemyError) as error:
            log.error("manager_event_not_recorded", cause=type(error).__name__)
            return Status.PROCESSING_FAILURE

    def _apply(self, command: Command, managers: list[str]) -> Status:
        uid = command.sop_instance_uid
        with self.record.read() as session:
            if not performances.known(session, managers, uid):
                return Status.NO_SUCH_INSTANCE
        if command.event_type == _CANCEL_REQUESTED:
            with self.record.write() as session:
                asked = performances.ask_to_cancel(session, managers, uid)
            log.info("workitem_cancel_asked", manager=managers[0], workitem=uid, held=asked)
        return Status.SUCCESS
