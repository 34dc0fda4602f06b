"""What people and programs see: worklist, study, pictures, reports; and what they do not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydicom import dcmread

from db import deliveries
from node.retention import Housekeeper
from tests.support.house import make_old
from tests.support.records import image as received
from tests.support.records import receive
from tests.support.web import Site, csrf_of, site
from tests.support.web_studies import HOSTILE, Made, read_study, refused_study, send_all, waiting_study

NAMES = ("Doe", "ID-1", "ACC-1", "Chest PA")


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def study(ward: Site, number: int = 1, **options: object) -> Made:
    given = {"patient_id": "ID-1", "accession_number": "ACC-1", **options}
    return read_study(ward.record, ward.settings.data_dir, number, **given)  # type: ignore[arg-type]


class Tags(HTMLParser):
    """Every element's name and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def pixels(browser: TestClient, path: str) -> np.ndarray:
    answer = browser.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def test_an_empty_worklist_says_so(ward: Site) -> None:
    browser = ward.logged_in("ada")
    assert "No study has been received yet." in browser.get("/").text
    assert "No study matches" in browser.get("/?priority=stat").text


def test_the_worklist_tells_what_counts(ward: Site) -> None:
    study(ward, 1, priority="stat")
    refused_study(ward.record, ward.settings.data_dir, 2, "not analysed: lateral view")
    waiting_study(ward.record, ward.settings.data_dir, 3)
    page = ward.logged_in("ada").get("/").text
    for told in (
        *("STAT", "Doe, Jane", "ID-1", "ACC-1", "CR · CHEST", "Chest PA", "pneumonia", "cxr-sample 1.2.0"),
        *("0.87", "at or above threshold", "0.50", "4 min", "target 10 min", "2 waiting"),
        *("not analysed", "lateral view", "target 2 h", "Not a medical device"),
    ):
        assert told in page, told


def test_the_same_is_there_for_programs(ward: Site) -> None:
    made = study(ward, 1, priority="stat")
    answer = ward.browser().get("/api/v1/studies", headers=ward.key("studies:read", "patients:read")).json()
    (row,) = answer["studies"]
    assert (row["study_instance_uid"], row["patient_name"], row["priority"]) == (made.study, "Doe^Jane", "stat")
    assert row["top_finding"] == {
        "label": "pneumonia",
        "presence": "present",
        "probability": 0.871,
        "threshold": 0.5,
        "priority": "stat",
    }
    assert (row["state"], row["deliveries"], row["late"]) == ("done", {"pending": 2}, False)
    detail = ward.browser().get(f"/api/v1/studies/{made.study}", headers=ward.key("studies:read", name="b")).json()
    assert (detail["patient_name"], detail["study_description"]) == (None, None)
    (run,) = detail["runs"]
    assert (run["job"], run["current"], [one["kind"] for one in run["results"]]) == (made.job, True, ["SR", "SC"])
    assert [one["state"] for one in detail["instances"]] == ["ANALYSED"]


def test_pages_follow_one_another_by_their_own_links(ward: Site) -> None:
    for number in range(1, 6):
        receive(ward.record, received(number, f"5.{number}"))
    program, address, seen = ward.key("studies:read"), "/api/v1/studies?limit=2&state=receiving", []
    while address:
        answer = ward.browser().get(address, headers=program).json()
        seen += [row["study_instance_uid"] for row in answer["studies"]]
        assert address.startswith("/api/v1/studies?")
        address = answer["next"]
    assert seen == ["5.5", "5.4", "5.3", "5.2", "5.1"]
    page = ward.logged_in("ada").get("/?limit=2&state=receiving").text
    links = [a["href"] for tag, a in Tags(page).found if tag == "a" and a.get("rel") == "next"]
    assert len(links) == 1
    assert "state=receiving" in str(links[0])


@pytest.mark.parametrize("role", ["ml-engineer", "auditor"])
def test_who_has_no_right_to_patients_sees_none_and_cannot_ask(ward: Site, role: str) -> None:
    made = study(ward)
    browser = ward.logged_in("eve", role)
    for path in ("/", f"/studies/{made.study}", "/?patients=show", "/api/v1/studies?patients=show"):
        text = browser.get(path).text
        assert made.study in text
        assert not [name for name in NAMES if name in text], path
    assert browser.get("/?q=Doe").status_code == 403
    assert made.study in browser.get("/?q=1.2.840.99").text
    assert browser.get(f"/studies/{made.study}/reports/{made.report}").status_code == 403
    assert browser.get(f"/studies/{made.study}/images/{made.image}").status_code == 403
    assert browser.get(f"/studies/{made.study}/maps/{made.map}").status_code == 403


def test_masked_patients_are_shown_to_whoever_asks_and_that_is_on_record(tmp_path: Path) -> None:
    with site(tmp_path, mask_patients=True) as ward:
        made = study(ward)
        browser = ward.logged_in("ada")
        for path in ("/", f"/studies/{made.study}"):
            masked = browser.get(path).text
            assert not [name for name in NAMES if name in masked]
            assert "Doe, Jane" in browser.get(f"{path}?patients=show").text
        assert [note.actor for note in ward.audited("patients_shown")] == ["ada"]
        viewed = [(note.subject, note.detail["patient_shown"]) for note in ward.audited("study_viewed")]
        assert viewed == [(made.study, False), (made.study, True)]


