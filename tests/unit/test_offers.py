from __future__ import annotations

import pytest

from workers.offers import (
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ENHANCED_SR,
    EXPLICIT_LE,
    IMPLICIT_LE,
    Choice,
    choose,
    offers,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
JPEG = "1.2.840.10008.1.2.4.50"


def test_every_report_class_is_offered_in_both_plain_encodings() -> None:
    found = offers([(COMPREHENSIVE_3D_SR, EXPLICIT_LE)], "auto")
    assert found == [
        (sop_class, syntax)
        for sop_class in (COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ENHANCED_SR)
        for syntax in (EXPLICIT_LE, IMPLICIT_LE)
    ]


def test_a_compressed_object_is_offered_as_it_is() -> None:
    assert offers([(SECONDARY_CAPTURE, JPEG)], "auto") == [(SECONDARY_CAPTURE, JPEG)]


def test_equal_objects_share_a_context() -> None:
    assert len(offers([(SECONDARY_CAPTURE, EXPLICIT_LE)] * 3, "auto")) == 2


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ([(ENHANCED_SR, EXPLICIT_LE), (COMPREHENSIVE_SR, EXPLICIT_LE)], Choice(COMPREHENSIVE_SR, False)),
        ([(COMPREHENSIVE_3D_SR, IMPLICIT_LE)], Choice(COMPREHENSIVE_3D_SR, True)),
        ([(COMPREHENSIVE_3D_SR, IMPLICIT_LE), (ENHANCED_SR, EXPLICIT_LE)], Choice(COMPREHENSIVE_3D_SR, True)),
        ([(SECONDARY_CAPTURE, EXPLICIT_LE)], None),
        ([], None),
    ],
)
def test_the_best_accepted_class_is_taken(accepted: list[tuple[str, str]], expected: Choice | None) -> None:
    assert choose(COMPREHENSIVE_3D_SR, EXPLICIT_LE, "auto", accepted) == expected


def test_a_peer_set_to_one_class_gets_no_other() -> None:
    accepted = [(COMPREHENSIVE_3D_SR, EXPLICIT_LE), (ENHANCED_SR, EXPLICIT_LE)]
    assert choose(COMPREHENSIVE_3D_SR, EXPLICIT_LE, "enhanced", accepted) == Choice(ENHANCED_SR, False)
    assert choose(COMPREHENSIVE_3D_SR, EXPLICIT_LE, "comprehensive", accepted) is None


def test_images_never_change_their_class() -> None:
    accepted = [(ENHANCED_SR, EXPLICIT_LE), (SECONDARY_CAPTURE, IMPLICIT_LE)]
    assert choose(SECONDARY_CAPTURE, EXPLICIT_LE, "enhanced", accepted) == Choice(SECONDARY_CAPTURE, True)
