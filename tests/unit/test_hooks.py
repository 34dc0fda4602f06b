"""The commit hooks: each runs a tool of the project's environment, and its pattern matches what the tool is for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from identify.identify import tags_from_path

ROOT = Path(__file__).parents[2]
PACKAGES = {"db", "models", "node", "workers"}
HOOKS = ("ruff-format", "ruff-check", "mypy", "import-linter")


def hooks() -> dict[str, dict[str, Any]]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"], "a hook from elsewhere would be downloaded"
    return {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def matched(hook: dict[str, Any]) -> set[str]:
    """The files pre-commit would run a hook for: its pattern searched for, all its types there."""
    wanted = set(hook.get("types", ["file"]))
    return {
        name
        for name in tracked()
        if re.search(hook.get("files", ""), name)
        and not re.search(hook.get("exclude", "^$"), name)
        and wanted <= tags_from_path(str(ROOT / name))
    }


def test_the_hooks_are_the_linters() -> None:
    assert tuple(hooks()) == HOOKS


@pytest.mark.parametrize("name", ["ruff-format", "ruff-check"])
def test_ruff_sees_every_python_file(name: str) -> None:
    assert matched(hooks()[name]) == {path for path in tracked() if path.endswith(".py")}


@pytest.mark.parametrize("name", ["mypy", "import-linter"])
def test_a_change_in_any_package_is_type_checked_and_held_to_the_contracts(name: str) -> None:
    found = matched(hooks()[name])
    assert {path.split("/")[0] for path in found} == PACKAGES
    assert found == {path for path in tracked() if path.endswith(".py") and path.split("/")[0] in PACKAGES}
    assert hooks()[name]["pass_filenames"] is False


@pytest.mark.parametrize("name", HOOKS)
def test_every_tool_is_in_the_locked_environment_and_in_make_lint(name: str) -> None:
    hook = hooks()[name]
    tool, *arguments = hook["entry"].split()
    assert hook["language"] == "system"
    assert tool.startswith(".venv/bin/")
    package = {"lint-imports": "import-linter"}.get(Path(tool).name, Path(tool).name)
    assert re.search(rf"^{package}==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE)
    spoken = " ".join([tool, *(a for a in arguments if not a.startswith("--"))])
    assert spoken in (ROOT / "Makefile").read_text()
