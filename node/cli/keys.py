"""`radnode keys`: by which programs use the web side."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from db import api_keys
from db.errors import ConfigError
from db.types import utcnow
from node.cli.common import ACTOR, Config, Json, err, open_record, show
from node.web.permissions import SCOPES
from node.web.tokens import NewKey, digest
from node.web.wording import iso

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key is for; the audit names it so.")]
Scopes = Annotated[
    list[str], typer.Option("--scope", help=f"A right; may be given several times: {', '.join(SCOPES)}.")
]
Days = Annotated[int, typer.Option(min=1, max=730, help="Days after which it opens nothing any more.")]


@app.callback()
def group() -> None:
    """Keys by which programs use the web side."""


@app.command()
def add(name: Name, scope: Scopes, days: Days = 90, config: Config = None) -> None:
    """Make a key. It is printed once, on standard output; the node keeps only a digest of it."""
    scopes = sorted(set(scope))
    unknown = [one for one in scopes if one not in SCOPES]
    if unknown:
        raise ConfigError(f"no such right: {', '.join(unknown)}; there are {', '.join(SCOPES)}")
    if not 0 < len(name) <= 64:
        raise ConfigError("a name has 1 to 64 characters")
    key, expires_at = NewKey.make(), utcnow() + timedelta(days=days)
    with open_record(config) as (_, record), record.write() as session:
        api_keys.add(
            session,
            name,
            prefix=key.prefix,
            key_digest=digest(key.text),
            scopes=scopes,
            expires_at=expires_at,
            actor=ACTOR,
        )
    typer.echo(key.text)
    err.print(f"The key {name} opens {', '.join(scopes)} until {iso(expires_at)}. It is not shown again.")


@app.command()
def revoke(name: Name, config: Config = None) -> None:
    """End a key at once."""
    with open_record(config) as (_, record), record.write() as session:
        api_keys.revoke(session, name, actor=ACTOR)
    err.print(f"The key {name} opens nothing any more.")


@app.command("list")
def list_keys(config: Config = None, json: Json = False) -> None:
    """List the keys, revoked and expired ones too; of each only its beginning is known."""
    with open_record(config) as (_, record), record.read() as session:
        found = api_keys.every_key(session)
    rows = [
        {
            "name": key.name,
            "prefix": key.prefix,
            "scopes": list(key.scopes) if json else ", ".join(key.scopes),
            "expires_at": iso(key.expires_at),
            "revoked_at": iso(key.revoked_at),
            "last_used_at": iso(key.last_used_at),
        }
        for key in found
    ]
    columns = ["name", "prefix", "scopes", "expires_at", "revoked_at", "last_used_at"]
    show(rows, columns, json, "There is no key yet: `radnode keys add NAME --scope …`.")
