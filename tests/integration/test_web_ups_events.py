"""The event channel of UPS-RS: who may open it, what it tells and when, and what becomes of its connection."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from starlette.websockets import WebSocketDisconnect
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from node.web import server
from tests.support.processes import free_port
from tests.support.ups_manager import code, work_item
from tests.support.web import Site, log_in, site

BASE, CHANNEL = "/dicom-web/workitems", "/dicom-web/subscribers"
# Whatever its base URL, the test client would name another host.
HERE = "ws://127.0.0.1:8042"
EVERYTHING = "1.2.840.10008.5.1.4.34.5"
STUDY = "1.2.840.99"
JSON = {"content-type": "application/dicom+json"}


@pytest.fixture(autouse=True)
def managing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_UPS", '{"push": true}')
    monkeypatch.setenv("RADNODE_PEERS", '{"ris": {"ae_title": "RIS", "host": "127.0.0.1"}}')


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def program(served: Site) -> TestClient:
    client = served.browser()
    client.headers.update({**JSON, **served.key("workitems:read", "workitems:write")})
    return client


def create(program: Any) -> str:
    made = work_item(STUDY, f"{STUDY}.1")
    made.ProcedureStepLabel, made.ScheduledProcedureStepStartDateTime = "Chest", "20261125120000"
    assert program.post(BASE, content=json.dumps(made.to_json_dict())).status_code == 201
    return str(made.SOPInstanceUID)


def put(program: TestClient, path: str, **values: Any) -> None:
    told = Dataset()
    for keyword, value in values.items():
        setattr(told, keyword, value)
    method = program.put if path.endswith("/state") else program.post
    assert method(f"{BASE}/{path}", content=json.dumps(told.to_json_dict())).status_code in {200, 202}


def told(event: dict[str, Any], tag: str) -> Any:
    return event[tag]["Value"][0]


def test_a_subscriber_hears_what_waited_and_then_what_happens(program: TestClient) -> None:
    answer = program.post(f"{BASE}/{EVERYTHING}/subscribers/WATCHER")
    assert answer.headers["content-location"].endswith(f"{CHANNEL}/WATCHER")
    assert answer.headers["content-location"].startswith("ws://")
    uid, lock = create(program), generate_uid()
    with program.websocket_connect(f"{HERE}{CHANNEL}/WATCHER") as channel:
        # Created before anybody listened: its state, and to which station it is assigned.
        first, second = channel.receive_json(), channel.receive_json()
        assert (told(first, "00001002"), told(first, "00741000"), told(first, "00001000")) == (1, "SCHEDULED", uid)
        assert told(second, "00001002") == 5
        put(program, f"{uid}/state", ProcedureStepState="IN PROGRESS", TransactionUID=lock)
        assert told(channel.receive_json(), "00741000") == "IN PROGRESS"
        progress = Dataset()
        progress.ProcedureStepProgress = "40"
        put(program, uid, TransactionUID=lock, ProcedureStepProgressInformationSequence=[progress])
        event = channel.receive_json()
        assert told(event, "00001002") == 3
        assert told(told(event, "00741002"), "00741004") == 40
        put(program, f"{uid}/cancelrequest", ReasonForCancellation="patient left")
        event = channel.receive_json()
        assert (told(event, "00001002"), told(event, "00741238")) == (2, "patient left")
        assert lock not in json.dumps([first, second, event])
    with program.websocket_connect(f"{HERE}{CHANNEL}/WATCHER") as channel:
        # What was told is not told again.
        put(program, uid, TransactionUID=lock, ScheduledStationNameCodeSequence=[code("OTHER")])
        assert told(channel.receive_json(), "00001002") == 5


def refused(client: TestClient, path: str, **headers: str) -> bool:
    try:
        with client.websocket_connect(f"{HERE}{path}", headers=headers):
            return False
    except WebSocketDisconnect:
        return True


def test_who_may_open_a_channel(served: Site, program: TestClient) -> None:
    assert not refused(program, f"{CHANNEL}/WATCHER")
    # Peers are told by DICOM; nobody listens in their place.
    assert refused(program, f"{CHANNEL}/RIS")
    assert refused(program, f"{CHANNEL}/{'A' * 17}")
    assert refused(program, f"{CHANNEL}/WATCHER", host="other.example.org")
    stranger = served.browser()
    assert refused(stranger, f"{CHANNEL}/WATCHER")
    assert refused(stranger, f"{CHANNEL}/WATCHER", **served.key("workitems:write", name="writer"))
    assert refused(stranger, f"{CHANNEL}/WATCHER", authorization="Bearer wrong")
    # Any site could have a person's browser open one.
    served.add("admin", "pacs-admin")
    log_in(stranger, "admin")
    assert refused(stranger, f"{CHANNEL}/WATCHER")
    denied = {row.detail["permission"] for row in served.audited("access_denied") if "permission" in row.detail}
    assert denied == {"workitems:read"}


def test_a_subscriber_that_talks_is_cut_off(program: TestClient) -> None:
    with program.websocket_connect(f"{HERE}{CHANNEL}/WATCHER") as channel:
        channel.send_text("hello")
        with pytest.raises(WebSocketDisconnect):
            channel.receive_json()


class Socket:
    """A WebSocket client that is not ours."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), 10)
        self.protocol = WSConnection(ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.send(Request(host=f"127.0.0.1:{port}", target=path, extra_headers=extra))
        assert isinstance(self.next(), AcceptConnection)

    def send(self, event: Any) -> None:
        self.connection.sendall(self.protocol.send(event))

    def next(self) -> Any:
        while True:
            for event in self.protocol.events():
                return event
            self.protocol.receive_data(self.connection.recv(65536) or None)

    def close(self) -> None:
        self.send(CloseConnection(code=1000))
        self.next()
        self.connection.close()


@contextmanager
def serving(made: Site) -> Iterator[None]:
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_until, args=(made.settings, made.record, ready.set, stop))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_channels_outlive_the_deadline_of_requests_and_give_their_connections_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_OF_ONE_ADDRESS", 3)
    port = free_port()
    monkeypatch.setenv("RADNODE_WEB_PORT", str(port))
    with ExitStack() as after, site(tmp_path, request_timeout_s=0.5) as made, serving(made):
        program = made.browser()
        program.headers.update({**JSON, **made.key("workitems:write")})
        headers = made.key("workitems:read", name="listener")
        # More than one address may have at once.
        for _ in range(5):
            Socket(port, f"{CHANNEL}/WATCHER", headers).close()
        channel = Socket(port, f"{CHANNEL}/WATCHER", headers)
        # The node stops though it is open.
        after.callback(channel.connection.close)
        time.sleep(1.2)
        assert program.post(f"{BASE}/{EVERYTHING}/subscribers/WATCHER").status_code == 201
        uid = create(program)
        event = channel.next()
        assert isinstance(event, TextMessage)
        assert told(json.loads(event.data), "00001000") == uid
