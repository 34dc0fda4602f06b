"""What is installed at a hospital: each byte pinned, under licences that permit it, told in a bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.audit_lock import CLEAN, NOT_AUDITED, VULNERABLE, verdict

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock", "requirements-gpu.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Linked against, not changed: what their licence asks for is that somebody may put another version in their place.
LESSER_GPL = {"psycopg", "psycopg-binary"}
# Their metadata name none; the file beside them does.
TOLD_IN_A_FILE = {"namex": "Apache License", "axe-playwright-python": "MIT License"}


def entries(lock: str) -> Iterator[tuple[str, list[str]]]:
    """(requirement, hashes) of each package of a lock."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split("--hash=")
            yield requirement.strip(), [one.strip() for one in hashes]


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_has_one_version_and_its_digests(lock: str) -> None:
    found = list(entries(lock))
    assert len(found) > 80
    for requirement, hashes in found:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?==[^\s;=*]+( ;.*)?", requirement), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_holds_what_the_project_asks_for(lock: str) -> None:
    pinned = {canonicalize_name(r.name): r.specifier for r in (Requirement(text) for text, _ in entries(lock))}
    for wanted in map(Requirement, PROJECT["dependencies"]):
        (version,) = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version.version), wanted


def licence(name: str) -> str:
    """What a package says of its licence, in any of the three places there are for that."""
    found = metadata.metadata(name)
    classifiers = [one for one in found.get_all("Classifier") or [] if one.startswith("License")]
    # The third is often the licence's whole text; its head names it.
    return " ".join([found.get("License-Expression") or "", *classifiers, (found.get("License") or "")[:100]]).strip()


def test_no_package_is_under_the_gpl_and_each_names_its_licence() -> None:
    installed = {canonicalize_name(one.metadata["Name"]) for one in metadata.distributions()}
    names = {Requirement(text).name for lock in LOCKS[:2] for text, _ in entries(lock)} & installed
    assert len(names) > 100
    told = {name: licence(name) for name in names - set(TOLD_IN_A_FILE)}
    assert [name for name, text in told.items() if not text] == []
    gpl = {name for name, text in told.items() if re.search(r"GPL|General Public", text)}
    assert gpl == LESSER_GPL
    assert all(re.search(r"LGPL|Lesser", told[name]) for name in LESSER_GPL)


@pytest.mark.parametrize(("name", "words"), TOLD_IN_A_FILE.items())
def test_licences_told_in_a_file(name: str, words: str) -> None:
    files = [one for one in metadata.files(name) or [] if "licen" in one.name.lower()]
    assert any(words in one.read_text() for one in files)


def test_the_bill_of_materials_names_what_is_locked(tmp_path: Path) -> None:
    recipe = re.search(r"^sbom:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    command = recipe[1].replace("\\\n", " ").replace("sbom.json", str(tmp_path / "sbom.json")).split()
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "sbom.json").read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "radnode")
    told = {one["purl"].partition("?")[0]: one["externalReferences"][0]["hashes"] for one in bill["components"]}
    locked = {
        f"pkg:pypi/{requirement.split(' ;')[0].replace('==', '@')}": hashes
        for requirement, hashes in ((re.sub(r"\[.*\]", "", text), h) for text, h in entries("requirements.lock"))
    }
    assert set(told) == set(locked)
    assert all({f"sha256:{one['content']}" for one in told[purl]} == set(locked[purl]) for purl in locked)


def _known(*ids: str) -> dict[str, object]:
    return {"name": "one", "version": "1.0", "vulns": [{"id": i, "fix_versions": ["1.1"]} for i in ids]}


@pytest.mark.parametrize(
    ("dependencies", "status", "says"),
    [
        ([_known(), _known()], CLEAN, "no known vulnerability; 2 of 2"),
        ([_known("CVE-2026-1")], VULNERABLE, "CVE-2026-1, fixed in 1.1"),
        ([_known(), {"name": "two", "skip_reason": "not found"}], NOT_AUDITED, "1 of 2 packages were looked up"),
        ([], NOT_AUDITED, "cannot be reached"),
    ],
)
def test_an_audit_never_says_clean_of_what_it_did_not_look_up(
    dependencies: list[dict[str, object]], status: int, says: str
) -> None:
    found, text = verdict(dependencies)
    assert found == status
    assert says in text


def test_without_a_network_the_audit_says_so() -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, "deploy/audit_lock.py", "requirements.lock"]
    done = subprocess.run(argv, cwd=ROOT, env=nowhere, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (NOT_AUDITED, "")
    assert "the database of vulnerabilities cannot be reached" in done.stdout
