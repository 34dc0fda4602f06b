"""HTML from templates that escape everything they are given."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from node.web import wording
from node.web.identity import Principal

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
_FILTERS = (
    wording.duration,
    wording.minute,
    wording.moment,
    wording.person_name,
    wording.plain,
    wording.probability,
    wording.process,
    wording.seconds,
    wording.size,
)


class Pages:
    """The templates of this package. Autoescape is on for all of them, whatever their name."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        for one in _FILTERS:
            self._environment.filters[one.__name__] = one
        self._environment.globals["static"] = _versioned({path.name: path for path in STATIC.iterdir()})

    def render(
        self, template: str, request: Request, *, principal: Principal | None = None, **values: Any
    ) -> HTMLResponse:
        """A page. principal: who is logged in, None where nobody is."""
        page = self._environment.get_template(template)
        return HTMLResponse(page.render(principal=principal, path=request.url.path, **values))


def _versioned(files: dict[str, Path]) -> Any:
    """Addresses that change with the content, so that browsers may keep the files for long."""
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in files.items()}

    def address(name: str) -> str:
        return f"/static/{name}?v={digests[name]}"

    return address
