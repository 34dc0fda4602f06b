"""Settings of unified procedure steps: `[ups]`, `[ups.managers.NAME]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from node.settings_section import Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# Code Value and Coding Scheme Designator (VR SH): no delimiter of DICOM, no wild card.
_Short = Annotated[str, Field(max_length=16, pattern=r"^[^\\*?\x00-\x1f\x7f]*$")]


class WorkitemCode(Section):
    """A code of what is to be done, as the manager's work items have it."""

    value: _Short = Field(min_length=1, description="Code Value.")
    scheme: _Short = Field(min_length=1, description="Coding Scheme Designator.")


class UpsManager(Section):
    """A worklist manager whose work items this node performs (UPS Pull)."""

    peer: str = Field(description="Name of the peer that serves it.")
    station: _Short = Field(
        "",
        description="Code Value of Scheduled Station Name Code Sequence in the work items that are this node's; empty "
        "does not ask by it.",
    )
    station_scheme: _Short = Field("99RADNODE", description="Coding Scheme Designator of `station`.")
    workitem_codes: tuple[WorkitemCode, ...] = Field(
        (), description="Scheduled Workitem Codes that this node performs; empty does not ask by them."
    )
    poll_s: float = Field(10.0, ge=0.1, description="Seconds between two questions for scheduled work items.")
    most_at_once: int = Field(8, ge=1, le=100, description="Work items that this node has in progress at once.")
    subscribe: bool = Field(
        True,
        description="Subscribe to each claimed work item, to hear of requests to cancel it; they come to the DICOM "
        "listener.",
    )
    timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for the manager to connect, and to answer.")
    retrieve_from: str = Field(
        "",
        description="Name of the peer that is asked by C-MOVE to send the images of a claimed work item to this node; "
        "empty asks nobody, so that they come by the peer's own rules.",
    )
    retrieve_after_s: float = Field(
        10.0, ge=0, description="Seconds for which they may come by themselves before they are asked for."
    )
    images_for_s: float = Field(
        3600.0, gt=0, description="Seconds after which a claimed work item is canceled whose images have not come."
    )
    perform_for_s: float = Field(
        86400.0, gt=0, description="Seconds after which a claimed work item is canceled that could not be finished."
    )
    retry_first_s: float = Field(
        5.0, gt=0, description="Wait until the manager is told again what it did not take; doubles each time."
    )
    retry_max_s: float = Field(300.0, gt=0, description="Longest wait until it is told again.")
    retry_for_s: float = Field(
        604800.0, gt=0, description="Seconds after which it is told no more, and a person must look."
    )

    @model_validator(mode="after")
    def _narrow(self) -> UpsManager:
        if not self.station and not self.workitem_codes:
            raise ValueError("name station or workitem_codes, or this node would claim every work item of the manager")
        return self


class Ups(Section):
    """Unified procedure steps (PS3.4 annex CC)."""

    push: bool = Field(
        False,
        description="Take work items that peers push, serve them as their manager (UPS Push, Pull, Watch and Query), "
        "and report their events; who may is said by a peer's `may`.",
    )
    study_for_s: float = Field(
        604800.0, gt=0, description="Seconds after which a pushed work item is canceled whose images have not come."
    )
    most_open: int = Field(
        10_000, ge=1, description="Pushed work items that may wait or be in progress at once; more are refused."
    )
    keep_days: float = Field(30.0, gt=0, description="Days after which a pushed work item that has ended is forgotten.")
    keep_locked_days: float = Field(
        365.0, gt=0, description="The same for one that a subscriber holds by a deletion lock."
    )
    event_retry_s: float = Field(
        30.0, gt=0, description="Seconds until an event is reported again to a subscriber that was away."
    )
    event_for_s: float = Field(86400.0, gt=0, description="Seconds after which it is not reported any more.")
    managers: dict[Name, UpsManager] = Field(
        default_factory=dict, description="Worklist managers whose work items this node performs, by name."
    )
