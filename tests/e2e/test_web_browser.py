"""The pages in a real browser: log-in, live worklist, keyboard, narrow screens, accessibility by axe."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from db import deliveries, readings, users
from node.settings import Peer, Settings
from node.web.permissions import Role
from node.web.server import serve_until
from tests.support import browser
from tests.support.browser import violations
from tests.support.listening import chest_file
from tests.support.pages import Shown, pages
from tests.support.processes import free_port
from tests.support.web import PASSWORD, Site
from tests.support.web_studies import HOSTILE, Made, read_study, refused_study, send_all, waiting_study

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as opened:
        yield opened


class Ward:
    """A served node with one study that is read and one that is refused."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.url = f"http://127.0.0.1:{site.settings.web_port}"
        site.add("ada", "radiologist")
        site.add("max", *(role.value for role in Role))
        self.read = self.add_read(1, priority="stat", accession_number="ACC-1")
        self.refused = refused_study(
            site.record, site.settings.data_dir, 2, "lateral view (ViewPosition LL)", patient_name=HOSTILE
        )

    def bury(self) -> None:
        """What was to be sent is given up."""
        with self.site.record.write() as session:
            for one in deliveries.claim(session, self.read.job, "pacs", "sender", lease_s=60):
                deliveries.bury(session, one, "sender", reason="refused")

    def add_read(self, number: int, **options: Any) -> Made:
        return read_study(self.site.record, self.site.settings.data_dir, number, **options)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with serving(tmp_path) as served:
        yield served


@contextmanager
def serving(folder: Path, **web: Any) -> Iterator[Ward]:
    site = Site(folder)
    pacs = Peer(ae_title="PACS", host="127.0.0.1", port=9, silent_after_min=30)
    site.settings = Settings(data_dir=folder, web_port=free_port(), peers={"pacs": pacs}, web=web)
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=serve_until, args=(site.settings, site.record, ready.set, stop))
    thread.start()
    try:
        assert ready.wait(20)
        yield Ward(site)
    finally:
        stop.set()
        thread.join(20)
        site.record.close()
    assert not thread.is_alive()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with browser.new_page(chromium) as opened:
        yield opened


def log_in(page: Page, ward: Ward, name: str = "ada") -> None:
    browser.log_in(page, ward.url, name)


def judge(page: Page, ward: Ward, key: str) -> None:
    page.goto(f"{ward.url}/studies/{ward.read.study}")
    page.keyboard.press(key)
    expect(page.get_by_role("heading", name="What readers said")).to_be_visible()


