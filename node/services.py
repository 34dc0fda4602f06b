"""The DICOM services of this node, for its conformance statement: what it provides follows from what its listener
accepts, what it uses stands next to the module that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext

from node import scu
from node.commitment import COMMITMENT_CLASS
from node.dataset_source import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from node.retrieve.retrieving import STUDY_ROOT_GET, STUDY_ROOT_MOVE
from node.syntaxes import (
    AVAILABILITY_CLASS,
    PERFORMED_STEP_CLASS,
    UPS_EVENT_CLASS,
    UPS_PULL_CLASS,
    UPS_PUSH_CLASS,
    UPS_QUERY_CLASS,
    UPS_WATCH_CLASS,
    storage_sop_classes,
    supported_contexts,
)
from node.worklist.query import MODALITY_WORKLIST
from node.worklist.work_items import UPS_PULL, UPS_WATCH

_OPENED_HERE = "on an association that this node opens, with the roles reversed"
_OPENED_THERE = "on an association that the manager opens, with the roles reversed"


@dataclass(frozen=True)
class Service:
    """One row. sop_class_uid: "" stands for every storage class. operations: of DIMSE, as the role has them. syntaxes:
    the transfer syntaxes that a user proposes, where it chooses them itself."""

    name: str
    role: str
    sop_class_uid: str
    operations: str
    when: str
    syntaxes: tuple[str, ...] = ()

    @property
    def on_own_association(self) -> bool:
        """A provider that opens associations, to report."""
        return self.role == "SCP" and _OPENED_HERE in self.operations

    @property
    def on_their_association(self) -> bool:
        """A user that opens none, as the provider reports on its own."""
        return self.role == "SCU" and self.operations.startswith(f"N-EVENT-REPORT {_OPENED_THERE}")


_PLAIN = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_UPS = "`ups.push`"
_PROVIDED = {
    scu.VERIFICATION: ("C-ECHO", "always"),
    AVAILABILITY_CLASS: ("N-CREATE", "`notices.ian`"),
    PERFORMED_STEP_CLASS: ("N-CREATE, N-SET", "`notices.mpps`"),
    COMMITMENT_CLASS: (
        f"N-ACTION; N-EVENT-REPORT {_OPENED_HERE}",
        "`notices.commitment`",
    ),
    UPS_PUSH_CLASS: ("N-CREATE, N-GET, N-ACTION (request to cancel)", _UPS),
    UPS_PULL_CLASS: ("C-FIND, N-GET, N-SET, N-ACTION (change of state)", _UPS),
    UPS_WATCH_CLASS: ("C-FIND, N-GET, N-ACTION (subscribe, unsubscribe, suspend, request to cancel)", _UPS),
    UPS_QUERY_CLASS: ("C-FIND", _UPS),
}


def everything_accepted() -> tuple[PresentationContext, ...]:
    """What the listener accepts where the settings switch everything on."""
    return supported_contexts(ian=True, mpps=True, commitment=True, manager_events=True, workitems=True)


def provided() -> list[Service]:
    """What the listener serves where the settings switch everything on.

    Raises KeyError where it takes a class that stands nowhere here.
    """
    storage = {uid for uid, _ in storage_sop_classes()}
    others = [context for context in everything_accepted() if str(context.abstract_syntax) not in storage]
    served = [str(context.abstract_syntax) for context in others if context.scu_role is not False]
    rows = [Service(UID(uid).name, "SCP", uid, *_PROVIDED[uid]) for uid in served]
    events = Service(
        UID(UPS_EVENT_CLASS).name,
        "SCP",
        UPS_EVENT_CLASS,
        f"N-EVENT-REPORT {_OPENED_HERE}",
        f"{_UPS}, to who has subscribed",
    )
    return [*rows, events, Service("Storage", "SCP", "", "C-STORE", "always: all storage classes")]


def used() -> list[Service]:
    """What this node asks of its peers."""
    return [
        Service("Verification", "SCU", scu.VERIFICATION, "C-ECHO", "`radnode echo`, `radnode doctor`"),
        Service(
            "Storage",
            "SCU",
            "",
            "C-STORE",
            "delivery: SR (Comprehensive 3D, Comprehensive or Enhanced) and Secondary Capture; any with `radnode send`",
        ),
        Service(
            UID(COMMITMENT_CLASS).name,
            "SCU",
            COMMITMENT_CLASS,
            "N-ACTION; N-EVENT-REPORT on the same association, or on one that the peer opens with the roles reversed",
            "after delivery, where a peer's `proof` is `auto` or `commitment`",
            _PLAIN,
        ),
        Service(
            UID(scu.STUDY_ROOT_FIND).name,
            "SCU",
            scu.STUDY_ROOT_FIND,
            "C-FIND",
            "reading back (IMAGE level); `expected_counts` of a peer (STUDY level); prior studies, `priors.peer` "
            "(STUDY and SERIES level)",
        ),
        Service(
            UID(STUDY_ROOT_GET).name,
            "SCU",
            STUDY_ROOT_GET,
            "C-GET; C-STORE on the same association, with the roles reversed",
            "prior studies, `priors.peer`",
            _PLAIN,
        ),
        Service(
            UID(STUDY_ROOT_MOVE).name,
            "SCU",
            STUDY_ROOT_MOVE,
            "C-MOVE, to this node's own AE title",
            "prior studies that C-GET does not bring, `priors.move`",
            _PLAIN,
        ),
        Service(
            UID(MODALITY_WORKLIST).name,
            "SCU",
            MODALITY_WORKLIST,
            "C-FIND",
            "routes with `ask_worklist`, `worklist.peer`",
        ),
        Service(
            UID(UPS_PULL).name,
            "SCU",
            UPS_PULL,
            "C-FIND; N-ACTION (claim, complete, cancel), N-SET (progress, output), N-GET (state) of UPS Push instances",
            "`ups.managers`",
        ),
        Service(
            UID(UPS_WATCH).name, "SCU", UPS_WATCH, "N-ACTION (subscribe to one work item)", "`subscribe` of a manager"
        ),
        Service(
            UID(UPS_EVENT_CLASS).name,
            "SCU",
            UPS_EVENT_CLASS,
            f"N-EVENT-REPORT {_OPENED_THERE}",
            "`ups.managers`",
        ),
    ]
