"""What every request passes and every response carries."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from fastapi import Depends

from node.settings import Settings
from node.web.access import Open
from node.web.guard import Rates
from node.web.server import MOST_OF_ONE_ADDRESS, serve_until
from tests.support.certificates import authority
from tests.support.processes import eventually, free_port
from tests.support.web import Site, log_in, site

EVERY_PAGE = ("/login", "/healthz", "/", "/nowhere", "/static/app.css", "/metrics", "/api/v1/studies")


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_every_response_tells_a_browser_to_trust_nothing_else(doors: Site, path: str) -> None:
    headers = doors.logged_in("ada").get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert "server" not in headers
    assert "strict-transport-security" not in headers
    if not path.startswith("/static/"):
        assert headers["cache-control"] == "no-store"


def test_https_is_remembered(doors: Site) -> None:
    secure = doors.browser(base_url="https://localhost:8042")
    assert secure.get("/login").headers["strict-transport-security"] == "max-age=31536000"


def test_refusals_carry_the_same_headers(doors: Site) -> None:
    answer = doors.browser().get("/login", headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[", ""])
def test_a_host_name_that_is_not_ours_is_refused(doors: Site, host: str) -> None:
    assert doors.browser().get("/login", headers={"host": host}).status_code == 421
    assert doors.browser().get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST:8042", "[::1]:8042", "radnode.example.org", "alias.example"])
def test_our_own_host_names_are_taken(tmp_path: Path, host: str) -> None:
    with site(tmp_path, public_url="https://radnode.example.org", hosts=["alias.example"]) as doors:
        assert doors.browser().get("/login", headers={"host": host}).status_code == 200


def test_too_large_a_request_is_refused_with_and_without_its_length(tmp_path: Path) -> None:
    with site(tmp_path, max_request_bytes=2048) as doors:
        browser = doors.browser()
        assert browser.post("/login", content=b"a" * 2049).status_code == 413
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert browser.post("/login", content=iter([b"a" * 2000] * 4), headers=form).status_code == 413
        assert browser.post("/login", content=b"a=b", headers={**form, "content-length": "-1"}).status_code == 413
        assert log_in(browser, "nobody").status_code == 401


@pytest.mark.parametrize("body", [b"\xff\xfe", b"&".join(b"a=1" for _ in range(60)), b"%ff=1"])
def test_a_form_that_cannot_be_read_is_refused(doors: Site, body: bytes) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert doors.browser().post("/login", content=body, headers=headers).status_code == 400


def test_an_address_that_asks_too_often_waits_and_others_do_not(tmp_path: Path) -> None:
    with site(tmp_path, requests_per_minute=10) as doors:
        busy = doors.browser(address="192.0.2.1")
        answers = [busy.get("/healthz") for _ in range(12)]
        assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 7
        assert doors.browser(address="192.0.2.2").get("/healthz").status_code == 200


def test_rates_recover_with_time_and_remember_a_bounded_number() -> None:
    rates = Rates(60)
    assert [rates.wait_s("a", 0.0) for _ in range(60)] == [0.0] * 60
    assert rates.wait_s("a", 0.0) == 1.0
    assert rates.wait_s("a", 1.0) == 0.0
    for number in range(10_001):
        rates.wait_s(str(number), 1.0)
    assert rates.wait_s("a", 1.0) == 0.0


def test_problems_are_json_for_programs_and_a_page_for_people(doors: Site) -> None:
    browser = doors.logged_in("ada")
    page = browser.get("/nowhere")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "<h1>Not Found</h1>" in page.text
    data = browser.get("/api/v1/studies/1.2.3")
    assert data.headers["content-type"] == "application/problem+json"
    assert data.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "no study of that UID was received",
    }


@pytest.mark.parametrize(
    "query", ["limit=PATIENT-MARK", "state=PATIENT-MARK", "after=PATIENT-MARK", "after=9-9x", "q=PATIENT-MARK%00"]
)
def test_what_was_asked_wrongly_is_not_repeated(doors: Site, query: str) -> None:
    answer = doors.logged_in("ada").get(f"/api/v1/studies?{query}")
    assert answer.status_code == 422
    assert "MARK" not in answer.text


def test_a_record_that_is_away_and_a_fault_of_ours_say_nothing_of_the_inside(doors: Site) -> None:
    def fail() -> None:
        raise KeyError("PATIENT-MARK")

    doors.app.get("/api/v1/broken", dependencies=[Depends(Open())])(fail)
    browser = doors.browser()
    with doors.record.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE login_attempts")
    for answer, status in ((log_in(browser, "ada"), 503), (browser.get("/api/v1/broken"), 500)):
        assert answer.status_code == status
        assert "login_attempts" not in answer.text
        assert "MARK" not in answer.text


@contextmanager
def served(doors: Site) -> Iterator[None]:
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=serve_until, args=(doors.settings, doors.record, ready.set, stop))
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def listening(folder: Path, **web: object) -> Site:
    made = Site(folder, **web)
    made.settings = Settings(data_dir=folder, web_port=free_port(), web=web)
    return made


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTT", b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-le"])
def test_a_connection_whose_request_does_not_come_is_closed(tmp_path: Path, said: bytes) -> None:
    doors = listening(tmp_path, request_timeout_s=0.3)
    with served(doors), socket.create_connection(("127.0.0.1", doors.settings.web_port), timeout=5) as silent:
        begun = time.monotonic()
        silent.sendall(said)
        assert silent.recv(100) == b""
        assert time.monotonic() - begun < 3
    doors.record.close()


def test_a_body_that_drips_ends_at_the_deadline(tmp_path: Path) -> None:
    doors = listening(tmp_path, request_timeout_s=0.3)
    with served(doors), socket.create_connection(("127.0.0.1", doors.settings.web_port), timeout=5) as dripping:
        dripping.sendall(
            b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n"
            b"content-type: application/x-www-form-urlencoded\r\n\r\na="
        )
        assert dripping.recv(200).startswith(b"HTTP/1.1 408")
    doors.record.close()


def test_one_address_cannot_take_all_connections(tmp_path: Path) -> None:
    doors = listening(tmp_path)
    target = ("127.0.0.1", doors.settings.web_port)

    def answered(source: str = "127.0.0.1") -> bool:
        with socket.create_connection(target, 5, source_address=(source, 0)) as asking:
            try:
                asking.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                return asking.recv(100).startswith(b"HTTP/1.1 200")
            except ConnectionError:
                return False

    with served(doors), ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(target, 5)) for _ in range(MOST_OF_ONE_ADDRESS)]
        assert not answered()
        assert answered("127.0.0.2")
        silent[0].close()
        eventually("a place is free again", answered)
    doors.record.close()


def test_an_open_page_does_not_keep_the_node_from_stopping(tmp_path: Path) -> None:
    doors = listening(tmp_path)
    token = doors.logged_in("ada").cookies["radnode"]
    with socket.socket() as page:
        with served(doors):
            page.settimeout(10)
            page.connect(("127.0.0.1", doors.settings.web_port))
            page.sendall(f"GET /events HTTP/1.1\r\nhost: localhost\r\ncookie: radnode={token}\r\n\r\n".encode())
            received = b""
            while b"retry:" not in received:
                received += page.recv(2000)
            begun = time.monotonic()
        assert time.monotonic() - begun < 3
        assert b"text/event-stream" in received
    doors.record.close()


def test_https_is_served_with_the_certificate_of_the_settings(tmp_path: Path) -> None:
    made = authority(tmp_path)
    certificate, key = made.issue("web")
    doors = listening(tmp_path / "data", certificate=certificate, private_key=key)
    context = ssl.create_default_context(cafile=str(made.ca))
    with served(doors):
        url = f"https://127.0.0.1:{doors.settings.web_port}/login"
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            assert answer.headers["strict-transport-security"]
            assert answer.headers["set-cookie"].startswith("__Host-radnode-login=")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(url, context=old, timeout=10)
    doors.record.close()
