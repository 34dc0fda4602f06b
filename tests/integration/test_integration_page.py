"""The examples of docs/integration.md for Orthanc and DCMTK, run as they stand there but for hosts, ports and files."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from node import scu
from node.link import COMMITMENT_CONTEXTS
from node.sending import open_link, send_files
from node.settings import Peer
from tests.support import dcmtk, listening
from tests.support.listening import Listener, chest_file
from tests.support.orthanc import Orthanc, orthanc
from tests.support.processes import eventually, free_port
from tests.support.worklists import wlmscpfs

PAGE = (Path(__file__).parents[2] / "docs/integration.md").read_text(encoding="utf-8")
NODE_HOST = "node.example.org"


def blocks(heading: str, language: str = "") -> list[str]:
    """The code blocks of a section, as they stand on the page."""
    section = re.split(r"^#{1,3} ", PAGE.split(f"### {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def as_here(options: dict[str, Any], listener: Listener, rule: Path) -> dict[str, Any]:
    """The example with this test's ports; that of Orthanc itself is the test's."""
    text = json.dumps({k: v for k, v in options.items() if k != "DicomPort"})
    text = text.replace(NODE_HOST, "127.0.0.1").replace("11112", str(listener.port))
    (script,) = options["LuaScripts"]
    here: dict[str, Any] = json.loads(text.replace(script, str(rule)))
    return here


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Listener, Orthanc]]:
    """A listener and Orthanc, both with the page's settings."""
    folder = tmp_path_factory.mktemp("page")
    ports = free_port(), free_port()
    (toml,) = blocks("Orthanc", "toml")
    (rule,) = blocks("Orthanc", "lua")
    (folder / "rule.lua").write_text(rule)
    (folder / "node").mkdir()
    settings = toml.replace("orthanc.example.org", "127.0.0.1").replace("4242", str(ports[0]))
    with listening.running(folder / "node", settings) as listener:
        options = as_here(json.loads(blocks("Orthanc", "json")[0]), listener, folder / "rule.lua")
        with orthanc(folder / "pacs", ports=ports, options=options) as pacs:
            yield listener, pacs


def held(listener: Listener) -> set[str]:
    return {one.sop_instance_uid for one in listener.instances()}


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def test_orthanc_routes_radiographs_to_the_node_and_nothing_else(
    site: tuple[Listener, Orthanc], tmp_path: Path
) -> None:
    listener, pacs = site
    assert pacs.echo("radnode")
    other = chest_file(tmp_path, "slice.dcm", Modality="MG")
    radiograph = chest_file(tmp_path, "routed.dcm")
    for path in (other, radiograph):
        pacs.upload(path)
    eventually("the radiograph is here", lambda: uid_of(radiograph) in held(listener))
    assert uid_of(other) not in held(listener)


def test_orthanc_lets_the_node_deliver_ask_and_have_it_committed(
    site: tuple[Listener, Orthanc], tmp_path: Path
) -> None:
    listener, _ = site
    peer = listener.settings.peers["orthanc"]
    # Of a modality that the rule sends: it comes from the node, so it must not come back.
    result = dcmread(chest_file(tmp_path, "delivered.dcm", StudyInstanceUID="2.25.7"))
    (sent,) = send_files(peer, listener.settings, [tmp_path / "delivered.dcm"])
    assert sent.ok, sent.reason
    assert scu.count_instances(peer, listener.settings, "2.25.7") == 1
    link = open_link(peer, listener.settings, COMMITMENT_CONTEXTS)
    link.request_commitment("2.25.99", [(result.SOPClassUID, result.SOPInstanceUID)])
    link.release()

    def reported() -> str:
        lines = [one for one in listener.log.read_text().splitlines() if "commitment_reported" in one]
        return next((one for one in lines if "2.25.99" in one), "")

    # On an association of Orthanc's own, to the host and port that the example names.
    line = eventually("Orthanc has reported to the listener", reported)
    assert re.search(r"committed\W+1\b", line), line
    assert result.SOPInstanceUID not in held(listener)


def commands(heading: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(heading) for line in block.splitlines()]


def test_each_dcmtk_command_does_what_the_page_says(site: tuple[Listener, Orthanc], tmp_path: Path) -> None:
    listener, _ = site
    told = commands("DCMTK: trying it by hand")
    assert {program for program, *_ in told} == {"echoscu", "storescu", "dcmsend", "storescp"}
    for number, (program, *arguments) in enumerate(told):
        image = chest_file(tmp_path, f"{program}{number}.dcm")
        here = {NODE_HOST: "127.0.0.1", "11112": str(listener.port), "image.dcm": str(image)}
        if program == "storescp":
            port, folder = free_port(), tmp_path / "received"
            options = tuple(arguments[arguments.index("ARCHIVE") + 1 : arguments.index("-od")])
            assert arguments[-2:] == ["received", "11113"]
            with dcmtk.storescp(folder, ae_title="ARCHIVE", port=port, options=options):
                peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port)
                (sent,) = send_files(peer, listener.settings, [image])
                assert sent.ok
            continue
        done = dcmtk.run(program, *(here.get(one, one) for one in arguments))
        assert done.returncode == 0, done.stdout
        assert ("image.dcm" in arguments) == (uid_of(image) in held(listener))


def test_the_worklist_is_asked_by_hand_as_the_page_says(tmp_path: Path) -> None:
    with wlmscpfs(tmp_path / "orders") as server:
        ((program, *arguments),) = commands("A RIS's worklist")
        here = {"ris.example.org": "127.0.0.1", "104": str(server.peer.port), "RIS": server.peer.ae_title}
        done = dcmtk.run(program, *(here.get(one, one) for one in arguments))
        assert done.returncode == 0, done.stdout
