"""The web application in this process, with people who may log in, and a client that behaves as a browser does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select

from db import api_keys, schema, users
from db.session import Record
from db.tables import Audit
from db.types import utcnow
from node.settings import Settings
from node.web.app import create_app
from node.web.passwords import hash_password
from node.web.tokens import NewKey, digest

PASSWORD = "correct horse battery"
_HASH = hash_password(PASSWORD)
_HIDDEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class Site:
    """An application with its record. `client` is a browser without a log-in."""

    def __init__(self, folder: Path, url: str = "", **web: Any) -> None:
        self.settings = Settings(data_dir=folder, database_url=url, web=web)
        self.record = Record(self.settings.record_url)
        schema.upgrade(self.record)
        self.app = create_app(self.settings, self.record)

    def browser(self, *, address: str = "127.0.0.1", base_url: str = "http://127.0.0.1:8042") -> TestClient:
        return TestClient(
            self.app,
            base_url=base_url,
            client=(address, 40000),
            follow_redirects=False,
            raise_server_exceptions=False,
            headers={"accept": "text/html"},
        )

    def add(self, name: str, *roles: str) -> None:
        with self.record.write() as session:
            users.create(session, name, _HASH, roles or ("viewer",), actor="test")

    def logged_in(self, name: str = "", *roles: str, **options: Any) -> TestClient:
        """A browser with a session of a person who has these roles."""
        name = name or "-".join(roles) or "viewer"
        with self.record.read() as session:
            known = users.credentials(session, name)
        if known is None:
            self.add(name, *roles)
        browser = self.browser(**options)
        answer = log_in(browser, name)
        assert answer.status_code == 303, answer.text
        return browser

    def key(self, *scopes: str, name: str = "program", days: int = 1) -> dict[str, str]:
        """The headers of a program with these scopes."""
        key = NewKey.make()
        with self.record.write() as session:
            api_keys.add(
                session,
                name,
                prefix=key.prefix,
                key_digest=digest(key.text),
                scopes=scopes,
                expires_at=utcnow() + timedelta(days=days),
                actor="test",
            )
        return {"authorization": f"Bearer {key.text}"}

    def audited(self, event: str) -> list[Audit]:
        with self.record.read() as session:
            return list(session.scalars(select(Audit).where(Audit.event == event).order_by(Audit.id)))


@contextmanager
def site(folder: Path, url: str = "", **web: Any) -> Iterator[Site]:
    made = Site(folder, url, **web)
    try:
        yield made
    finally:
        made.record.close()


def log_in(browser: TestClient, name: str, password: str = PASSWORD, **fields: str) -> Any:
    """As a person does: load the page, fill in the form, post it."""
    form = {"csrf_token": csrf_of(browser.get("/login").text), "name": name, "password": password, **fields}
    return browser.post("/login", data=form)


def csrf_of(page: str) -> str:
    found = _HIDDEN.search(page)
    assert found is not None, page
    return found[1]


def cookies(answer: Any) -> Sequence[str]:
    return answer.headers.get_list("set-cookie")
