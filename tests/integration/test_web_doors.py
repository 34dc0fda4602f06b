"""Who may come in: log-in, sessions, keys, and every route of the application against every role."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from db import users
from db.errors import ConfigError
from node.settings import Settings
from node.web.access import Access, LocalOrAccess, Open, guard_of, require_guarded
from node.web.permissions import ROLE_PERMISSIONS, SCOPES, Role
from tests.support.web import PASSWORD, Site, cookies, csrf_of, log_in, site

ELSEWHERE = "192.0.2.7"


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def test_nobody_sees_anything_without_a_log_in(doors: Site) -> None:
    browser = doors.browser()
    page = browser.get("/studies/1.2.3?image=1.2")
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2Fstudies%2F1.2.3%3Fimage%3D1.2")
    data = browser.get("/api/v1/studies")
    assert (data.status_code, data.headers["content-type"]) == (401, "application/problem+json")
    assert data.json()["title"] == "Unauthorized"


def test_a_log_in_leads_back_to_where_one_was_going(doors: Site) -> None:
    doors.add("ada")
    answer = log_in(doors.browser(), "ada", next="/studies/1.2.3")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/1.2.3")


@pytest.mark.parametrize("wanted", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:x"])
def test_a_log_in_leads_to_no_other_site(doors: Site, wanted: str) -> None:
    doors.add("ada")
    assert log_in(doors.browser(), "ada", next=wanted).headers["location"] == "/"
    assert doors.browser().get("/login", params={"next": wanted}).status_code == 200


def test_a_session_is_a_new_token_whatever_the_browser_brings(doors: Site) -> None:
    doors.add("ada")
    browser = doors.browser()
    browser.cookies.set("radnode", "fixed-by-somebody-else", domain="127.0.0.1", path="/")
    log_in(browser, "ada")
    first = browser.cookies["radnode"]
    assert first != "fixed-by-somebody-else"
    log_in(browser, "ada")
    assert browser.cookies["radnode"] != first
    old = doors.browser()
    old.cookies.set("radnode", first)
    assert old.get("/").status_code == 303
    assert browser.get("/").status_code == 200


def test_cookies_cannot_be_read_by_scripts_nor_go_out_in_the_clear(doors: Site) -> None:
    doors.add("ada")
    plain = cookies(log_in(doors.browser(), "ada"))[0]
    assert re.match(r"radnode=[\w-]{43}; HttpOnly; Path=/; SameSite=lax$", plain)
    safe = cookies(log_in(doors.browser(base_url="https://127.0.0.1:8042"), "ada"))[0]
    assert re.match(r"__Host-radnode=[\w-]{43}; HttpOnly; Path=/; SameSite=lax; Secure$", safe)


def test_logging_out_ends_the_session_in_the_record_too(doors: Site) -> None:
    browser = doors.logged_in("ada")
    token = browser.cookies["radnode"]
    answer = browser.post("/logout", data={"csrf_token": csrf_of(browser.get("/").text)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    thief = doors.browser()
    thief.cookies.set("radnode", token)
    assert thief.get("/").status_code == 303
    assert [(note.actor, note.outcome) for note in doors.audited("logout")] == [("ada", "success")]


def test_a_disabled_account_is_out_at_once_and_roles_change_at_once(doors: Site) -> None:
    browser = doors.logged_in("ada", "viewer")
    assert browser.get("/").status_code == 200
    with doors.record.write() as session:
        users.set_roles(session, "ada", [], actor="test")
    assert browser.get("/").status_code == 403
    with doors.record.write() as session:
        users.set_roles(session, "ada", ["viewer"], actor="test")
        users.disable(session, "ada", actor="test")
    assert browser.get("/").status_code == 303
    assert log_in(doors.browser(), "ada").status_code == 401


def test_a_session_ends_when_nobody_is_there(tmp_path: Path) -> None:
    with site(tmp_path, session_idle_s=0.2) as short:
        browser = short.logged_in("ada")
        assert browser.get("/").status_code == 200
        time.sleep(0.25)  # the idle time itself is under test
        assert browser.get("/").status_code == 303


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, {}),
        ({}, {"csrf_token": "0" * 64}),
        ({"origin": "https://evil.example"}, None),
        ({"sec-fetch-site": "cross-site"}, None),
        ({"sec-fetch-site": "same-site"}, None),
    ],
)
def test_a_change_that_another_site_asks_for_is_refused(
    doors: Site, headers: dict[str, str], fields: dict[str, str] | None
) -> None:
    browser = doors.logged_in("ada")
    form = {"csrf_token": csrf_of(browser.get("/").text)} if fields is None else fields
    assert browser.post("/logout", data=form, headers=headers).status_code == 403
    assert browser.get("/").status_code == 200


def test_one_sessions_csrf_token_is_of_no_use_to_another(doors: Site) -> None:
    ada, eve = doors.logged_in("ada"), doors.logged_in("eve")
    stolen = csrf_of(eve.get("/").text)
    assert ada.post("/logout", data={"csrf_token": stolen}).status_code == 403
    assert ada.post("/logout", headers={"x-csrf-token": csrf_of(ada.get("/").text)}).status_code == 303


def test_logging_somebody_else_in_needs_the_form_too(doors: Site) -> None:
    doors.add("ada")
    browser = doors.browser()
    assert browser.post("/login", data={"name": "ada", "password": PASSWORD}).status_code == 403
    forged = {"csrf_token": "chosen", "name": "ada", "password": PASSWORD}
    browser.cookies.set("radnode-login", "other")
    assert browser.post("/login", data=forged).status_code == 403


def test_every_route_says_who_may_use_it(doors: Site) -> None:
    assert [route for route in doors.app.routes if guard_of(route) is None] == []


def test_an_application_with_an_unguarded_route_does_not_start(doors: Site) -> None:
    bare = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @bare.get("/forgotten")
    def forgotten() -> str:
        return "open to everybody"

    with pytest.raises(ConfigError, match="/forgotten"):
        require_guarded(bare)


def test_every_route_lets_in_exactly_the_roles_of_the_table(doors: Site) -> None:
    """Generated from the application's own routes: 403 is what an uninvited role gets, and nobody else."""
    judged = 0
    people = {role: doors.logged_in(f"a-{role.value}", role.value, address=ELSEWHERE) for role in Role}
    nobody = doors.browser(address=ELSEWHERE)
    for route in doors.app.routes:
        guard = guard_of(route)
        if not isinstance(route, APIRoute) or not isinstance(guard, Access) or route.path in {"/logout", "/events"}:
            continue
        path = re.sub(r"\{\w+\}", "1.2.3", route.path)
        for method in route.methods:
            assert nobody.request(method, path).status_code in {303, 401}, path
            for role, browser in people.items():
                forged = browser.request(method, path).status_code
                assert method == "GET" or forged == 403, path
                answer = browser.request(method, path, headers={"x-csrf-token": csrf_of(browser.get("/").text)})
                allowed = guard.permission in ROLE_PERMISSIONS[role]
                assert (answer.status_code != 403) == allowed, (path, role, answer.text)
                judged += 1
    assert judged >= 40
    denied = doors.audited("access_denied")
    assert {note.outcome for note in denied} == {"failure"}
    assert any(note.detail["permission"] == "images:read" for note in denied)


