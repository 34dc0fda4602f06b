"""Settings of what is kept for how long: `[retention]`."""

from __future__ import annotations

from pydantic import Field, model_validator

from node.settings_section import Section


class Retention(Section):
    """What is kept for how long. Days count from the end of the last thing that happened; 0 keeps for ever."""

    images_days: int = Field(
        90,
        ge=0,
        description="Days after which received images go, once every result of their study was taken by its "
        "destinations. What was found in them is kept.",
    )
    results_days: int = Field(
        365, ge=0, description="Days after which reports and pictures go that every destination has proved to hold."
    )
    unconfirmed_results_days: int = Field(
        0, ge=0, description="The same for results sent to peers that offer no proof that they hold them."
    )
    waiting_days: int = Field(
        0,
        ge=0,
        description="Days after which the images of a study go although something of it waits for a person: images "
        "in quarantine, parked jobs, dead letters. It is given up with them.",
    )
    aside_days: int = Field(
        0, ge=0, description="Days after which objects go that came under a UID in use and were set aside."
    )
    aside_max_bytes: int = Field(
        10 * 1024**3,
        ge=0,
        description="Most bytes in quarantine: images of another patient than their study's, objects set aside. "
        "More are answered 0xA700, and stay with their sender.",
    )
    orphans_days: int = Field(
        30,
        ge=0,
        description="Days after which files go that the record does not name; nobody was told Success for them.",
    )
    notes_days: int = Field(
        365, ge=0, description="Days after which notes of refused objects and settled storage commitments go."
    )
    audit_days: int = Field(
        0,
        ge=0,
        description="Days after which the oldest part of the audit trail goes; what a collector has not got stays. "
        "The law asks for years.",
    )
    delete_early: bool = Field(
        False,
        description="Where the disk runs low, let finished studies lose their images before their days are over, the "
        "oldest first.",
    )
    early_below_bytes: int = Field(
        5 * 1024**3, ge=0, description="Free disk below which it counts as low, in bytes; doctor and metrics say so."
    )
    early_until_bytes: int = Field(10 * 1024**3, ge=0, description="Free disk at which deleting early ends, in bytes.")
    interval_s: float = Field(60.0, gt=0, description="Seconds between two looks at what may go.")
    batch: int = Field(20, ge=1, le=1000, description="Studies, or so many results, that one look takes up at most.")

    @model_validator(mode="after")
    def _low_before_enough(self) -> Retention:
        if self.early_below_bytes > self.early_until_bytes:
            raise ValueError("early_below_bytes must not be more than early_until_bytes, or deleting would never begin")
        return self
