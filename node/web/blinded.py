"""Whether a person may see what the models say of a study.

With `web.ai_after_first_read` that is only once somebody has read it without.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from sqlalchemy.orm import Session

from db import readings
from node.web.context import context_of
from node.web.identity import Principal
from node.web.problems import Problem

# Events of what was made and sent: a study with a map has one object more than one without.
TELLING = frozenset({"job_finished", "sending_begun", "result_sent", "delivery_dead", "delivery_retried"})


def applies(request: Request, principal: Principal) -> bool:
    """Programs read no images, so nothing is kept from them."""
    return context_of(request).settings.web.ai_after_first_read and principal.is_person


def hidden(request: Request, principal: Principal, session: Session, uids: Iterable[str]) -> frozenset[str]:
    """Of which of these studies nothing that a model says is shown to this person now."""
    if not applies(request, principal):
        return frozenset()
    asked = frozenset(uids)
    return asked - readings.read_first(session, asked)


def require_shown(request: Request, principal: Principal, uid: str) -> None:
    """Raises Problem where the study's results are not to be seen yet."""
    with context_of(request).record.read() as session:
        if hidden(request, principal, session, [uid]):
            raise Problem(403, "what the models say of this study is shown once somebody has read it without")
