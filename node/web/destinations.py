"""Where a person goes after logging in: a path of this node, whatever a link says."""

from __future__ import annotations

import re
from urllib.parse import quote

from fastapi import Request

# No second slash and no backslash at the start: browsers would read both as another host's name.
_PATH = re.compile(r"/(?![/\\])[\x21-\x7e]{0,1000}")


def safe_destination(wanted: str) -> str:
    """`wanted` where it is a path of this node, else the worklist."""
    return wanted if _PATH.fullmatch(wanted) and not wanted.startswith(("/login", "/logout")) else "/"


def login_url(request: Request) -> str:
    """The log-in page, with the way back to what was asked for."""
    query = f"?{request.url.query}" if request.url.query else ""
    wanted = safe_destination(f"{request.url.path}{query}")
    return "/login" if wanted == "/" else f"/login?next={quote(wanted, safe='')}"
