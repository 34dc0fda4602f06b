"""What may be said about any data set, whatever its kind. The loaders' own options derive from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import DatasetError


class Options(BaseModel):
    """Common options.

    name: of the set, for reports; "" takes the kind's own.
    source: overrides the source of every sample where the kind has none of its own.
    images: the images' folder; given, every image is looked for, and a missing one is a problem.
    part_of_set: the folder is known to hold only some of the table's images, as for a try; those that are not there are
        counted and left aside, and are no problem.
    rename: the data set's label to another key; several to one key merge them (any positive is positive).
    drop: labels, after renaming, whose positive samples are left aside altogether.
    labels: which labels, in this order; empty takes all. In an exclusive set the classes not named must be dropped or
        merged, so that no image is lost in silence.
    exclusive: False makes an exclusive set multi-label: an image of a class that is not in ``labels`` is then negative
        for all that are. True asks that every sample has exactly one positive label. None keeps the kind's own.
    max_bad_fraction: more rows or images than this that cannot be used are an error, fewer a problem.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    source: str = ""
    images: Path | None = None
    part_of_set: bool = False
    rename: Mapping[str, str] = Field(default_factory=dict)
    drop: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    exclusive: bool | None = None
    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)


OptionsT = TypeVar("OptionsT", bound=Options)


def parse(model: type[OptionsT], kind: str, raw: Mapping[str, Any]) -> OptionsT:
    """Raises DatasetError naming each option that is unknown, missing or of the wrong type."""
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        known = ", ".join(sorted(model.model_fields))
        raise DatasetError(f"options of data set kind {kind!r}: {faults} (known: {known})") from error
