"""`radnode users` and `radnode keys`, as an administrator types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.web import log_in, site

Run = Callable[..., subprocess.CompletedProcess[str]]
SECRET = "four words without sense"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def command(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "node.cli.main", *arguments],
            env={"PATH": "/usr/bin:/bin", "RADNODE_DATA_DIR": str(tmp_path)},
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return command


def listed(run: Run, what: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run(what, "list", "--json").stdout)
    return found


def test_an_account_is_made_changed_and_shut_from_the_command_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    made = run("users", "add", "ada", "--role", "radiologist", "--role", "auditor", "--password-file", str(file))
    assert (made.returncode, made.stderr.strip()) == (0, "ada may log in as radiologist, auditor.")
    assert SECRET not in made.stdout + made.stderr
    with site(tmp_path) as doors:
        assert log_in(doors.browser(), "ada", SECRET).status_code == 303
        changed = run("users", "passwd", "ada", "--password-file", "-", given="another long sentence\n")
        assert changed.returncode == 0
        assert log_in(doors.browser(), "ada", SECRET).status_code == 401
        assert log_in(doors.browser(), "ada", "another long sentence").status_code == 303
        assert run("users", "roles", "ada", "--role", "viewer").returncode == 0
        assert [(user["name"], user["roles"], user["kind"]) for user in listed(run, "users")] == [
            ("ada", ["viewer"], "local")
        ]
        assert run("users", "disable", "ada").returncode == 0
        assert log_in(doors.browser(), "ada", "another long sentence").status_code == 401
        assert run("users", "enable", "ada").returncode == 0
        assert log_in(doors.browser(), "ada", "another long sentence").status_code == 303
        assert {note.actor for note in doors.audited("user_disabled")} == {"command line"}


@pytest.mark.parametrize(
    ("arguments", "given", "status", "said"),
    [
        (("users", "add", "ada", "--password-file", "-"), "tooshrt\n", 1, "too short"),
        (("users", "add", "ada", "--password-file", "/nonexistent"), "", 2, "cannot be read"),
        (("users", "add", "ada"), SECRET, 2, "no terminal"),
        (("users", "add", "-x;y", "--password-file", "-"), SECRET, 2, "No such option"),
        (("users", "add", "a b", "--password-file", "-"), SECRET, 2, "letters"),
        (("users", "add", "ada", "--role", "root", "--password-file", "-"), SECRET, 2, "root"),
        (("users", "disable", "nobody"), "", 1, "no account"),
        (("keys", "add", "x", "--scope", "everything"), "", 2, "everything"),
        (("keys", "add", "x", "--scope", "self"), "", 2, "self"),
        (("keys", "revoke", "nobody"), "", 1, "no key"),
    ],
)
def test_what_cannot_be_done_is_said(run: Run, arguments: tuple[str, ...], given: str, status: int, said: str) -> None:
    done = run(*arguments, given=given)
    assert done.returncode == status
    assert said in done.stderr
    assert given.strip() == "" or given.strip() not in done.stderr


def test_a_key_is_shown_once_and_opens_until_revoked(run: Run, tmp_path: Path) -> None:
    made = run("keys", "add", "grafana", "--scope", "metrics:read", "--days", "2")
    key = made.stdout.strip()
    assert key.startswith("rnk_")
    assert key not in made.stderr
    assert key not in json.dumps(listed(run, "keys"))
    assert key.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("radnode.db*"))
    with site(tmp_path) as doors:
        elsewhere = doors.browser(address="192.0.2.1")
        bearer = {"authorization": f"Bearer {key}"}
        assert elsewhere.get("/metrics", headers=bearer).status_code == 200
        (row,) = listed(run, "keys")
        assert (row["name"], row["scopes"], row["last_used_at"] is None) == ("grafana", ["metrics:read"], False)
        assert run("keys", "revoke", "grafana").returncode == 0
        assert elsewhere.get("/metrics", headers=bearer).status_code == 401
    assert run("keys", "add", "grafana", "--scope", "metrics:read").returncode == 1
