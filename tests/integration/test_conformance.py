"""docs/conformance.md held against a listener that runs and against what this node really proposes: no class, syntax or
role more, and none less.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role

from db.errors import PermanentError
from db.pledges import Answer
from node import scu
from node.retrieve import retrieving
from node.settings import Peer, Settings
from node.settings_ups import UpsManager
from node.syntaxes import decodable_transfer_syntaxes, storage_sop_classes
from node.upper_layer import negotiation
from node.worklist import managers, query, reporter
from node.worklist.matching import Key
from tests.support import listening, notices
from tests.support.listening import Listener
from tests.support.processes import free_port
from tests.support.raw_association import ASSOCIATE_AC, ASSOCIATE_RJ, connected, request

STATEMENT = (Path(__file__).parents[2] / "docs/conformance.md").read_text(encoding="utf-8")
CT = "1.2.840.10008.5.1.4.1.1.2"
_AT_ONCE = 100
_UIDS = {name: uid for uid, (name, *_) in UID_dictionary.items()}
EVERYTHING = """
[peers.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {port}
[notices]
commitment = true
commitment_although_deleting = true
[ups]
push = true
[ups.managers.ris]
peer = "ris"
station = "NODE"
"""

Offer = tuple[str, str]
"""(abstract syntax, transfer syntax)"""


def rows(part: str) -> list[list[str]]:
    """The cells of a generated table, without its head."""
    text = STATEMENT.split(f"<!-- generated: {part} -->")[1].split(f"<!-- end of {part} -->")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[1:]]


def syntaxes(cell: str) -> list[str]:
    return [_UIDS[name] for name in cell.split(", ")]


def stated(part: str) -> dict[str, tuple[list[str], str]]:
    """Abstract syntax to its transfer syntaxes and role; storage by its first row."""
    return {row[1]: (syntaxes(row[2]), row[3]) for row in rows(part) if row[1]}


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    with listening.running(tmp_path_factory.mktemp("node"), EVERYTHING.format(port=free_port())) as running:
        yield running


def accepted(port: int, offers: list[Offer], *, reports: bool = False) -> set[Offer]:
    """Those of the offers, each in a context of its own, that are taken. reports: with the roles reversed."""
    found: set[Offer] = set()
    for start in range(0, len(offers), _AT_ONCE):
        part = offers[start : start + _AT_ONCE]
        contexts = [build_context(uid, syntax) for uid, syntax in part]
        roles = [build_role(uid, scp_role=True) for uid in {uid for uid, _ in part}] if reports else []
        association = AE(ae_title="RIS").associate(
            "127.0.0.1", port, contexts=contexts, ae_title="RADNODE", ext_neg=list(roles)
        )
        if association.is_established:
            found |= {
                (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for context in association.accepted_contexts
                if context.as_scp or not reports
            }
            association.release()
    return found


def test_the_listener_takes_the_classes_that_the_statement_names_and_no_other(listener: Listener) -> None:
    known = sorted(uid for uid, entry in UID_dictionary.items() if "SOP Class" in entry[1])
    storage = {row[1] for row in rows("SOP classes")}
    assert storage == {uid for uid, _ in storage_sop_classes()}
    plain = "1.2.840.10008.1.2.1"
    taken = {uid for uid, _ in accepted(listener.port, [(uid, plain) for uid in [*known, "1.2.3.4"]])}
    assert taken - storage == set(stated("accepted contexts"))
    assert taken & storage == storage & set(known)


def test_it_takes_the_transfer_syntaxes_that_the_statement_names_and_no_other(listener: Listener) -> None:
    every = sorted(uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax")
    named = {row[1] for row in rows("transfer syntaxes")}
    assert named == {one.uid for one in decodable_transfer_syntaxes()}
    expected = {(CT, uid) for uid in named}
    offers = [(CT, uid) for uid in every]
    for uid, (names, _) in stated("accepted contexts").items():
        expected |= {(uid, syntax) for syntax in names}
        offers += [(uid, syntax) for syntax in every]
    assert accepted(listener.port, offers) == expected


def test_reports_come_with_the_roles_reversed(listener: Listener) -> None:
    reversed_ = {(uid, s) for uid, (names, role) in stated("accepted contexts").items() if "SCU" in role for s in names}
    assert len({uid for uid, _ in reversed_}) == 2
    offers = [(uid, syntax) for uid, (names, _) in stated("accepted contexts").items() for syntax in names]
    assert accepted(listener.port, offers, reports=True) == reversed_


def test_commitment_that_is_off_is_answered_as_the_statement_says(tmp_path: Path) -> None:
    with listening.running(tmp_path) as plain, notices.told_to(plain.port) as told:
        assert notices.ask_commitment(told, "1.2.3", (CT, "1.2.4")) == 0x0211


def test_what_the_listener_says_of_itself_is_what_the_statement_says(listener: Listener) -> None:
    said = {row[0]: row[1].strip("`") for row in rows("association parameters")}
    association = AE(ae_title="RIS").associate(
        "127.0.0.1", listener.port, contexts=[build_context(CT)], ae_title=said["AE title"]
    )
    try:
        there = association.acceptor
        assert str(there.maximum_length) == said["longest PDU received, bytes"]
        assert str(there.implementation_class_uid) == said["implementation class UID"]
        assert there.implementation_version_name == said["implementation version name"]
    finally:
        association.release()


def rejected(port: int, asked: bytes) -> tuple[str, str, str]:
    with connected(port) as raw:
        raw.send(asked)
        answer = raw.read()
    assert answer is not None
    assert answer.kind == ASSOCIATE_RJ
    result, source, reason = answer.body[1:4]
    return str(result), str(source), str(reason)


def test_associations_are_rejected_as_the_statement_says(tmp_path: Path) -> None:
    other_version = bytearray(request(calling="RIS"))
    other_version[6:8] = struct.pack(">H", 2)
    causes = {
        "called": request(called="SOMEBODY", calling="RIS"),
        "calling": request(calling="STRANGER"),
        "application": request(calling="RIS").replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"),
        "protocol": bytes(other_version),
        "local": request(calling="RIS"),
    }
    told = {
        row[2].split("(")[1].split()[0]: (row[0].split()[0], row[1], row[2].split()[0]) for row in rows("rejections")
    }
    more = EVERYTHING.format(port=free_port()) + "[access]\nknown_peers_only = true\n"
    with listening.running(tmp_path, more + "[limits]\nmax_associations = 1\nmin_free_bytes = 0\n") as narrow:
        found = {}
        for cause in ("called", "calling", "application", "protocol"):
            found[cause] = rejected(narrow.port, causes[cause])
        with connected(narrow.port) as first:
            first.send(causes["local"])
            answer = first.read()
            assert answer is not None
            assert answer.kind == ASSOCIATE_AC
            found["local"] = rejected(narrow.port, causes["local"])
    assert found == told


@contextmanager
def proposals() -> Iterator[tuple[int, list[set[Offer]]]]:
    """A peer that writes down what is proposed to it, and rejects it."""
    seen: list[set[Offer]] = []
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        thread = threading.Thread(target=_note, args=(server, seen))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        yield server.getsockname()[1], seen


def _note(server: socket.socket, seen: list[set[Offer]]) -> None:
    with suppress(OSError):  # shut down at the end
        while True:
            connection, _ = server.accept()
            with connection:
                length = struct.unpack(">BxL", connection.recv(6, socket.MSG_WAITALL))[1]
                asked = negotiation.read(connection.recv(length, socket.MSG_WAITALL)).primitive
                seen.append(
                    {
                        (str(context.abstract_syntax), str(syntax))
                        for context in asked.presentation_context_definition_list
                        for syntax in context.transfer_syntax
                    }
                )
                connection.sendall(struct.pack(">BxLxBBB", ASSOCIATE_RJ, 4, 1, 1, 1))


def _fetch(peer: Peer, settings: Settings, by: Callable[..., object], *more: object) -> None:
    by(peer, settings, retrieving.Wanted("1.2.3"), *more, retrieving.Bounds())


def _talk(peer: Peer, settings: Settings) -> None:
    with managers.talk(peer, settings, UpsManager(peer="ris", station="NODE")):
        pytest.fail("it was rejected")


ACTS: dict[str, Callable[[Peer, Settings], object]] = {
    "Verification": scu.echo,
    "FIND": lambda peer, settings: scu.count_instances(peer, settings, "1.2.3"),
    "Worklist": lambda peer, settings: query.ask(peer, settings, "ris", Key(accession_number="A1")),
    "GET": lambda peer, settings: _fetch(peer, settings, retrieving.get, (), lambda *_: None),
    "MOVE": lambda peer, settings: _fetch(peer, settings, retrieving.move),
    "UPS": _talk,
    "Commitment, as provider": lambda peer, settings: reporter.report(
        peer, settings, Answer("RIS", "1.2.3", ((CT, "1.2.4"),))
    ),
}


def test_what_is_proposed_is_what_the_statement_says(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    expected = {
        (row[1], syntax, "by role selection" in row[3])
        for row in rows("proposed contexts")
        for syntax in syntaxes(row[2])
        if not row[4].startswith(("delivery", "after delivery", "ups.push"))
    }
    found: set[tuple[str, str, bool]] = set()
    with proposals() as (port, seen):
        peer = Peer(ae_title="RIS", host="127.0.0.1", port=port)
        for name, act in ACTS.items():
            before = len(seen)
            with suppress(PermanentError):
                act(peer, settings)
            assert len(seen) == before + 1, name
            found |= {(*offer, "as provider" in name) for offer in seen[-1]}
    assert found == expected


def test_names_in_the_statement_are_those_of_the_standard() -> None:
    for row in (*rows("overview"), *rows("SOP classes"), *rows("transfer syntaxes")):
        if re.fullmatch(r"[0-9.]+", row[1]):
            assert UID(row[1]).name == row[0]
