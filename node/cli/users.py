"""`radnode users`: accounts of this node. A password comes from a prompt or a file, never from the command line."""

from __future__ import annotations

import getpass
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from db import users as db_users
from db.errors import ConfigError, RefusedError
from node.cli.common import ACTOR, Config, Json, err, open_record, show
from node.web.passwords import check_policy, hash_password
from node.web.permissions import Role
from node.web.wording import iso

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The account's name.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the password, - for standard input; without it a prompt.")
]
Roles = Annotated[list[Role] | None, typer.Option("--role", help="A role; may be given several times.")]


@app.callback()
def group() -> None:
    """People who may use the web side."""


@app.command()
def add(name: Name, config: Config = None, role: Roles = None, password_file: PasswordFile = None) -> None:
    """Make an account; viewer where no role is given."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError("a name has up to 64 letters, digits and . _ @ -, and begins with a letter or digit")
    roles = [one.value for one in role or [Role.VIEWER]]
    with open_record(config) as (_, record):
        hashed = hash_password(_password(name, password_file))
        with record.write() as session:
            db_users.create(session, name, hashed, roles, actor=ACTOR)
    err.print(f"{name} may log in as {', '.join(roles)}.")


@app.command()
def passwd(name: Name, config: Config = None, password_file: PasswordFile = None) -> None:
    """Change a password, lift a lock and end the account's sessions."""
    with open_record(config) as (_, record):
        hashed = hash_password(_password(name, password_file))
        with record.write() as session:
            db_users.set_password(session, name, hashed, actor=ACTOR)
    err.print(f"{name} has a new password; sessions under the old one have ended.")


@app.command()
def roles(name: Name, config: Config = None, role: Roles = None) -> None:
    """Change what an account may do, from its next request on; without --role it may do nothing."""
    wanted = [one.value for one in role or []]
    with open_record(config) as (_, record), record.write() as session:
        db_users.set_roles(session, name, wanted, actor=ACTOR)
    err.print(f"{name} is now {', '.join(wanted) or 'without any role'}.")


@app.command()
def disable(name: Name, config: Config = None) -> None:
    """Let an account in no more and end its sessions. It stays in the record, for the audit names it."""
    with open_record(config) as (_, record), record.write() as session:
        db_users.disable(session, name, actor=ACTOR)
    err.print(f"{name} is disabled.")


@app.command()
def enable(name: Name, config: Config = None) -> None:
    """Let a disabled or locked account in again."""
    with open_record(config) as (_, record), record.write() as session:
        db_users.enable(session, name, actor=ACTOR)
    err.print(f"{name} may log in.")


@app.command("list")
def list_users(config: Config = None, json: Json = False) -> None:
    """List the accounts."""
    with open_record(config) as (_, record), record.read() as session:
        found = db_users.everyone(session)
    rows = [
        {
            "name": user.name,
            "roles": list(user.roles) if json else ", ".join(user.roles),
            "kind": "identity provider" if user.provided else "local",
            "disabled": user.disabled,
            "locked_until": iso(user.locked_until),
            "last_login_at": iso(user.last_login_at),
        }
        for user in found
    ]
    columns = ["name", "roles", "kind", "disabled", "locked_until", "last_login_at"]
    show(rows, columns, json, "There is no account yet: `radnode users add NAME`.")


def _password(name: str, file: Path | None) -> str:
    """Raises RefusedError for a password that is too easily guessed, ConfigError where none can be read."""
    if file is not None:
        password = _read(file)
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise RefusedError("the two passwords differ")
    else:
        raise ConfigError("there is no terminal to ask for the password; give --password-file FILE, or - for input")
    check_policy(password, name)
    return password


def _read(file: Path) -> str:
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the password file cannot be read ({type(error).__name__})") from error
    return text.partition("\n")[0].removesuffix("\r")
