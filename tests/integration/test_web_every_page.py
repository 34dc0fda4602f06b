"""What holds for every page, found out from the application itself: a page that is added is tried here or fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from db import audit, deliveries
from db.domain import NewInstance
from node.web.access import Access, guard_of
from node.web.permissions import Role
from node.web.rerun import FIELD
from tests.support.listening import chest_file
from tests.support.pages import NO_PAGES, OPEN, POSTED, Shown, pages, routes
from tests.support.records import image as received
from tests.support.records import receive
from tests.support.web import Site, csrf_of, site
from tests.support.web_studies import HOSTILE, read_study, refused_study, waiting_study

# What a peer writes into a header, or says of itself.
WRITTEN = {
    one.name
    for one in fields(NewInstance)
    if one.type == "str" and not one.name.endswith(("_uid", "path", "sha256", "peer_address"))
}
DATES = {"patient_birth_date", "study_date"}


class Reader(HTMLParser):
    """A page's elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Elements with the names of their attributes."""
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def hostile(text: str) -> dict[str, Any]:
    """Everything a peer writes is this text."""
    return {name: text for name in WRITTEN if name not in DATES} | dict.fromkeys(DATES, text[:8])


def fill(ward: Site, text: str) -> Shown:
    """A study that was read, one that was refused, one that waits, and a delivery that was given up."""
    written = hostile(text)
    folder = ward.settings.data_dir
    read = read_study(ward.record, folder, 1, **written)
    refused = refused_study(ward.record, folder, 2, text, **written)
    waiting_study(ward.record, folder, 3, **written)
    with ward.record.write() as session:
        for one in deliveries.claim(session, read.job, "pacs", "sender", lease_s=60):
            deliveries.bury(session, one, "sender", reason=text)
        audit.note(session, "association_rejected", actor=text, outcome="failure", reason=text, calling_ae=text)
    return Shown(read, refused)


def everybody(ward: Site) -> TestClient:
    return ward.logged_in("max", *(role.value for role in Role))


def all_shown(ward: Site, shown: Shown, browser: TestClient) -> dict[str, str]:
    """Every page's HTML by its address, those that are posted too."""
    found = {}
    for address in (address for known in pages(shown).values() for address in known):
        answer = browser.get(address)
        assert answer.status_code == 200, (address, answer.text)
        found[address] = answer.text
    token = {"x-csrf-token": csrf_of(found["/"])}
    again = browser.post("/rerun", data={f"{FIELD}{shown.read.study}": "on"}, headers=token)
    tried = browser.post(
        "/operations/route-test?calling_ae=%3Cb%3E",
        content=chest_file(ward.settings.data_dir, PatientName="<b>Doe</b>").read_bytes(),
        headers={**token, "content-type": "application/octet-stream"},
    )
    for name, answer in (("rerun", again), ("route test", tried), ("problem", browser.get("/nowhere"))):
        assert answer.headers["content-type"].startswith("text/html"), name
        found[name] = answer.text
    return found


def test_every_route_is_a_page_that_is_tried_or_known_to_be_none(ward: Site) -> None:
    known = set(pages(fill(ward, "x")))
    assert routes(ward.app) == known | NO_PAGES | POSTED


def test_what_peers_write_is_text_on_every_page(ward: Site) -> None:
    shown = fill(ward, HOSTILE)
    found = all_shown(ward, shown, everybody(ward))
    for address, page in found.items():
        for tag, attributes in Reader(page).elements:
            assert tag not in {"style", "b", "iframe", "object", "embed"}, (address, tag)
            assert not [name for name in attributes if name.startswith(("on", "hx-on")) or name == "style"], address
            assert tag != "script" or str(attributes.get("src")).startswith("/static/"), address
            for name in ("src", "href", "action", "formaction"):
                target = attributes.get(name) or "/"
                assert target.startswith(("/", "#")), (address, target)
                assert not target.startswith("//"), (address, target)
    for address in ("/", f"/studies/{shown.read.study}", f"/studies/{shown.refused.study}", "/operations", "/audit"):
        assert "<script>document.title" in Reader(found[address]).text, address
    # As it is for programs: the text itself.
    study = everybody(ward).get(f"/api/v1/studies/{shown.read.study}").json()
    assert (study["patient_name"], study["accession_number"], study["modalities"]) == (HOSTILE, HOSTILE, [HOSTILE])


def test_an_ended_session_sees_no_page_and_changes_nothing(ward: Site) -> None:
    shown = fill(ward, "x")
    ended = everybody(ward)
    token = {"x-csrf-token": csrf_of(ended.get("/").text)}
    assert ended.post("/logout", headers=token).status_code == 303
    for route in ward.app.routes:
        if not isinstance(guard_of(route), Access):
            continue
        path = route.path.replace("{uid}", shown.read.study)  # type: ignore[attr-defined]
        for method in route.methods:  # type: ignore[attr-defined]
            answer = ended.request(method, path, headers=token)
            # On the machine itself metrics need no log-in; programs and changes are told, people are led to the log-in.
            assert answer.status_code in {303, 401} or path == "/metrics", (method, path)
            assert answer.status_code != 303 or answer.headers["location"].startswith("/login"), path
            part = ended.request(method, path, headers={**token, "hx-request": "true"})
            people = not path.startswith(("/api/", "/metrics"))
            assert not people or (part.status_code, part.headers.get("hx-refresh")) == (401, "true"), path


def test_every_page_but_the_log_in_asks_for_a_right(ward: Site) -> None:
    nobody = ward.browser()
    for route, addresses in pages(fill(ward, "x")).items():
        for address in addresses:
            assert (nobody.get(address).status_code == 200) == (route in OPEN), address


def printable(longest: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=longest)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, TestClient, list[int]]]:
    with site(tmp_path_factory.mktemp("studio"), requests_per_minute=100_000) as made:
        yield made, everybody(made), [0]


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(printable(64), min_size=len(WRITTEN), max_size=len(WRITTEN)))
def test_a_study_page_has_one_shape_whatever_is_written_in_a_header(
    studio: tuple[Site, TestClient, list[int]], texts: list[str]
) -> None:
    """Text that a peer may write adds no element and no attribute, and is there to be read as it was written."""
    ward, browser, used = studio

    def page(written: dict[str, str]) -> Reader:
        used[0] += 1
        uid = f"1.2.840.77.{used[0]}"
        receive(ward.record, received(used[0], uid, sop_instance_uid=f"{uid}.1", **written))
        return Reader(browser.get(f"/studies/{uid}").text)

    written = dict(zip(sorted(WRITTEN), texts, strict=True))
    plain = page({name: "x" if text else "" for name, text in written.items()})
    shown = page(written)
    assert shown.shape == plain.shape
    for name in ("patient_id", "accession_number", "study_description"):
        assert written[name] in shown.text, name
