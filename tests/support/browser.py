"""Chromium for tests of the pages: started, logged in, and what axe says of what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.processes import program
from tests.support.web import PASSWORD

# What a busy machine needs; what is there is seen at once.
expect.set_options(timeout=15_000)
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    path = program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def new_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page of a person of its own, in which no script may fail and nothing may be refused by the policy."""
    context = browser.new_context(**options)
    context.set_default_timeout(20_000)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield opened
        # The status of a refused page is told there too, which the test itself asked for.
        wrong = [said for said in complaints if "status of 4" not in said]
    finally:
        context.close()
    assert not wrong, wrong


def log_in(page: Page, url: str, name: str, password: str = PASSWORD, *, heading: str = "Worklist") -> None:
    """As a person does."""
    page.goto(url)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 A and AA, and against good practice."""
    found = Axe().run(page, options={"runOnly": WCAG}).response["violations"]
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}" for one in found]
