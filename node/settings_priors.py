"""Settings of prior studies: `[priors]`."""

from __future__ import annotations

from pydantic import Field

from node.settings_section import Section


class Priors(Section):
    """Where the earlier studies of a patient are fetched from, for models that compare. The shipped model does not."""

    peer: str = Field(
        "", description="Name of the peer that holds earlier studies; empty fetches none, and such models read without."
    )
    wait_s: float = Field(
        60.0, ge=0, description="Seconds a study waits for its priors; then it is read without, and its report says so."
    )
    move: bool = Field(
        True,
        description="Where the peer does not give them by C-GET, have it send them to the listener by C-MOVE. It must "
        "know this node's AE title and address, and name it as the move originator.",
    )
    max_images: int = Field(200, ge=1, le=10000, description="Images of one study's priors; more are not fetched.")
    keep_hours: float = Field(
        24.0, ge=0, description="Hours after a study's last job has ended at which its priors are deleted here."
    )
