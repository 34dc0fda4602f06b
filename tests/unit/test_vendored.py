"""What others have made and the pages bring along: unchanged, licensed, and named where it is looked for."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "node" / "web" / "static"
VENDORED: dict[str, dict[str, str]] = tomllib.loads((STATIC / "VENDORED.toml").read_text(encoding="utf-8"))
TEMPLATES = sorted((ROOT / "node" / "web" / "templates").glob("*.html"))
OURS = {"app.js", "app.css", "icon.svg", "VENDORED.toml"}


def digest(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()


def test_every_file_is_ours_or_pinned() -> None:
    licences = {facts["licence_file"] for facts in VENDORED.values()}
    assert {path.name for path in STATIC.iterdir()} == OURS | set(VENDORED) | licences


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_file_is_the_one_that_was_pinned(name: str) -> None:
    facts = VENDORED[name]
    assert (digest(name), digest(facts["licence_file"])) == (facts["sha256"], facts["licence_sha256"])
    assert re.fullmatch(r"pkg:npm/[a-z.]+@\d+\.\d+\.\d+", facts["package"])
    assert re.fullmatch(r"[0-9a-f]{128}", facts["archive_sha512"])
    # The file itself says the version that is claimed for it.
    assert f'"{facts["package"].partition("@")[2]}"' in (STATIC / name).read_text(encoding="utf-8")


def test_the_licence_is_one_that_asks_for_nothing() -> None:
    for facts in VENDORED.values():
        assert facts["licence"] == "0BSD"
        text = (STATIC / facts["licence_file"]).read_text(encoding="utf-8")
        assert "Permission to use, copy, modify, and/or distribute this software for" in text


def test_the_documents_name_it_and_how_it_is_renewed() -> None:
    security = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for name, facts in VENDORED.items():
        assert facts["package"].removeprefix("pkg:npm/") in security, name
    assert "deploy/vendor-htmx.sh" in security


@pytest.mark.parametrize(
    "page", sorted((ROOT / "node" / "web" / "templates").glob("*.html")), ids=lambda path: path.name
)
def test_no_template_has_text_that_htmx_would_run(page: Path) -> None:
    """hx-on, js: values and conditions of triggers are code; the policy refuses them, and no page is to need them."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"hx-on|javascript:|=['\"]js:|hx-trigger=\"[^\"]*\[", text) == []