def test_hostile_text_of_peers_is_text_on_every_page(ward: Site) -> None:
    fields = ("patient_name", "patient_id", "accession_number", "study_description", "modality", "series_description")
    hostile = dict.fromkeys(fields, HOSTILE)
    made = study(ward, 1, **hostile)
    refused_study(ward.record, ward.settings.data_dir, 2, HOSTILE, **hostile)
    calling = received(9, "5.9", calling_ae="<b>AE</b>", facts={"body_part": HOSTILE}, **hostile)
    receive(ward.record, calling)
    browser = ward.logged_in("ada")
    report = f"/studies/{made.study}/reports/{made.report}"
    addresses = (
        "/",
        "/?q='><script>alert(1)</script>",
        f"/studies/{made.study}",
        "/studies/1.2.840.99.2",
        "/studies/5.9",
        report,
    )
    for path in addresses:
        page = browser.get(path)
        assert page.status_code == 200
        for tag, attributes in Tags(page.text).found:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (path, tag)
            assert tag not in {"script", "b", "style"} or attributes.get("src", "").startswith("/static/")  # type: ignore[union-attr]
            assert attributes.get("src") != "x"
    assert "&lt;script&gt;document.title" in browser.get("/").text
    assert json.loads(browser.get("/api/v1/studies/5.9").text)["modalities"] == [HOSTILE]


def test_no_page_holds_a_script_or_a_style_of_its_own(ward: Site) -> None:
    made = study(ward)
    browser = ward.logged_in("ada")
    for path in ("/login", "/", f"/studies/{made.study}", "/nowhere", "/api/docs"):
        for tag, attributes in Tags(browser.get(path).text).found:
            assert tag != "style"
            assert "style" not in attributes
            for name in ("src", "href", "action"):
                address = attributes.get(name) or "/"
                assert address.startswith(("/", "#")), (path, address)
                assert not address.startswith("//")


def test_a_study_tells_its_whole_story(ward: Site) -> None:
    made = study(ward)
    browser = ward.logged_in("ada")
    page = browser.get(f"/studies/{made.study}").text
    for told in (made.study, made.image, made.report, made.map, "study routed", "job finished", "pacs: waiting"):
        assert told in page, told
    assert [note.actor for note in ward.audited("study_viewed")] == ["ada"]
    assert browser.get("/studies/1.2.3").status_code == 404
    assert browser.get("/studies/..%2F..%2Fetc").status_code == 404


def test_why_a_study_was_not_analysed_stands_on_its_page(ward: Site) -> None:
    made = refused_study(ward.record, ward.settings.data_dir, 2, "lateral view (ViewPosition LL)")
    page = ward.logged_in("ada").get(f"/studies/{made.study}").text
    assert "Why not analysed" in page
    assert "lateral view (ViewPosition LL)" in page


def test_an_image_is_shown_as_it_is_and_under_another_window(ward: Site) -> None:
    made = study(ward)
    browser = ward.logged_in("ada")
    address = f"/studies/{made.study}/images/{made.image}"
    shown = pixels(browser, address)
    assert shown.shape == (64, 48)
    assert shown[20, 10] > shown[0, 0]
    narrow = pixels(browser, f"{address}?centre=100&width=2")
    assert (int(narrow[20, 10]), int(narrow[0, 0])) == (255, 0)
    assert pixels(browser, f"{address}?side=64").shape == (64, 48)
    assert browser.get(f"{address}?width=0&centre=1").status_code == 422
    assert browser.get(f"/studies/5.5/images/{made.image}").status_code == 404


def test_images_follow_one_another_under_the_same_window(ward: Site) -> None:
    made = study(ward)
    for number in (2, 3):
        receive(ward.record, received(number, made.study, sop_instance_uid=f"{made.study}.1.{number}"))
    browser = ward.logged_in("ada")
    first = browser.get(f"/studies/{made.study}").text
    assert ("Image 1 of 3" in first, "Previous image" in first) == (True, False)
    page = browser.get(f"/studies/{made.study}?image={made.study}.1.2&centre=40&width=80").text
    assert "Image 2 of 3" in page
    links = [str(a["href"]) for tag, a in Tags(page).found if tag == "a" and "centre=40.0" in str(a.get("href"))]
    assert [link.partition("image=")[2].partition("&")[0] for link in links] == [made.image, f"{made.study}.1.3"]


