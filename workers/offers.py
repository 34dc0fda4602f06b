"""Which presentation contexts to offer for results, and which of the accepted ones to use. Pure.

A structured report goes out under the best class the peer takes: Comprehensive 3D, Comprehensive, Enhanced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLICIT_LE = "1.2.840.10008.1.2"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"

# By the name in the peer's settings.
SR_CLASSES: dict[str, tuple[str, ...]] = {
    "auto": (COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ENHANCED_SR),
    "comprehensive-3d": (COMPREHENSIVE_3D_SR,),
    "comprehensive": (COMPREHENSIVE_SR,),
    "enhanced": (ENHANCED_SR,),
}

Context = tuple[str, str]
"""(SOP Class UID, Transfer Syntax UID)"""


@dataclass(frozen=True)
class Choice:
    """How one object goes out. as_implicit: encoded anew in Implicit VR Little Endian."""

    sop_class_uid: str
    as_implicit: bool


def classes_for(sop_class_uid: str, sr_setting: str) -> tuple[str, ...]:
    """The classes an object may be sent under, the best first."""
    return SR_CLASSES[sr_setting] if sop_class_uid == COMPREHENSIVE_3D_SR else (sop_class_uid,)


def offers(objects: Iterable[Context], sr_setting: str) -> list[Context]:
    """Every context worth offering for these objects, without repeats, in a stable order.

    A key object selection names the report under the class that the peer takes it in, so that is found out with it.
    """
    found: dict[Context, None] = {}
    wanted = list(objects)
    wanted += [(COMPREHENSIVE_3D_SR, syntax) for sop_class, syntax in wanted if sop_class == KEY_OBJECTS]
    for sop_class, syntax in wanted:
        for candidate in classes_for(sop_class, sr_setting):
            found[(candidate, syntax)] = None
            if syntax == EXPLICIT_LE:
                found[(candidate, IMPLICIT_LE)] = None
    return list(found)


def choose(sop_class_uid: str, syntax: str, sr_setting: str, accepted: Sequence[Context]) -> Choice | None:
    """The best way to send an object through the accepted contexts; None where there is none."""
    for candidate in classes_for(sop_class_uid, sr_setting):
        if (candidate, syntax) in accepted:
            return Choice(candidate, as_implicit=False)
        if syntax == EXPLICIT_LE and (candidate, IMPLICIT_LE) in accepted:
            return Choice(candidate, as_implicit=True)
    return None
