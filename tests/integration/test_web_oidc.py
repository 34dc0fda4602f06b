"""Log-in through an identity provider that listens on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from fastapi.testclient import TestClient

from db import users
from node.settings import Settings, load
from tests.support.identity_provider import CLIENT_SECRET, IdentityProvider, identity_provider
from tests.support.web import Site, site

OURS = "http://127.0.0.1:8042"


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as running:
        running.redirect_uris.add(f"{OURS}/login/oidc/callback")
        yield running


@pytest.fixture
def doors(provider: IdentityProvider, tmp_path: Path) -> Iterator[Site]:
    secret = tmp_path / "secret"
    secret.write_text(f"{CLIENT_SECRET}\n")
    roles = {"radiologist": ["readers"], "pacs_admin": ["admins"], "ml_engineer": ["science"]}
    oidc = {"issuer": provider.issuer, "client_secret_file": secret, "roles": roles}
    with site(tmp_path / "data", public_url=OURS, oidc=oidc) as made:
        yield made


def sent_away(browser: TestClient, wanted: str = "/studies/1.2.3") -> str:
    answer = browser.get("/login/oidc", params={"next": wanted})
    assert answer.status_code == 303
    return str(answer.headers["location"])


def sent_back(url: str) -> str:
    """What the provider answers a browser: the way back, with its code."""
    answer = httpx2.get(url)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def through(browser: TestClient) -> Any:
    return browser.get(sent_back(sent_away(browser)))


def test_a_person_comes_in_with_the_roles_of_their_groups(doors: Site, provider: IdentityProvider) -> None:
    provider.person["groups"] = ["readers", "science", "choir"]
    browser = doors.browser()
    answer = through(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/1.2.3")
    page = browser.get("/")
    assert page.status_code == 200
    assert "radiologist, ml-engineer" in page.text
    assert [(n.actor, n.outcome, n.detail["method"]) for n in doors.audited("login")] == [("ada", "success", "oidc")]
    assert "Log in with the hospital" in doors.browser().get("/login").text


def test_groups_are_read_anew_at_each_log_in(doors: Site, provider: IdentityProvider) -> None:
    through(doors.browser())
    provider.person.update(groups="admins", preferred_username="renamed")
    assert through(doors.browser()).status_code == 303
    with doors.record.read() as session:
        (user,) = users.everyone(session)
    assert (user.name, user.roles, user.provided) == ("ada", ("pacs-admin",), True)


def test_what_is_sent_to_the_provider_is_fresh_and_holds_no_secret(doors: Site) -> None:
    first, second = (parse_qs(urlsplit(sent_away(doors.browser())).query) for _ in range(2))
    assert first["code_challenge_method"] == ["S256"]
    assert first["response_type"] == ["code"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name][0]) >= 43
        assert first[name] != second[name]
    assert CLIENT_SECRET not in str(first)


def test_an_answer_counts_once(doors: Site) -> None:
    browser = doors.browser()
    back = sent_back(sent_away(browser))
    assert browser.get(back).status_code == 303
    assert browser.get(back).status_code == 403


def test_an_answer_counts_only_in_the_browser_that_asked(doors: Site) -> None:
    back = sent_back(sent_away(doors.browser()))
    victim = doors.browser()
    assert victim.get(back).status_code == 403
    sent_away(victim)
    assert victim.get(back).status_code == 403
    assert victim.get("/").status_code == 303


@pytest.mark.parametrize("query", ["", "state=x&code=y", "error=access_denied&state=x"])
def test_an_answer_nobody_asked_for_is_refused(doors: Site, query: str) -> None:
    assert doors.browser().get(f"/login/oidc/callback?{query}").status_code == 403


def test_a_code_or_a_provider_that_is_not_the_one_asked_is_refused(doors: Site) -> None:
    for old, new in (("code=", "code=x"), ("iss=", "iss=x")):
        browser = doors.browser()
        assert browser.get(sent_back(sent_away(browser)).replace(old, new)).status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another client"},
        {"iss": "https://evil.example"},
        {"nonce": "replayed"},
        {"exp": 1},
        {"azp": "another client"},
        {"sub": None},
        {"sub": "a" * 256},
        {"sub": "a\x00b"},
    ],
)
def test_a_token_that_does_not_hold_lets_nobody_in(
    doors: Site, provider: IdentityProvider, changes: dict[str, Any]
) -> None:
    provider.changes = changes
    browser = doors.browser()
    assert through(browser).status_code == 403
    assert browser.get("/").status_code == 303
    assert [note.outcome for note in doors.audited("login")] == ["failure"]


def test_a_new_key_of_the_provider_is_fetched_and_a_foreign_one_refused(
    doors: Site, provider: IdentityProvider
) -> None:
    assert through(doors.browser()).status_code == 303
    provider.change_key()
    assert through(doors.browser()).status_code == 303
    provider.sign_with_a_key_of_somebody_else()
    assert through(doors.browser()).status_code == 403


def test_somebody_without_a_role_or_disabled_stays_out(doors: Site, provider: IdentityProvider) -> None:
    provider.person["groups"] = ["choir"]
    answer = through(doors.browser())
    assert answer.status_code == 403
    assert "role" in answer.text
    provider.person["groups"] = ["readers"]
    with doors.record.write() as session:
        users.disable(session, "ada", actor="test")
    assert through(doors.browser()).status_code == 403


def test_a_hostile_name_is_text(doors: Site, provider: IdentityProvider) -> None:
    provider.person["preferred_username"] = "<script>alert(1)</script>\x1b[2J"
    browser = doors.browser()
    through(browser)
    page = browser.get("/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[2J" in page


def test_a_provider_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with site(tmp_path, public_url=OURS, oidc={"issuer": "http://127.0.0.1:9"}) as doors:
        answer = doors.browser().get("/login/oidc")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert doors.browser().get("/login").status_code == 200


def test_a_node_without_a_provider_has_no_such_door(tmp_path: Path) -> None:
    with site(tmp_path) as doors:
        assert doors.browser().get("/login/oidc").status_code == 404
        assert "/login/oidc" not in doors.browser().get("/login").text


def test_settings_of_a_provider_in_the_clear_or_without_a_way_back_are_refused(tmp_path: Path) -> None:
    for oidc, said in (({"issuer": "http://idp.example"}, "https"), ({"issuer": "https://idp.example"}, "public_url")):
        with pytest.raises(ValueError, match=said):
            Settings(data_dir=tmp_path, web={"oidc": oidc})


def test_roles_of_groups_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "radnode.toml"
    path.write_text('[web.oidc.roles]\nviewer = ["a", "b"]\npacs_admin = ["b"]\n')
    assert load(path).web.oidc.roles.roles_of(frozenset({"b", "c"})) == ("viewer", "pacs-admin")
