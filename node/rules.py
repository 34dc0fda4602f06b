"""Routing rules as data: what a route looks at, and what it asks for. The deciding is in `node.routing`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LONGEST_TEXT = 64
"""VR LO holds no more (PS3.5 section 6.2); a peer that sends more gets no more of a pattern's time."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no valid regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Match(BaseModel):
    """Conditions on an image's header; all that are given must hold, an empty one always does.

    Lists hold alternatives, compared without regard to case; "" stands for an absent value and a trailing * for any
    ending. Patterns are regular expressions searched for anywhere in the text, without regard to case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: tuple[str, ...] = Field((), description="Modality (0008,0060).")
    sop_class: tuple[str, ...] = Field((), description="SOP Class UID.")
    body_part: tuple[str, ...] = Field((), description="Body Part Examined (0018,0015).")
    view: tuple[str, ...] = Field((), description="View Position (0018,5101), or the view code.")
    calling_ae: tuple[str, ...] = Field((), description="AE title of the sender.")
    study_description: Pattern | None = Field(None, description="Study Description (0008,1030).")
    series_description: Pattern | None = Field(None, description="Series Description (0008,103E).")
    protocol_name: Pattern | None = Field(None, description="Protocol Name (0018,1030).")
    min_age_years: float | None = Field(None, ge=0, description="Least age in years; an unknown age does not match.")
    max_age_years: float | None = Field(None, ge=0, description="Greatest age in years; an unknown age does not match.")


class Route(BaseModel):
    """Which images go to which models, when, and where the results go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(description="Unique; results and revisions are counted per route.")
    models: tuple[str, ...] = Field(min_length=1, description="Ids of the models that read what matches.")
    match: Match = Match()
    destinations: tuple[str, ...] = Field(("sender",), description="Peer names, or sender.")
    priority: Literal["stat", "urgent", "routine"] = Field("routine", description="STAT overtakes everything else.")
    mode: Literal["study", "instance"] = Field("study", description="instance reads each image as it arrives.")
    quiet_period_s: float | None = Field(
        None, ge=0, description="Seconds without a new image; default from [completeness]."
    )
    deadline_s: float | None = Field(
        None, gt=0, description="Seconds after which waiting ends; default from [completeness]."
    )
    required_series: tuple[Pattern, ...] = Field(
        (), description="Patterns that must each match some series description."
    )
    ask_worklist: bool = Field(
        False, description="Ask for each study's order first, for its priority and to hold its patient against it."
    )
    min_instances: int = Field(1, ge=1, description="Images there must be before the study is complete.")

    @classmethod
    def chest_radiographs(cls) -> Route:
        """The route a node without a settings file has."""
        return cls(
            name="chest-radiographs",
            models=("cxr-pneumonia",),
            match=Match(modality=("CR", "DX"), body_part=("CHEST", "THORAX", "")),
            mode="instance",
        )
