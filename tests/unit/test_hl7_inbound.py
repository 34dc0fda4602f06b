"""What incoming messages ask for, in the ways that systems of the field write them."""

from __future__ import annotations

import pytest

from db.identities import Identity
from node.worklist.hl7 import inbound
from node.worklist.hl7.er7 import Message, UnusableMessage, read

MSH = "MSH|^~\\&|RIS|HOSP|RADNODE||20260301||{}|77|P|2.5.1||||||UNICODE UTF-8"
PID = "PID|1||PID-9^^^OTHER^PI~ID-1^^^HOSP^MR||Doe^Jane^M^Jr^Dr||19700101|F"


def message(kind: str, *segments: str) -> Message:
    return read("\r".join([MSH.format(kind), *segments, ""]).encode(), "ASCII")


def test_an_imaging_order_has_its_numbers_where_ihe_puts_them() -> None:
    given, withdrawn = inbound.orders(
        message(
            "ORM^O01^ORM_O01",
            PID.replace("PID-9^^^OTHER^PI~", ""),
            "ORC|NW|PL-1|FI-1||||^^^20260302103000^^S",
            "OBR|1|PL-1|FI-1|XRCH^Chest PA^L||||||||||||||ACC-1|RP-1|SPS-1||||CR|||^^^^^S",
            "ZDS|1.2.840.7^RIS^Application^DICOM",
        ),
        "hl7:RIS",
    )
    assert withdrawn == []
    (order,) = given
    assert (order.source, order.accession_number, order.requested_procedure_id) == ("hl7:RIS", "ACC-1", "RP-1")
    assert (order.patient_id, order.patient_name) == ("ID-1", "Doe^Jane^M^Dr^Jr")
    assert (order.patient_birth_date, order.patient_sex) == ("19700101", "F")
    assert (order.priority, order.procedure, order.modality) == ("stat", "Chest PA", "CR")
    assert (order.study_instance_uid, order.scheduled_date) == ("1.2.840.7", "20260302")
    assert (order.placer_number, order.filler_number) == ("PL-1", "FI-1")


def test_an_omi_order_has_them_in_segments_of_its_own() -> None:
    given, _ = inbound.orders(
        message(
            "OMI^O23^OMI_O23",
            PID,
            "ORC|NW|PL-1|FI-1",
            "TQ1|1||||||20260302||A^ASAP^HL70485",
            "OBR|1|PL-1|FI-1|^Chest PA",
            "IPC|ACC-1|RP-1|1.2.840.7|SPS-1|CT",
        ),
        "hl7:RIS",
    )
    (order,) = given
    assert (order.accession_number, order.requested_procedure_id) == ("ACC-1", "RP-1")
    assert (order.priority, order.modality, order.scheduled_date) == ("urgent", "CT", "20260302")


def test_each_order_of_a_message_counts_and_some_are_taken_back() -> None:
    given, withdrawn = inbound.orders(
        message("ORM^O01", PID, "ORC|XO|1|F-1", "OBR|1", "ORC|CA|2|F-2", "OBR|2", "ORC|NW|3|F-3"), "hl7:RIS"
    )
    assert [order.accession_number for order in given] == ["F-1", "F-3"]
    assert [order.accession_number for order in withdrawn] == ["F-2"]
    assert {order.priority for order in given} == {"routine"}


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (PID,),
        ("ORC|NW|1|F-1",),
        (PID, "ORC|NW"),
        (PID, f"ORC|NW|1|{'F' * 65}"),
        ("PID|1||^^^HOSP", "ORC|NW|1|F-1"),
        (PID, *["ORC|NW|1|F-1"] * 201),
        (PID, "ORC|NW|1|F-1", PID, "ORC|NW|2|F-2"),
    ],
)
def test_an_order_that_names_nothing_is_refused(segments: tuple[str, ...]) -> None:
    with pytest.raises(UnusableMessage):
        inbound.orders(message("ORM^O01", *segments), "hl7:RIS")


def test_an_orders_patient_is_named_by_the_authority_that_counts() -> None:
    told = message("ORM^O01", PID, "ORC|NW|1|F-1")
    for authority, patient in (("HOSP", "ID-1"), ("OTHER", "PID-9"), ("", "PID-9")):
        ((order,), _) = inbound.orders(told, "hl7:RIS", authority)
        assert order.patient_id == patient
    with pytest.raises(UnusableMessage):
        inbound.orders(message("ORM^O01", "PID|1|ID-1|ID-1^^^OTHER", "ORC|NW|1|F-1"), "hl7:RIS", "HOSP")


def test_a_merge_names_who_goes_and_who_stays_by_one_authority() -> None:
    merge = message(
        "ADT^A40^ADT_A39",
        "EVN||20260301",
        "PID|1||PID-9^^^OTHER~ID-2^^^HOSP||Doe^Jane^^^^^L~Roe^Jane^^^^^M||19700102|M",
        "MRG|PID-8^^^OTHER~ID-1^^^HOSP",
        "PID|2||ID-4^^^HOSP",
        "MRG|ID-3^^^HOSP",
    )
    first, second = inbound.changes(merge, "ADT^HOSP", "77", "HOSP")
    assert (first.superseded_id, first.kind, first.control_id) == ("ID-1", "merge", "77")
    assert first.identity == Identity("ID-2", "HOSP", "Doe^Jane", "19700102", "M")
    assert (second.superseded_id, second.identity) == ("ID-3", Identity("ID-4", "HOSP"))
    (one, _) = inbound.changes(merge, "ADT^HOSP", "77", "")
    assert (one.superseded_id, one.identity.patient_id) == ("PID-8", "PID-9")


def test_an_update_keeps_the_identifier_and_changes_the_rest() -> None:
    (change,) = inbound.changes(message("ADT^A08^ADT_A01", PID), "ADT^HOSP", "77", "HOSP")
    assert (change.superseded_id, change.kind) == ("ID-1", "update")
    assert change.identity == Identity("ID-1", "HOSP", "Doe^Jane^M^Dr^Jr", "19700101", "F")


@pytest.mark.parametrize(
    ("kind", "segments"),
    [
        ("ADT^A40", ()),
        ("ADT^A40", (PID,)),
        ("ADT^A40", (PID, "MRG|")),
        ("ADT^A40", (PID, "MRG|PID-9^^^OTHER")),
        ("ADT^A40", (PID, f"MRG|{'1' * 65}")),
        ("ADT^A08", ("EVN|A08",)),
        ("ADT^A08", ('PID|1||""',)),
    ],
)
def test_a_change_without_usable_identifiers_is_refused(kind: str, segments: tuple[str, ...]) -> None:
    with pytest.raises(UnusableMessage):
        inbound.changes(message(kind, *segments), "ADT^HOSP", "77", "")


def test_names_in_several_scripts_become_groups() -> None:
    patient = message("ADT^A08", "PID|1||ID-1||Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P").first(
        "PID"
    )
    assert patient is not None
    assert inbound.name_of(patient) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
