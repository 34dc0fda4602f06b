"""Settings of the hospital's other DICOM systems: `[worklist]` and `[notices]`."""

from __future__ import annotations

from pydantic import Field

from node.settings_section import Section


class Worklist(Section):
    """The modality worklist that is asked for a study's order, for routes that say `ask_worklist`."""

    peer: str = Field(
        "",
        description="Name of the peer that serves the modality worklist; empty asks none, so that orders come by HL7 "
        "only.",
    )
    wait_s: float = Field(
        15.0,
        ge=0,
        description="Seconds a study waits for its order; then it is read with its route's priority, and its order is "
        "asked for in the background.",
    )
    timeout_s: float = Field(5.0, gt=0, description="Seconds to wait for the worklist to connect, and to answer.")
    retry_first_s: float = Field(
        5.0, gt=0, description="Wait until it is asked again, where it is away or knows no order; doubles each time."
    )
    retry_max_s: float = Field(300.0, gt=0, description="Longest wait until it is asked again.")
    retry_for_s: float = Field(86400.0, gt=0, description="Seconds after which a study's order is asked for no more.")
    keep_days: float = Field(
        90.0, gt=0, description="Days after which an order is forgotten that no study was matched with."
    )


class Notices(Section):
    """What peers may tell of a study that is done. A notice only shortens the wait for silence; see integration.md."""

    ian: bool = Field(True, description="Take Instance Availability Notifications.")
    mpps: bool = Field(True, description="Take Modality Performed Procedure Steps.")
    commitment: bool = Field(
        False,
        description="Answer requests for storage commitment. A modality may delete what is committed: only where this "
        "node keeps images for as long as an archive.",
    )
    commitment_although_deleting: bool = Field(
        False,
        description="Permit commitment although [retention] deletes images: only where whoever asks keeps its own.",
    )
    commitment_retry_s: float = Field(
        30.0, gt=0, description="Seconds until a commitment report is sent again that the peer did not take."
    )
    commitment_for_s: float = Field(86400.0, gt=0, description="Seconds after which it is not sent again.")
