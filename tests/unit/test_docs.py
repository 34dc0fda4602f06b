"""The documents: their generated parts are current, their links lead somewhere, their commands and settings exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

from node.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_generated_parts_say_what_the_code_says() -> None:
    stale = [str(path) for path, text in generator().generate().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run docs/generate.py"


def test_a_document_without_its_marks_is_noticed() -> None:
    with pytest.raises(ValueError, match="no part"):
        generator().renewed("a page", "settings", "content")


def test_a_renewed_part_leaves_the_rest_alone() -> None:
    make = generator()
    page = f"before\n{make.BEGIN.format('x')}\nold\n{make.END.format('x')}\nafter\n"
    renewed = make.renewed(page, "x", "new")
    assert renewed.startswith("before\n")
    assert renewed.endswith("\nafter\n")
    assert "old" not in renewed
    assert make.renewed(renewed, "x", "new") == renewed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    inside = [target for target in targets if "://" not in target]
    assert [target for target in inside if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_documents_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:db|deploy|docs|models|node|tests|workers)/[\w./@-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_documents_exist(page: Path) -> None:
    known = {entry.name for entry in entry_points(group="radnode.commands")}
    used = re.findall(r"\bradnode ([a-z]+)\b", " ".join([*blocks(page, ""), *inline_code(page)]))
    assert set(used) - known == set()


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`(radnode [^`]+)`", page.read_text(encoding="utf-8"))


def test_settings_files_in_documents_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from node.settings import load  # noqa: PLC0415 - beside what it is for

    for name in ("RADNODE_DATA_DIR", "RADNODE_DICOM_HOST"):
        monkeypatch.delenv(name, raising=False)
    examples = [block for page in PAGES for block in blocks(page, "toml")]
    assert examples
    for example in examples:
        assert tomllib.loads(example)
        file = tmp_path / "radnode.toml"
        file.write_text(example, encoding="utf-8")
        assert isinstance(load(file), Settings)


def test_every_command_of_the_overview_is_described() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for entry in entry_points(group="radnode.commands"):
        assert f"### `radnode {entry.name}`" in page


def test_the_readme_names_its_two_commands_and_the_makefile_has_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}: setup\b", makefile, re.MULTILINE)
    assert shlex.split("radnode demo")[1] in makefile
    assert "Not a medical device" in readme
