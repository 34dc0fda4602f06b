"""A name in each of DICOM's nineteen character sets (PS3.3 C.12.1.1.2): whole in the record and on the page, and byte
for byte in the results."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from lxml import html
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from node.header import read_header
from tests.support.records import image, receive
from tests.support.result_samples import analysed, header, provenance
from tests.support.web import site
from workers.results import build_results
from workers.results.source import raw_bytes
from workers.results.subject import put_raw

EXPLICIT = "1.2.840.10008.1.2.1"
CHARACTER_SET, NAME = 0x00080005, 0x00100010
ESC = b"\x1b"

# (Specific Character Set, the name, its bytes). For sets with code extensions the escapes of PS3.3 table C.12-4.
NAMES: list[tuple[str, str, bytes]] = [
    ("", "Doe^Jane", b"Doe^Jane"),
    ("ISO_IR 100", "Müller^Jürgen", "Müller^Jürgen".encode("iso8859-1")),
    ("ISO_IR 101", "Wałęsa^Łucja", "Wałęsa^Łucja".encode("iso8859-2")),
    ("ISO_IR 109", "Ħaż^Ġorġ", "Ħaż^Ġorġ".encode("iso8859-3")),
    ("ISO_IR 110", "Bērziņš^Jānis", "Bērziņš^Jānis".encode("iso8859-4")),
    ("ISO_IR 144", "Люксембург", "Люксембург".encode("iso8859-5")),
    ("ISO_IR 127", "قباني^لنزار", "قباني^لنزار".encode("iso8859-6")),
    ("ISO_IR 126", "Διονυσιος", "Διονυσιος".encode("iso8859-7")),
    ("ISO_IR 138", "שרון^דבורה", "שרון^דבורה".encode("iso8859-8")),
    ("ISO_IR 148", "Çavuşoğlu^İnci", "Çavuşoğlu^İnci".encode("iso8859-9")),
    ("ISO_IR 166", "สมชาย^ใจดี", "สมชาย^ใจดี".encode("tis-620")),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", "ﾔﾏﾀﾞ^ﾀﾛｳ".encode("shift_jis")),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^小东".encode()),
    ("GB18030", "Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^小东".encode("gb18030")),
    ("GBK", "Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^小东".encode("gbk")),
    (
        "\\ISO 2022 IR 87",
        "Yamada^Tarou=山田^太郎",
        b"Yamada^Tarou=" + ESC + b"$B;3ED" + ESC + b"(B^" + ESC + b"$BB@O:" + ESC + b"(B",
    ),
    ("\\ISO 2022 IR 159", "Mori=丂", b"Mori=" + ESC + b"$(D0!" + ESC + b"(B"),
    (
        "\\ISO 2022 IR 149",
        "Hong^Gildong=洪^吉洞",
        b"Hong^Gildong=" + ESC + b"$)C\xfb\xf3^" + ESC + b"$)C\xd1\xce\xd4\xd7",
    ),
    (
        "\\ISO 2022 IR 58",
        "Zhang^XiaoDong=张^小东",
        b"Zhang^XiaoDong=" + ESC + b"$)A\xd5\xc5^" + ESC + b"$)A\xd0\xa1\xb6\xab",
    ),
]


def sent(character_set: str, name: bytes) -> Dataset:
    """A radiograph whose name has these bytes, whatever a library would write."""
    made = header(PatientName=None)
    put_raw(made, NAME, "PN", name + b" " * (len(name) % 2))
    declared = character_set.encode()
    if declared:
        put_raw(made, CHARACTER_SET, "CS", declared + b" " * (len(declared) % 2))
    else:
        made.pop(CHARACTER_SET, None)
    return made


def read_name(character_set: str, name: bytes) -> str:
    """As the receiver reads it off a data set."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, sent(character_set, name))
    return read_header(buffer.getvalue(), EXPLICIT).patient_name


def test_there_are_nineteen() -> None:
    assert len({character_set for character_set, _, _ in NAMES}) == 19


@pytest.mark.parametrize(("character_set", "name", "raw"), NAMES, ids=[one[0] or "default" for one in NAMES])
def test_a_name_is_whole_in_the_record_and_in_the_results(character_set: str, name: str, raw: bytes) -> None:
    # The record: decoded.
    assert read_name(character_set, raw) == name
    # Report and picture: the very bytes, in a character set that says what they are.
    results = build_results([analysed(sent(character_set, raw), ["pneumonia"])], provenance())
    assert {one.ref.sop_class_uid for one in results}
    for one in results:
        read = dcmread(BytesIO(one.data))
        assert raw_bytes(read, NAME).rstrip(b" ") == raw
        assert raw_bytes(read, CHARACTER_SET).decode().strip() == character_set


def test_every_name_is_whole_on_the_page(tmp_path: Path) -> None:
    with site(tmp_path) as ward:
        received = [
            image(number, f"5.{number}", patient_name=read_name(character_set, raw))
            for number, (character_set, _, raw) in enumerate(NAMES, start=1)
        ]
        receive(ward.record, *received)
        answer = ward.logged_in("ada").get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    rows = html.document_fromstring(answer.content).xpath("//tr[@data-key]")
    shown = {row.get("data-key"): row.xpath("string(.//bdi[@class='patient'])") for row in rows}
    # In reading order: a comma between the components, a slash between the groups.
    assert shown == {
        f"5.{number}": name.replace("^", ", ").replace("=", " / ") for number, (_, name, _) in enumerate(NAMES, start=1)
    }
