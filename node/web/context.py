"""What a request handler needs, made once and handed to the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import Request

from db.session import Record
from node.settings import Settings

if TYPE_CHECKING:
    from node.web.live import Changes
    from node.web.oidc import Provider
    from node.web.pages import Pages
    from node.web.pictures import Pictures


@dataclass(frozen=True)
class Context:
    """provider: the identity provider, None where none is configured."""

    settings: Settings
    record: Record
    pages: Pages
    pictures: Pictures
    changes: Changes
    provider: Provider | None


def context_of(request: Request) -> Context:
    """The application's context."""
    return cast("Context", request.app.state.context)
