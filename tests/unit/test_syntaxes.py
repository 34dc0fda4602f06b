"""What the node offers is what the installed decoders can read."""

from __future__ import annotations

import subprocess
import sys

from node.syntaxes import (
    accepted_transfer_syntaxes,
    decodable_transfer_syntaxes,
    readable_sop_classes,
    storage_sop_classes,
)

REPORT, KEY_OBJECTS, PRESENTATION, SEGMENTATION = (
    "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.88.59",
    "1.2.840.10008.5.1.4.1.1.11.1",
    "1.2.840.10008.5.1.4.1.1.66.4",
)


def test_all_installed_decoders_are_offered_native_first() -> None:
    found = {syntax.uid: syntax.plugins for syntax in decodable_transfer_syntaxes()}
    assert next(iter(found)) == "1.2.840.10008.1.2.1"
    assert len(found) == 16
    assert found["1.2.840.10008.1.2.1.99"] == ()
    assert "gdcm" in found["1.2.840.10008.1.2.4.70"]
    assert "pylibjpeg" in found["1.2.840.10008.1.2.4.201"]
    assert all(syntax.name and syntax.name != syntax.uid for syntax in decodable_transfer_syntaxes())


def test_what_a_listener_takes_without_loading_a_decoder_is_what_decoders_can_read() -> None:
    assert accepted_transfer_syntaxes() == tuple(syntax.uid for syntax in decodable_transfer_syntaxes())
    asked = (
        "from node import lean; lean.keep_decoders_out(); import node.listener, sys; from node import syntaxes\n"
        "loaded = [name for name in ('numpy', 'gdcm', 'PIL') if sys.modules.get(name) is not None]\n"
        "print(*syntaxes.accepted_transfer_syntaxes(), loaded, sep='\\n')"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told.split("\n")[:-1] == [*accepted_transfer_syntaxes(), "[]"]


def test_a_process_without_decoders_speaks_with_postgresql() -> None:
    asked = (
        "from node import lean; lean.keep_decoders_out(); import node.listener; from psycopg import sql\n"
        "print(sql.Literal(7).as_string(None))"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "7\n"), told.stderr[-500:]


def test_no_copyleft_decoder_takes_part() -> None:
    by_uid = {syntax.uid: syntax.plugins for syntax in decodable_transfer_syntaxes()}
    for uid in ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"):
        assert "pylibjpeg" not in by_uid[uid]


def test_everything_a_pacs_routes_is_stored_but_only_images_are_read() -> None:
    stored = dict(storage_sop_classes())
    assert {REPORT, KEY_OBJECTS, PRESENTATION, SEGMENTATION} <= set(stored)
    assert readable_sop_classes() <= set(stored)
    assert not {REPORT, KEY_OBJECTS, PRESENTATION, SEGMENTATION} & readable_sop_classes()


def test_images_for_processing_and_captures_are_a_choice() -> None:
    for_processing, capture = "1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7"
    assert for_processing not in readable_sop_classes()
    assert for_processing in readable_sop_classes(for_processing=True)
    assert capture not in readable_sop_classes()
    assert capture in readable_sop_classes(secondary_capture=True)
