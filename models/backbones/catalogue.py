"""What is known of a network before it is built. Loads no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

CHANNELS = 3
"""Grey is repeated to three: every convention and every set of ImageNet weights here was made for colour."""


@dataclass(frozen=True)
class BackboneInfo:
    """One network.

    convention: the ``convention`` of :class:`models.preprocess.Scale` that gives the numbers it was trained on.
    smallest_side: fewer rows or columns (pixels) leave no feature map.
    native_side: rows and columns (pixels) of the ImageNet training; others work, with another grid of maps.
    head: "gap_dense" is global average pooling and one linear layer, whose maps have a closed form.
    """

    name: str
    family: str
    convention: str
    smallest_side: int
    head: Literal["gap_dense"] = "gap_dense"
    native_side: int = 224


@dataclass(frozen=True)
class Variant:
    """A member of a family: its name in ``keras.applications``, and the side (pixels) it was trained at."""

    application: str
    native_side: int = 224


@dataclass(frozen=True)
class Family:
    """Networks of ``keras.applications`` that share their input and their layout.

    keras_module: the part of ``keras.applications`` whose ``preprocess_input`` is the family's.
    substitute: gives, for a layer of Keras's network and the name it is to have, the layer to put in its place, or None
        to keep it.
    check_source: raises ArchitectureError where arrays of a substituted layer are not those the substitute stands for;
        gets the layer's arrays by name.
    """

    name: str
    convention: str
    keras_module: str
    variants: Mapping[str, Variant]
    smallest_side: int = 32
    substitute: Callable[[Any, str], Any | None] | None = None
    check_source: Callable[[Mapping[str, Any]], None] | None = None

    def info(self, name: str) -> BackboneInfo:
        """Raises KeyError for a name that is none of the family's."""
        return BackboneInfo(
            name=name,
            family=self.name,
            convention=self.convention,
            smallest_side=self.smallest_side,
            native_side=self.variants[name].native_side,
        )
