"""Asking a worklist manager: which work items are scheduled, claiming them, telling how they go and how they ended.

Every message names the class of UPS Push, in whatever context it is sent (PS3.4 CC.3.1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom import build_context
from pynetdicom.association import Association

from db.errors import PeerUnavailable, PermanentError
from db.workitem_rules import PUSH_CLASS, UpsStatus
from node import scu
from node.commitment import MALFORMED
from node.scu import PeerRefused, at
from node.settings import Peer, Settings
from node.settings_ups import UpsManager
from node.statuses import Status
from node.worklist import work_items
from node.worklist.work_items import UPS_PULL, UPS_WATCH

_CHANGE_STATE, _SUBSCRIBE = 1, 3
_MOST_ANSWERS = 200
# pynetdicom's own log cannot put up with a list of one.
_STATE_AND_PRIORITY = [Tag(0x00741000), Tag(0x00741200)]
# One message to a manager, and what it takes pynetdicom to notice that it goes unanswered.
_WITHIN = 2.0

_ENDED = frozenset({UpsStatus.ENDED, UpsStatus.CANNOT_CANCEL_COMPLETED})
_NOT_OURS: dict[int, str] = {
    UpsStatus.ENDED: "its manager has ended it",
    UpsStatus.WRONG_TRANSACTION: "another performer has it",
    UpsStatus.NO_SUCH_WORKITEM: "its manager knows it no more",
    UpsStatus.NOT_IN_PROGRESS: "its manager does not have it in progress",
    UpsStatus.CANNOT_CANCEL_COMPLETED: "its manager has it as completed",
    Status.NO_SUCH_INSTANCE: "its manager knows it no more",
}
# It may be better at another time.
_LATER = frozenset({Status.PROCESSING_FAILURE, UpsStatus.RESOURCE_LIMITATION})


class Taken(PermanentError):
    """The work item is in progress already: by another performer, or by this one, whose claim's answer was lost."""


class NotOurs(PermanentError):
    """The work item is not, or no longer, this node's to perform. `ended`: it is in a final state."""

    def __init__(self, reason: str, *, ended: bool = False) -> None:
        super().__init__(reason)
        self.ended = ended


class NotFinal(PermanentError):
    """The manager does not take what it was told as what the final state requires."""


def scheduled(peer: Peer, settings: Settings, manager: UpsManager) -> list[Dataset]:
    """The manager's scheduled work items, at most 200. Raises as `node.scu.associate`."""
    with closing(scu.find(peer, _quick(settings, manager), [work_items.query(manager)], UPS_PULL)) as answers:
        return list(islice(answers, _MOST_ANSWERS))


def _quick(settings: Settings, manager: UpsManager) -> Settings:
    limits = {"connect_timeout_s": manager.timeout_s, "response_timeout_s": manager.timeout_s}
    return settings.model_copy(update={"delivery": settings.delivery.model_copy(update=limits)})


@contextmanager
def talk(peer: Peer, settings: Settings, manager: UpsManager) -> Iterator[Talk]:
    """An association for messages on work items. Raises as `node.scu.associate`."""
    contexts = [build_context(UPS_PULL)]
    if manager.subscribe:
        contexts.append(build_context(UPS_WATCH))
    with scu.associate(peer, _quick(settings, manager), contexts) as association:
        yield Talk(association, at(peer), manager.timeout_s)


class Talk:
    """Each raises PeerUnavailable where the manager did not answer or may answer otherwise later, NotOurs where the
    work item is another's or over, PeerRefused on any other failure.
    """

    def __init__(self, association: Association, name: str, timeout_s: float) -> None:
        self._association = association
        self._name = name
        self._timeout_s = timeout_s

    def claim(self, uid: str, transaction_uid: str) -> None:
        """Change UPS State to IN PROGRESS. Raises Taken."""
        self._change(uid, "IN PROGRESS", transaction_uid)

    def end(self, uid: str, state: str, transaction_uid: str) -> None:
        """Change UPS State to COMPLETED or CANCELED; that it is so already is well. Raises NotFinal."""
        self._change(uid, state, transaction_uid)

    def tell(self, uid: str, told: Dataset) -> None:
        """N-SET of a work item in progress; `told` has the transaction UID."""
        self._ask(lambda: self._association.send_n_set(told, PUSH_CLASS, uid, meta_uid=UPS_PULL))

    def state(self, uid: str) -> str:
        """Procedure Step State (0074,1000). Raises PeerRefused also where it cannot be read."""
        found = self._ask(lambda: self._association.send_n_get(_STATE_AND_PRIORITY, PUSH_CLASS, uid, meta_uid=UPS_PULL))
        try:
            # A value is read at its access, under the VR that the manager gave it.
            with warnings.catch_warnings(action="ignore"):
                return "" if found is None else str(found.get("ProcedureStepState", "") or "")
        except MALFORMED as error:
            raise PeerRefused(f"{self._name} answered with a state that is none ({type(error).__name__})") from error

    def subscribe(self, uid: str, ae_title: str) -> None:
        """Ask for reports on a work item. Raises PeerRefused also where the manager offers none."""
        told = work_items.subscription(ae_title)
        self._ask(lambda: self._association.send_n_action(told, _SUBSCRIBE, PUSH_CLASS, uid, meta_uid=UPS_WATCH))

    def _change(self, uid: str, state: str, transaction_uid: str) -> None:
        told = work_items.state_change(state, transaction_uid)
        self._ask(lambda: self._association.send_n_action(told, _CHANGE_STATE, PUSH_CLASS, uid, meta_uid=UPS_PULL))

    def _ask(self, send: Callable[[], tuple[Dataset, Dataset | None]]) -> Dataset | None:
        try:
            with scu.within(_WITHIN * self._timeout_s, lambda: self._association):
                status, found = send()
        except ValueError as error:
            raise PeerRefused(f"{self._name} does not offer it on this association") from error
        except RuntimeError as error:
            raise PeerUnavailable(f"{self._name} has closed the association") from error
        code = status.get("Status")
        if code is None:
            raise PeerUnavailable(f"{self._name} did not answer")
        self._judge(int(code))
        return found

    def _judge(self, code: int) -> None:
        # Warnings: what was told was coerced, or it is in that final state already.
        if code == UpsStatus.SUCCESS or code >> 12 == 0xB:
            return
        if code == UpsStatus.ALREADY_IN_PROGRESS:
            raise Taken(f"{self._name} has it in progress")
        if code in _NOT_OURS:
            raise NotOurs(_NOT_OURS[code], ended=code in _ENDED)
        if code == UpsStatus.FINAL_STATE_UNMET:
            raise NotFinal(f"{self._name} misses something that the final state requires (status 0xc304)")
        if code in _LATER or code >> 8 == 0xA7:
            raise PeerUnavailable(f"{self._name} answered with status {code:#06x}")
        raise PeerRefused(f"{self._name} answered with status {code:#06x}")