def test_events_and_metrics_ask_for_their_rights_too(doors: Site) -> None:
    assert doors.logged_in("aud", "auditor").get("/events").status_code == 403
    assert doors.browser().get("/metrics").status_code == 200
    assert doors.browser(address=ELSEWHERE).get("/metrics").status_code in {303, 401}
    claims = {"x-forwarded-for": "127.0.0.1"}
    assert doors.browser().get("/metrics", headers=claims).status_code in {303, 401}
    assert doors.browser(address=ELSEWHERE).get("/metrics", headers=claims).status_code in {303, 401}
    program = doors.key("metrics:read")
    assert doors.browser(address=ELSEWHERE).get("/metrics", headers=program).status_code == 200


def test_a_key_opens_what_its_scopes_say_and_no_page(doors: Site) -> None:
    browser = doors.browser()
    program = doors.key("studies:read")
    answer = browser.get("/api/v1/studies", headers=program)
    assert (answer.status_code, answer.json()) == (200, {"studies": [], "next": None})
    assert browser.get("/api/openapi.json", headers=program).status_code == 403
    assert browser.get("/", headers={**program, "accept": "*/*"}).status_code == 401
    assert browser.get("/api/v1/studies", headers=doors.key("studies:read", name="old", days=-1)).status_code == 401
    assert browser.get("/api/v1/studies", headers={"authorization": "Bearer rnk_0_0"}).status_code == 401
    logged_in = doors.logged_in("ada")
    assert logged_in.get("/api/v1/studies", headers={"authorization": "Basic eDp5"}).status_code == 401
    assert "self" not in SCOPES


