"""Which transfer syntaxes and SOP classes the node takes, computed from what is installed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context

from node.commitment import COMMITMENT_CLASS
from node.lean import is_decodable

_OFFERED = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.5",
)

_VERIFICATION = "1.2.840.10008.1.1"
AVAILABILITY_CLASS = "1.2.840.10008.5.1.4.33"
PERFORMED_STEP_CLASS = "1.2.840.10008.3.1.2.3.3"
UPS_PUSH_CLASS = "1.2.840.10008.5.1.4.34.6.1"
UPS_WATCH_CLASS = "1.2.840.10008.5.1.4.34.6.2"
UPS_PULL_CLASS = "1.2.840.10008.5.1.4.34.6.3"
UPS_EVENT_CLASS = "1.2.840.10008.5.1.4.34.6.4"
UPS_QUERY_CLASS = "1.2.840.10008.5.1.4.34.6.5"
WORKITEM_CLASSES = (UPS_PUSH_CLASS, UPS_PULL_CLASS, UPS_WATCH_CLASS, UPS_QUERY_CLASS)
_PLAIN = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")

_SECONDARY_CAPTURE = frozenset(
    {"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.3"}
)
_FOR_PROCESSING = frozenset({"1.2.840.10008.5.1.4.1.1.1.1.1"})
_READABLE = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # CR
        "1.2.840.10008.5.1.4.1.1.1.1",  # DX, for presentation
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    }
)


@dataclass(frozen=True)
class DecodableSyntax:
    """A transfer syntax that can be taken; ``plugins`` decode it, none for uncompressed ones."""

    uid: str
    name: str
    plugins: tuple[str, ...]


@cache
def decodable_transfer_syntaxes() -> tuple[DecodableSyntax, ...]:
    """The offered transfer syntaxes whose pixels an installed decoder can read, preferred first."""
    found = []
    for uid in _OFFERED:
        decoder = get_decoder(uid)
        if decoder.is_available:
            found.append(DecodableSyntax(uid, UID(uid).name, tuple(sorted(decoder.available_plugins))))
    return tuple(found)


@cache
def accepted_transfer_syntaxes() -> tuple[str, ...]:
    """The UIDs of `decodable_transfer_syntaxes`, for a process that has no decoder loaded."""
    return tuple(uid for uid in _OFFERED if is_decodable(uid))


def undecodable_transfer_syntaxes() -> tuple[str, ...]:
    """The UIDs of those that would be offered, were their decoder installed."""
    return tuple(uid for uid in _OFFERED if uid not in {found.uid for found in decodable_transfer_syntaxes()})


@cache
def storage_sop_classes() -> tuple[tuple[str, str], ...]:
    """(UID, name) of every storage SOP class that pynetdicom knows: what a PACS may route in one study."""
    uids = (str(context.abstract_syntax) for context in AllStoragePresentationContexts)
    return tuple((uid, UID(uid).name) for uid in uids)


@cache
def supported_contexts(
    *,
    store: bool = True,
    ian: bool = True,
    mpps: bool = True,
    commitment: bool = False,
    manager_events: bool = False,
    workitems: bool = False,
) -> tuple[PresentationContext, ...]:
    """What the listener accepts: C-ECHO, every storage class, reports of storage commitment, and notices.

    The provider of storage commitment opens the association to report, hence with the roles reversed (PS3.4 J.3.3).

    Args:
        store: the storage classes.
        ian: Instance Availability Notifications.
        mpps: Modality Performed Procedure Steps.
        commitment: requests for storage commitment, in the usual roles.
        manager_events: reports of managers on work items that this node performs; they come with the roles reversed.
        workitems: pushing work items to this node, and watching them.
    """
    syntaxes = list(accepted_transfer_syntaxes())
    reports = build_context(COMMITMENT_CLASS, list(_PLAIN))
    # From the requestor's side: with the first it asks, with the second it reports.
    reports.scu_role, reports.scp_role = commitment, True
    events = build_context(UPS_EVENT_CLASS, list(_PLAIN))
    events.scu_role, events.scp_role = False, True
    return (
        build_context(_VERIFICATION, list(_PLAIN)),
        *(build_context(uid, syntaxes) for uid, _ in storage_sop_classes() if store),
        reports,
        *([build_context(AVAILABILITY_CLASS, list(_PLAIN))] if ian else []),
        *([build_context(PERFORMED_STEP_CLASS, list(_PLAIN))] if mpps else []),
        *([events] if manager_events else []),
        *(build_context(uid, list(_PLAIN)) for uid in WORKITEM_CLASSES if workitems),
    )


def readable_sop_classes(secondary_capture: bool = False, for_processing: bool = False) -> frozenset[str]:
    """SOP classes whose pixels a model may read; all others are stored only.

    Args:
        secondary_capture: also secondary captures, greyscale multi-frame ones included. Older archives and the public
            chest collections hold radiographs as such; admission rules still ask for modality and view.
        for_processing: also DX images for processing, which lack the vendor's rendering that models learned from.
    """
    readable = _READABLE
    if secondary_capture:
        readable |= _SECONDARY_CAPTURE
    if for_processing:
        readable |= _FOR_PROCESSING
    return readable
