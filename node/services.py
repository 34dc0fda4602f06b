"""The DICOM services of this node, for its conformance statement: what it provides follows from what its listener
accepts, what it uses stands next to the module that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import UID

from node import scu
from node.commitment import COMMITMENT_CLASS
from node.settings_worklist import Notices
from node.syntaxes import (
    AVAILABILITY_CLASS,
    PERFORMED_STEP_CLASS,
    UPS_EVENT_CLASS,
    storage_sop_classes,
    supported_contexts,
)
from node.worklist.query import MODALITY_WORKLIST
from node.worklist.work_items import UPS_PULL, UPS_WATCH


@dataclass(frozen=True)
class Service:
    """One row. sop_class_uid: "" stands for every storage class. operations: of DIMSE, as the role has them."""

    name: str
    role: str
    sop_class_uid: str
    operations: str
    when: str


_PROVIDED = {
    scu.VERIFICATION: ("C-ECHO", "always"),
    AVAILABILITY_CLASS: ("N-CREATE", "`notices.ian`"),
    PERFORMED_STEP_CLASS: ("N-CREATE, N-SET", "`notices.mpps`"),
    COMMITMENT_CLASS: (
        "N-ACTION; N-EVENT-REPORT on an association that this node opens, with the roles reversed",
        "`notices.commitment`",
    ),
}


def provided(notices: Notices) -> list[Service]:
    """What the listener serves with these settings. Raises KeyError where it takes a class that stands nowhere here."""
    storage = {uid for uid, _ in storage_sop_classes()}
    contexts = supported_contexts(ian=notices.ian, mpps=notices.mpps, commitment=notices.commitment)
    others = [context for context in contexts if str(context.abstract_syntax) not in storage]
    served = [str(context.abstract_syntax) for context in others if context.scu_role is not False]
    rows = [Service(UID(uid).name, "SCP", uid, *_PROVIDED[uid]) for uid in served]
    return [*rows, Service("Storage", "SCP", "", "C-STORE", "always: all storage classes below")]


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
        ),
        Service(
            UID(scu.STUDY_ROOT_FIND).name,
            "SCU",
            scu.STUDY_ROOT_FIND,
            "C-FIND",
            "reading back (IMAGE level); `expected_counts` of a peer (STUDY level)",
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
            "N-EVENT-REPORT on an association that the manager opens, with the roles reversed",
            "`ups.managers`",
        ),
    ]