def test_wrong_keys_are_on_record_and_then_told_to_wait_while_right_ones_go_on(tmp_path: Path) -> None:
    with site(tmp_path, address_failures=3) as doors:
        browser, right = doors.browser(address=ELSEWHERE), doors.key("studies:read")
        wrong = {"authorization": "Bearer rnk_guess_guess"}
        answers = [browser.get("/api/v1/studies", headers=wrong).status_code for _ in range(5)]
        assert answers == [401, 401, 401, 429, 429]
        assert browser.get("/api/v1/studies", headers=right).status_code == 200
        noted = [(note.actor, note.detail["address"]) for note in doors.audited("access_denied")]
        assert noted == [("unknown key", ELSEWHERE)] * 3
        assert "guess" not in str([vars(note) for note in doors.audited("access_denied")])


def test_wrong_passwords_lock_the_account_even_for_the_right_one(tmp_path: Path) -> None:
    with site(tmp_path, login_failures=3) as doors:
        doors.add("ada")
        browser = doors.browser()
        for _ in range(3):
            assert log_in(browser, "ada", "wrong password here").status_code == 401
        locked = log_in(browser, "ada")
        assert locked.status_code == 401
        assert "locked" in locked.text
        with doors.record.write() as session:
            users.enable(session, "ada", actor="test")
        assert log_in(browser, "ada").status_code == 303
        assert [note.subject for note in doors.audited("user_locked")] == ["ada"]


def test_an_address_that_guesses_at_many_accounts_is_shut_out(tmp_path: Path) -> None:
    with site(tmp_path, address_failures=3) as doors:
        doors.add("ada")
        guesser = doors.browser(address=ELSEWHERE)
        for number in range(3):
            assert log_in(guesser, f"user-{number}").status_code == 401
        assert log_in(guesser, "ada").status_code == 429
        assert log_in(doors.browser(), "ada").status_code == 303


def test_the_audit_says_who_logged_in_and_never_what_was_typed(doors: Site) -> None:
    doors.add("ada")
    browser = doors.browser(address=ELSEWHERE)
    log_in(browser, "secret-typed-as-name\x00", "secret-password")
    log_in(browser, "ada", "secret-password")
    log_in(browser, "ada")
    notes = [(n.actor, n.outcome, n.detail["address"], n.detail["method"]) for n in doors.audited("login")]
    assert notes == [
        ("nobody", "failure", ELSEWHERE, "password"),
        ("ada", "failure", ELSEWHERE, "password"),
        ("ada", "success", ELSEWHERE, "password"),
    ]
    assert "secret" not in str([vars(note) for note in doors.audited("login")])


@pytest.mark.soak
def test_an_unknown_name_takes_as_long_as_a_wrong_password(tmp_path: Path) -> None:
    with site(tmp_path, login_failures=1000, address_failures=1000) as doors:
        doors.add("ada")
        browser = doors.browser()
        token = csrf_of(browser.get("/login").text)

        def taken(name: str) -> float:
            before = time.perf_counter()
            answer = browser.post("/login", data={"csrf_token": token, "name": name, "password": "wrong password"})
            assert answer.status_code == 401
            return time.perf_counter() - before

        pairs = [(taken("ada"), taken("nobody-of-that-name")) for _ in range(9)]
        known, unknown = (statistics.median(times) for times in zip(*pairs, strict=True))
        assert 0.7 < unknown / known < 1.4


def test_what_is_open_is_known(doors: Site) -> None:
    opened = {route.path for route in doors.app.routes if isinstance(guard_of(route), Open)}  # type: ignore[attr-defined]
    assert opened == {"/static", "/healthz", "/readyz", "/login", "/login/oidc", "/login/oidc/callback"}
    local = {route.path for route in doors.app.routes if isinstance(guard_of(route), LocalOrAccess)}  # type: ignore[attr-defined]
    assert local == {"/metrics"}


def test_beyond_loopback_in_the_clear_only_when_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without HTTPS"):
        Settings(data_dir=tmp_path, web_host="0.0.0.0")
    assert Settings(data_dir=tmp_path, web_host="0.0.0.0", web={"allow_plain_beyond_loopback": True}).web_host
    files = {"certificate": "c.pem", "private_key": "k.pem"}
    assert Settings(data_dir=tmp_path, web_host="0.0.0.0", web=files).web.certificate
