"""A reader's verdicts, undo, the first reading; saved views; reading again; the way to the PACS viewer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from db import deletions, identities, readings
from db.readings import ReadingView
from node.settings_web import Web
from tests.support.web import Site, csrf_of, site
from tests.support.web_studies import HOSTILE, Made, read_study, send_all, waiting_study

SAID = "Jane's old rib fracture"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def post(browser: TestClient, path: str, **fields: str) -> Any:
    return browser.post(path, data={"csrf_token": csrf_of(browser.get("/").text), **fields})


def key_of(browser: TestClient, made: Made) -> str:
    found = re.search(r'<option value="([^"]+\|pneumonia)"', browser.get(f"/studies/{made.study}").text)
    assert found is not None
    return found[1]


def rows(ward: Site, made: Made) -> list[ReadingView]:
    with ward.record.read() as session:
        return readings.of_study(session, made.study)


def test_a_reader_judges_a_finding_and_takes_it_back(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir)
    ada = ward.logged_in("ada", "radiologist")
    address = f"/studies/{made.study}"
    fields = {"finding": key_of(ada, made), "verdict": "reject", "reason": "not-there", "laterality": "left"}
    answer = post(ada, f"{address}/readings", comment=SAID, **fields)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{address}#reading")
    page = ada.get(address).text
    for told in ("rejected", "the model said present", "not there", "left", SAID.replace("'", "&#39;"), "Undo"):
        assert told in page, told
    assert "the model said present" in ward.logged_in("vic", "viewer").get(address).text
    assert "rib fracture" not in ward.logged_in("mel", "ml-engineer").get(address).text
    assert post(ada, f"{address}/readings/undo").status_code == 303
    assert post(ada, f"{address}/readings/undo").status_code == 409
    assert [(one.verdict, one.undone, one.reader) for one in rows(ward, made)] == [
        ("reject", True, "ada"),
        ("undo", False, "ada"),
    ]
    (judged,), (undone,) = ward.audited("finding_judged"), ward.audited("judgement_undone")
    assert (judged.actor, judged.subject, judged.detail["verdict"], judged.detail["label"]) == (
        *("ada", made.study, "reject", "pneumonia"),
    )
    assert undone.detail["job"] == made.job
    assert "fracture" not in str([judged.detail, undone.detail])


def test_only_a_radiologist_judges(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir)
    for role in ("viewer", "pacs-admin", "ml-engineer", "auditor"):
        browser = ward.logged_in("", role)
        assert "Your verdict" not in browser.get(f"/studies/{made.study}").text
        for path in ("readings", "readings/undo", "first-reading"):
            assert post(browser, f"/studies/{made.study}/{path}", verdict="accept").status_code == 403, (role, path)
    assert rows(ward, made) == []


def test_what_means_nothing_is_refused(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir)
    ada = ward.logged_in("ada", "radiologist")
    given = {"finding": key_of(ada, made), "verdict": "accept"}
    for fields, status in (
        ({"verdict": "maybe"}, 422),
        ({"reason": "because"}, 422),
        ({"laterality": "up"}, 422),
        ({"comment": "x" * 1001}, 422),
        ({"comment": "a\x00b"}, 422),
        ({"finding": "no|such|finding"}, 409),
    ):
        answer = post(ada, f"/studies/{made.study}/readings", **{**given, **fields})
        assert answer.status_code == status, fields
    assert rows(ward, made) == []


def test_a_hostile_comment_is_text(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir)
    ada = ward.logged_in("ada", "radiologist")
    post(ada, f"/studies/{made.study}/readings", finding=key_of(ada, made), verdict="accept", comment=HOSTILE)
    page = ada.get(f"/studies/{made.study}").text
    assert "&lt;script&gt;document.title" in page
    assert "<img src=x" not in page


def test_nothing_of_the_models_is_seen_before_the_first_reading(tmp_path: Path) -> None:
    with site(tmp_path, ai_after_first_read=True) as ward:
        made = read_study(ward.record, ward.settings.data_dir, priority="urgent")
        with ward.record.write() as session:
            send_all(session, made.job)
        ada, vic = ward.logged_in("ada", "radiologist"), ward.logged_in("vic", "viewer")
        address, judging = (
            f"/studies/{made.study}",
            {"verdict": "accept", "finding": f"{made.job}|{made.image}|pneumonia"},
        )
        for page in (ada.get(address), vic.get(address), ada.get("/"), ada.get("/api/v1" + address)):
            assert page.status_code == 200
            for told in ("0.87", made.map, made.report, "pneumonia", "result sent", "2 confirmed"):
                assert told not in page.text, told
        for path in (f"{address}/maps/{made.map}", f"{address}/reports/{made.report}", "/?positive=true"):
            assert ada.get(path).status_code in {403, 422}, path
        assert post(ada, f"{address}/readings", **judging).status_code == 403
        program = ward.key("studies:read")
        assert "0.871" in ward.browser().get("/api/v1" + address, headers=program).text
        assert post(vic, f"{address}/first-reading", verdict="finding").status_code == 403
        assert post(ada, f"{address}/first-reading", verdict="perhaps").status_code == 422
        assert post(ada, f"{address}/first-reading", verdict="no-finding", comment="clear").status_code == 303
        for browser in (ada, vic):
            assert "0.87" in browser.get(address).text
            assert "0.87" in browser.get("/").text
        assert post(ada, f"{address}/first-reading", verdict="finding").status_code == 409
        assert post(ada, f"{address}/readings", **judging).status_code == 303
        assert [note.detail["verdict"] for note in ward.audited("first_read")] == ["no-finding"]


def test_a_view_is_kept_without_the_patient_and_only_for_its_owner(ward: Site) -> None:
    ada = ward.logged_in("ada", "radiologist")
    page = ada.get("/?priority=stat&q=Doe&after=1-1").text
    assert 'name="query" value="priority=stat"' in page
    kept = post(ada, "/views", name="Nights", query="priority=stat&q=Doe&state=parked&evil=1")
    assert (kept.status_code, kept.headers["location"]) == (303, "/?state=parked&priority=stat")
    assert "Nights" in ada.get("/").text
    assert "Nights" not in ward.logged_in("eve", "radiologist").get("/").text
    assert post(ada, "/views", name="Nothing", query="q=Doe").status_code == 422
    assert post(ada, "/views", name="", query="priority=stat").status_code == 422
    assert post(ward.logged_in("eve", "radiologist"), "/views/1/remove").status_code == 404
    assert post(ada, f"/views/{2**63}/remove").status_code == 422
    assert post(ada, "/views/1/remove").status_code == 303
    assert "Nights" not in ada.get("/").text


def test_ticked_studies_are_read_again(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir, 1)
    waits = waiting_study(ward.record, ward.settings.data_dir, 2)
    ada = ward.logged_in("ada", "radiologist")
    assert f'name="study.{made.study}"' in ada.get("/").text
    assert "study." not in ward.logged_in("vic", "viewer").get("/").text
    ticked = {f"study.{uid}": "on" for uid in (made.study, waits, "5.5", "<b>")}
    page = post(ada, "/rerun", **ticked)
    assert page.status_code == 200
    for told in ("1 new revision", "left alone: 1 job under way", "not found", "&lt;b&gt;"):
        assert told in page.text, told
    study = ada.get(f"/studies/{made.study}").text
    assert "Earlier revisions (1)" in study
    assert [(note.actor, note.subject) for note in ward.audited("study_rerun")] == [("ada", made.study)]
    assert post(ada, "/rerun").status_code == 422
    many = post(ada, "/rerun", **{f"study.1.2.3.{number}": "on" for number in range(200)})
    assert many.text.count("not found") == 200
    assert post(ada, "/rerun", **{f"study.1.2.3.{number}": "on" for number in range(201)}).status_code == 422
    assert post(ada, "/rerun", **{f"study.1.2.3.{number}": "on" for number in range(400)}).status_code == 400
    program = ward.key("work:rerun")
    again = ward.browser().post(f"/api/v1/studies/{made.study}/rerun", headers=program)
    assert again.json() == {"revisions": 0, "retried": 0, "under_way": 1}
    assert ward.browser().post("/api/v1/studies/5.5/rerun", headers=program).status_code == 404
    with ward.record.write() as session:
        deletions.begin_study(session, made.study, path_of=str, actor="anna", reason="wrong patient", force=True)
    assert "its images are deleted" in post(ada, "/rerun", **{f"study.{made.study}": "on"}).text
    gone = ward.browser().post(f"/api/v1/studies/{made.study}/rerun", headers=program)
    assert (gone.status_code, "deleted" in gone.text) == (409, True)


def test_the_viewer_is_a_link_for_those_who_may_see_what_it_needs(tmp_path: Path) -> None:
    url = "https://pacs.example.org/view?study={study_instance_uid}&acc={accession_number}"
    with site(tmp_path, viewer_url=url) as ward:
        made = read_study(ward.record, ward.settings.data_dir, accession_number='A&"1')
        link = f"https://pacs.example.org/view?study={made.study}&amp;acc=A%26%221"
        assert f'href="{link}"' in ward.logged_in("ada", "radiologist").get(f"/studies/{made.study}").text
        assert "pacs.example.org" not in ward.logged_in("mel", "ml-engineer").get(f"/studies/{made.study}").text


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://{patient_id}.example.org",
        "https://x.example/{name}",
        "https://x.example/{",
        "/x",
    ],
)
def test_a_viewer_address_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="viewer_url"):
        Web(viewer_url=url)


def test_a_timeline_tells_of_every_event(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir)
    ada = ward.logged_in("ada", "radiologist")
    post(ada, f"/studies/{made.study}/readings", finding=key_of(ada, made), verdict="accept")
    ada.get(f"/studies/{made.study}/reports/{made.report}")
    page = ada.get(f"/studies/{made.study}").text
    for told in (
        "instances received",
        "study routed",
        "job finished",
        "finding judged",
        "report viewed",
        "study viewed",
    ):
        assert told in page, told


def test_a_page_is_told_when_its_study_has_changed_and_nothing_more(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir)
    ada = ward.logged_in("ada", "radiologist")

    def asked() -> str:
        found = re.search(r'hx-get="(/studies/[0-9.]+/news\?seen=[0-9a-f]+)"', ada.get(f"/studies/{made.study}").text)
        assert found is not None
        return found[1]

    before = asked()
    assert ada.get(before).status_code == 204
    post(ada, f"/studies/{made.study}/readings", finding=key_of(ada, made), verdict="accept")
    told = ada.get(before)
    assert (told.status_code, "This study has changed" in told.text, "Doe" in told.text) == (200, True, False)
    assert ada.get(asked()).status_code == 204
    assert ada.get("/studies/1.2.3/news").status_code == 404


def test_a_changed_identity_stands_beside_the_one_of_the_images(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir, patient_id="ID-1")
    now = identities.Identity("ID-2", name="Roe^Jane")
    with ward.record.write() as session:
        identities.change(session, identities.Change("ID-1", now, "merge", "ADT|HOSP", "77"))
    page = ward.logged_in("ada", "radiologist").get(f"/studies/{made.study}").text
    assert all(text in page for text in ("Doe, Jane", "identity was changed", "Roe, Jane", "ID-2"))
    masked = ward.logged_in("mel", "ml-engineer").get(f"/studies/{made.study}").text
    assert "identity was changed" in masked
    assert not [text for text in ("Roe", "ID-2", "Doe") if text in masked]
