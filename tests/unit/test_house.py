"""Rules of the house that no linter knows: where the packages come from, what they load, how long a file may be."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("db", "models", "node", "workers")
LONGEST = 400
# The learning framework takes seconds to load, and a crash of its native parts must not reach the edges.
# FHIR's models are loaded with the first resource.
HEAVY = ("tensorflow", "keras", "highdicom", "ai_edge_litert", "fhir")
MODULES_THAT_STAY_LIGHT = ("node.cli.main", "node.cli.run", "node.listener", "node.web.app", "db.schema")

_LOADED = """
import importlib, json, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        for found in pkgutil.walk_packages(module.__path__, name + "."):
            if ".migrations" not in found.name and not found.name.endswith("__main__"):
                importlib.import_module(found.name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
_ENTRIES = """
import importlib, json, sys
failed = {}
for name, target in json.load(sys.stdin).items():
    module, _, attribute = target.partition(":")
    try:
        getattr(importlib.import_module(module), attribute)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def fresh(script: str, *arguments: str, given: str = "") -> str:
    """What a Python of its own prints, which has loaded nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_the_one_of_this_repository(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).parent == ROOT / package
    assert set(packages_distributions().get(package, ["radnode"])) == {"radnode"}, "another distribution owns this name"
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("module", MODULES_THAT_STAY_LIGHT)
def test_an_entry_of_the_edges_loads_nothing_heavy(module: str) -> None:
    assert set(json.loads(fresh(_LOADED, module))).isdisjoint(HEAVY)


def test_no_module_of_the_edges_or_of_the_record_loads_anything_heavy() -> None:
    loaded = set(json.loads(fresh(_LOADED, "db", "node")))
    assert {"sqlalchemy", "pynetdicom", "fastapi"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_no_file_is_too_long_to_read() -> None:
    files = [path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if "migrations" not in path.parts and (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert long == {}


def test_every_command_of_the_project_loads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = {**project["scripts"], **project["entry-points"]["radnode.commands"]}
    assert len(entries) > 20
    assert json.loads(fresh(_ENTRIES, given=json.dumps(entries))) == {}
