"""docs/conformance.md held against a listener that runs: no class more, and none less."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom._uid_dict import UID_dictionary
from pynetdicom import AE, build_context

from node.services import used
from node.syntaxes import decodable_transfer_syntaxes, storage_sop_classes
from tests.support import listening, notices

STATEMENT = Path(__file__).parents[2] / "docs/conformance.md"
_AT_ONCE = 100
_ROW = re.compile(r"\| [^|]+ \| (SCP|SCU) \| (?:`([0-9.]+)`|see below) \|")


def stated(role: str) -> set[str]:
    return {found[2] for found in _ROW.finditer(STATEMENT.read_text()) if found[1] == role and found[2]}


def accepted(port: int, proposed: list[str]) -> set[str]:
    found: set[str] = set()
    syntaxes = [one.uid for one in decodable_transfer_syntaxes()]
    for start in range(0, len(proposed), _AT_ONCE):
        contexts = [build_context(uid, syntaxes) for uid in proposed[start : start + _AT_ONCE]]
        association = AE(ae_title="ANYBODY").associate("127.0.0.1", port, contexts=contexts, ae_title="RADNODE")
        if association.is_established:
            found |= {str(context.abstract_syntax) for context in association.accepted_contexts}
            association.release()
    return found


def test_the_listener_takes_what_the_statement_says_and_nothing_else(tmp_path: Path) -> None:
    known = sorted(uid for uid, entry in UID_dictionary.items() if "SOP Class" in entry[1])
    with listening.running(tmp_path) as listener:
        taken = accepted(listener.port, known)
        # Its context is there for reports of others; asked for a commitment of its own, which is off, it says no.
        with notices.told_to(listener.port) as told:
            assert notices.ask_commitment(told, "1.2.3", ("1.2.840.10008.5.1.4.1.1.1", "1.2.4")) == 0x0211
    storage = {uid for uid, _ in storage_sop_classes()}
    assert taken - storage == stated("SCP")
    assert taken & storage == storage & set(known)


def test_the_statement_names_every_class_that_is_used() -> None:
    assert stated("SCU") == {one.sop_class_uid for one in used()} - {""}