def test_a_reader_judges_by_keyboard_and_takes_it_back(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    page.goto(f"{ward.url}/studies/{ward.read.study}")
    page.get_by_role("slider", name="Heat map").fill("60")
    page.keyboard.press("c")
    comment = page.get_by_role("textbox", name="Comment")
    expect(comment).to_be_focused()
    page.keyboard.type("rib, not a consolidation")
    page.get_by_label("Side").select_option("left")
    page.get_by_role("heading", name="Your verdict").click()
    page.keyboard.press("r")
    said = page.get_by_role("listitem").filter(has_text="the model said present")
    expect(said).to_contain_text("pneumonia rejected")
    expect(said).to_contain_text("rib, not a consolidation")
    # The picture stays as it was set, and what was said is not said of the next finding.
    expect(page.locator(".stack .map")).to_have_css("opacity", "0.6")
    expect(comment).to_have_value("")
    expect(page.get_by_label("Side")).to_have_value("")
    page.keyboard.press("z")
    expect(page.get_by_role("listitem").filter(has_text="took back a verdict")).to_be_visible()
    with ward.site.record.read() as session:
        rows = readings.of_study(session, ward.read.study)
    assert [(one.verdict, one.laterality, one.undone) for one in rows] == [
        ("reject", "left", True),
        ("undo", "", False),
    ]
    page.get_by_label(re.compile("^Keys:")).uncheck()
    page.keyboard.press("a")
    page.reload()
    expect(page.get_by_label(re.compile("^Keys:"))).not_to_be_checked()
    with ward.site.record.read() as session:
        assert len(readings.of_study(session, ward.read.study)) == 2


def test_an_open_study_says_that_it_has_changed_and_stays_as_it_is(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    page.goto(f"{ward.url}/studies/{ward.read.study}")
    page.keyboard.press("c")
    page.keyboard.type("half a sen")
    with ward.site.record.write() as session:
        send_all(session, ward.read.job)
    expect(page.get_by_text("This study has changed")).to_be_visible()
    expect(page.get_by_role("textbox", name="Comment")).to_have_value("half a sen")
    # Nobody has looked again.
    assert len([one for one in ward.site.audited("study_viewed") if "patient_shown" in one.detail]) == 1
    page.get_by_role("link", name="Load the page again").click()
    expect(page.get_by_text("pacs: confirmed").first).to_be_visible()
    asks = page.locator("#live")
    before = asks.get_attribute("hx-get") or ""
    page.keyboard.press("a")
    expect(page.get_by_role("heading", name="What readers said")).to_be_visible()
    # One's own verdict is no news: from now on it is asked what has come after it.
    expect(asks).not_to_have_attribute("hx-get", before)
    expect(page.get_by_text("This study has changed")).to_have_count(0)


def test_a_page_that_hears_nothing_any_more_says_so(page: Page, ward: Ward) -> None:
    page.clock.install()
    page.route("**/events", lambda route: route.fulfill(status=404))
    log_in(page, ward)
    stale = page.get_by_text("what is shown may be old")
    expect(stale).to_be_hidden()
    page.clock.fast_forward(11_000)
    expect(stale).to_be_visible()
    page.unroute("**/events")
    page.clock.fast_forward(31_000)
    expect(stale).to_be_hidden()


def test_what_cannot_be_done_is_said_where_the_reader_is(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    page.goto(f"{ward.url}/studies/{ward.read.study}")
    with ward.site.record.write() as session:
        users.set_roles(session, "ada", ("viewer",), actor="test")
    page.keyboard.press("a")
    expect(page.get_by_role("alert")).to_contain_text("needs the right readings:write")
    with ward.site.record.write() as session:
        users.disable(session, "ada", actor="test")
    page.keyboard.press("a")
    expect(page.get_by_role("button", name="Log in", exact=True)).to_be_visible()


def test_a_file_is_dropped_on_the_rule_tester(page: Page, ward: Ward, tmp_path: Path) -> None:
    log_in(page, ward, "max")
    page.goto(f"{ward.url}/operations")
    page.get_by_label("Calling AE title").fill("CT1")
    file = chest_file(tmp_path, "dropped.dcm")
    page.get_by_label("A DICOM file, or drop one here").set_input_files(file)
    expect(page.get_by_text("Route chest-radiographs: matches")).to_be_visible()
    page.get_by_label("A DICOM file, or drop one here").set_input_files(Path(__file__))
    expect(page.get_by_text("that is no DICOM file")).to_be_visible()
    data = base64.b64encode(file.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """data => { const held = new DataTransfer();
        held.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], "dropped.dcm")); return held; }""",
        data,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.get_by_text("Route chest-radiographs: matches")).to_be_visible()


def test_ticks_stay_while_the_list_renews_itself(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    tick = page.get_by_label(f"Tick study {ward.read.study}")
    tick.check()
    waiting_study(ward.site.record, ward.site.settings.data_dir, 3, patient_name="New^Patient")
    expect(page.get_by_text("New, Patient")).to_be_visible()
    expect(tick).to_be_checked()


def test_pages_of_the_list_follow_one_another_and_back_leads_back(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    page.goto(f"{ward.url}/?limit=1")
    page.evaluate("window.never_reloaded = true")
    rows = page.get_by_role("table").get_by_role("row")
    page.get_by_role("link", name="Older").click()
    expect(page).to_have_url(re.compile("after="))
    expect(page.get_by_text("Doe, Jane")).to_be_visible()
    expect(rows).to_have_count(2)
    assert page.evaluate("window.never_reloaded")
    page.go_back()
    expect(page).to_have_url(f"{ward.url}/?limit=1")
    expect(page.get_by_text("Doe, Jane")).to_have_count(0)
    expect(rows).to_have_count(2)


def test_a_person_logs_in_looks_and_logs_out(page: Page, ward: Ward) -> None:
    page.goto(f"{ward.url}/studies/{ward.read.study}")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("not the password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Doe, Jane")).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{ward.url}/login")
    page.go_back()
    expect(page.get_by_role("button", name="Log in", exact=True)).to_be_visible()


def test_the_list_renews_itself_and_keeps_its_filters(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(3)
    page.get_by_label("Priority").select_option("stat")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile("priority=stat"))
    expect(rows).to_have_count(2)
    link = page.get_by_role("link", name=re.compile(ward.read.study))
    link.focus()
    with page.expect_response("**/?*priority=stat*"):
        waiting_study(ward.site.record, ward.site.settings.data_dir, 3, priority="stat", patient_name="New^Patient")
    expect(page.get_by_text("New, Patient")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("renewed")
    expect(link).to_be_focused()
    waiting_study(ward.site.record, ward.site.settings.data_dir, 4, priority="routine", patient_name="Not^Wanted")
    with ward.site.record.write() as session:
        send_all(session, ward.read.job)
    expect(page.get_by_text("2 confirmed")).to_be_visible()
    expect(page.get_by_text("Not, Wanted")).to_have_count(0)


def test_a_list_that_comes_late_does_not_take_the_place_of_a_filtered_one(page: Page, ward: Ward) -> None:
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held or "x-radnode-live" not in route.request.headers:
            route.fallback()
        else:
            held.append(route)

    page.route("**/", hold_the_first)
    with page.expect_request(lambda request: "x-radnode-live" in request.headers):
        log_in(page, ward)
    page.get_by_label("Priority").select_option("stat")
    page.get_by_role("button", name="Filter").click()
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(2)
    with page.expect_response("**/?*priority=stat*"):
        held[0].continue_()
    expect(rows).to_have_count(2)


def test_an_ended_session_shows_the_log_in(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    with ward.site.record.write() as session:
        users.disable(session, "ada", actor="test")
    expect(page.get_by_role("button", name="Log in", exact=True)).to_be_visible()


def test_the_map_fades_in_over_the_image(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    page.get_by_role("link", name=re.compile(ward.read.study)).click()
    image, drawn = page.locator(".stack img").first, page.locator(".stack .map")
    expect(drawn).to_have_css("opacity", "0")
    for one in (image, drawn):
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=one.element_handle())
    slider = page.get_by_role("slider", name="Heat map")
    slider.focus()
    page.keyboard.press("End")
    expect(drawn).to_have_css("opacity", "1")
    expect(slider).to_have_attribute("aria-valuetext", "100 percent")
    assert image.bounding_box() == pytest.approx(drawn.bounding_box(), abs=1.5)
    page.get_by_label("Window centre").fill("100")
    page.get_by_label("Window width").fill("50")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile("centre=100&width=50"))
    expect(image).to_have_attribute("src", re.compile("centre=100"))


def test_a_uid_is_copied(page: Page, ward: Ward) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    log_in(page, ward)
    page.goto(f"{ward.url}/studies/{ward.read.study}")
    page.get_by_role("button", name="Copy Study Instance UID").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == ward.read.study


def test_hostile_names_do_nothing(page: Page, ward: Ward) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    log_in(page, ward)
    expect(page.get_by_text("<script>document.title")).to_be_visible()
    page.goto(f"{ward.url}/studies/{ward.refused.study}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<script>document.title")
    assert page.title() != "owned"
    assert page.locator("img[src=x]").count() == 0


# pynetdicom leaves the socket of a connection that nobody takes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
def test_every_page_is_accessible(page: Page, ward: Ward, tmp_path: Path, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{ward.url}/login")
    found = {"/login": violations(page)}
    log_in(page, ward, "max")
    judge(page, ward, "a")
    ward.bury()
    known = pages(Shown(ward.read, ward.refused))
    for path in [*(one for addresses in known.values() for one in addresses), "/nowhere"]:
        page.goto(ward.url + path)
        found[path] = violations(page)
        # WCAG 1.4.10: nothing but a table scrolls sideways.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
    page.goto(f"{ward.url}/operations")
    page.get_by_role("button", name="C-ECHO pacs").click()
    expect(page.get_by_role("heading", name="C-ECHO pacs")).to_be_visible()
    found["echo"] = violations(page)
    page.goto(ward.url)
    page.get_by_label(f"Tick study {ward.read.study}").check()
    page.get_by_role("button", name="Read the ticked again").click()
    expect(page.get_by_text("1 new revision")).to_be_visible()
    found["rerun"] = violations(page)
    page.goto(f"{ward.url}/operations")
    page.get_by_label("A DICOM file, or drop one here").set_input_files(chest_file(tmp_path, "dropped.dcm"))
    expect(page.get_by_text("Route chest-radiographs: matches")).to_be_visible()
    found["rule tester"] = violations(page)
    assert {path: said for path, said in found.items() if said} == {}


def test_what_settings_hide_is_hidden_accessibly_until_it_is_shown(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path, ai_after_first_read=True, mask_patients=True) as ward:
        log_in(page, ward)
        found = {"worklist": violations(page)}
        expect(page.get_by_text("after a first reading").first).to_be_visible()
        page.goto(f"{ward.url}/studies/{ward.read.study}")
        expect(page.get_by_role("link", name="Show patient")).to_be_visible()
        expect(page.get_by_role("slider")).to_have_count(0)
        found["study"] = violations(page)
        page.get_by_role("button", name="Nothing to report").click()
        expect(page.get_by_role("slider", name="Heat map")).to_be_visible()
        expect(page.get_by_text("Doe")).to_have_count(0)
        assert {path: said for path, said in found.items() if said} == {}


def test_everything_is_reached_by_keyboard(page: Page, ward: Ward) -> None:
    log_in(page, ward)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    link = page.get_by_role("link", name=re.compile(ward.read.study))
    for _ in range(30):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Doe, Jane")).to_be_visible()
    for landmark in ("banner", "main"):
        expect(page.get_by_role(landmark)).to_have_count(1)  # type: ignore[arg-type]