def test_a_map_lies_on_its_image(ward: Site) -> None:
    made = study(ward)
    browser = ward.logged_in("ada")
    drawn = pixels(browser, f"/studies/{made.study}/maps/{made.map}").astype(int)
    rows, columns, _ = drawn.shape
    assert rows / columns == pytest.approx(64 / 48, abs=0.01)
    # The sample's one bump is at row 4.7 of 7, column 2.3 of 7: there it is coloured, elsewhere as grey as the image.
    colour = drawn.max(axis=2) - drawn.min(axis=2)
    peak_row, peak_column = np.unravel_index(np.argmax(colour), colour.shape)
    assert peak_row / rows == pytest.approx(4.7 / 7, abs=0.25)
    assert peak_column / columns == pytest.approx(2.3 / 7, abs=0.25)
    assert colour[: rows // 10, -columns // 10 :].max() < 40
    assert made.map in browser.get(f"/studies/{made.study}").text
    assert browser.get(f"/studies/{made.study}/maps/{made.report}").status_code == 404


def test_a_broken_image_is_said_to_be_and_harms_nobody(ward: Site) -> None:
    made = study(ward)
    browser = ward.logged_in("ada")
    (path,) = (ward.settings.data_dir / "instances").rglob("*.dcm")
    path.write_bytes(path.read_bytes()[:-2000])
    answer = browser.get(f"/studies/{made.study}/images/{made.image}")
    assert answer.status_code == 422
    assert "of 3072 bytes" in answer.text
    assert "Doe" not in answer.text


def test_an_image_that_claims_to_be_enormous_is_refused_before_it_takes_memory(ward: Site) -> None:
    made = study(ward)
    (path,) = (ward.settings.data_dir / "instances").rglob("*.dcm")
    header = dcmread(path)
    header.Rows = header.Columns = 65535
    header.save_as(path)
    answer = ward.logged_in("ada").get(f"/studies/{made.study}/images/{made.image}")
    assert answer.status_code == 422
    assert "65535" in answer.text


def test_a_report_is_readable_and_that_it_was_read_is_on_record(ward: Site) -> None:
    made = study(ward)
    page = ward.logged_in("ada").get(f"/studies/{made.study}/reports/{made.report}").text
    for told in ("Pneumonia", "Not for clinical use", "Probability", "0.871"):
        assert told in page, told
    assert [(note.actor, note.subject) for note in ward.audited("report_viewed")] == [("ada", made.report)]


def test_a_study_whose_files_are_deleted_keeps_its_findings(ward: Site) -> None:
    made, browser = study(ward), ward.logged_in("ada")
    with ward.record.write() as session:
        send_all(session, made.job)
    make_old(ward.record, timedelta(days=400))
    Housekeeper(ward.settings, ward.record, "keeper-1").run_once()
    page = browser.get(f"/studies/{made.study}").text
    assert all(told in page for told in ("pneumonia", "0.87", "images deleted", "deleted here", "confirmed"))
    assert browser.get(f"/studies/{made.study}/reports/{made.report}").status_code == 410
    assert browser.get(f"/studies/{made.study}/images/{made.image}.png").status_code == 404
    assert "pneumonia" in browser.get("/").text


def test_what_was_given_up_is_tried_again_by_whoever_may(ward: Site) -> None:
    made = study(ward)
    with ward.record.write() as session:
        for one in deliveries.claim(session, made.job, "pacs", "sender", lease_s=60):
            deliveries.bury(session, one, "sender", reason="refused")
    viewer = ward.logged_in("eve", "radiologist")
    assert "Try again" not in viewer.get(f"/studies/{made.study}").text
    admin = ward.logged_in("ada", "pacs-admin")
    page = admin.get(f"/studies/{made.study}").text
    assert "Try again" in page
    answer = admin.post(f"/studies/{made.study}/retry", data={"csrf_token": csrf_of(page)})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{made.study}")
    assert "Try again" not in admin.get(f"/studies/{made.study}").text
    assert {note.actor for note in ward.audited("delivery_retried")} == {"ada"}
    program = ward.key("work:retry")
    again = ward.browser().post(f"/api/v1/studies/{made.study}/retry", headers=program)
    assert (again.status_code, again.json()) == (200, {"jobs": 0, "deliveries": 0})
    assert ward.browser().post("/api/v1/studies/5.5/retry", headers=program).status_code == 404


def test_the_api_describes_itself(ward: Site) -> None:
    browser = ward.logged_in("ada")
    described = browser.get("/api/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    study = "/api/v1/studies/{uid}"
    assert set(described["paths"]) == {"/api/v1/studies", study, f"{study}/retry", f"{study}/rerun"}
    page = browser.get("/api/docs").text
    assert "GET /api/v1/studies/{uid}" in page


def test_nothing_of_a_patient_gets_into_the_log(ward: Site, caplog: pytest.LogCaptureFixture) -> None:
    made = study(ward)
    browser = ward.logged_in("ada")
    for path in ("/", "/?q=Doe", f"/studies/{made.study}", f"/studies/{made.study}/images/{made.image}"):
        assert browser.get(path).status_code == 200
    assert not [name for name in NAMES if name in caplog.text]


def test_pages_are_quick(ward: Site) -> None:
    for number in range(1, 61):
        receive(ward.record, received(number, f"5.{number}"))
    browser = ward.logged_in("ada")
    browser.get("/")
    begun = time.perf_counter()
    assert browser.get("/").status_code == 200
    assert time.perf_counter() - begun < 1
