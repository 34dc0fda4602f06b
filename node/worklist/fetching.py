"""Having the images of a claimed work item sent here, where they do not come by themselves: C-MOVE to the listener."""

from __future__ import annotations

import threading
import time

import structlog

from db.errors import PermanentError, RetriableError
from node.retrieve.retrieving import Bounds, Wanted, move
from node.settings import Peer, Settings

log = structlog.get_logger(__name__)

_AGAIN_S = 60.0
_BOUNDS = Bounds(within_s=1800.0, objects=100_000)


class Fetcher:
    """One study at a time, in a thread of its own: an archive that takes its time holds up no work item.

    What comes is taken as any other image; what comes twice, or after a restart again, changes nothing.
    """

    def __init__(self, settings: Settings, source: Peer | None, after_s: float) -> None:
        """source: the peer that has the images; None never asks. after_s: for how long they may come by themselves."""
        self._settings = settings
        self._source = source
        self._after_s = after_s
        self._ask_at: dict[str, float] = {}
        self._under_way: threading.Thread | None = None

    def ask(self, study_instance_uid: str) -> bool:
        """Ask for a study that is missed, unless it was asked for a short while ago or another is on its way."""
        now = time.monotonic()
        if self._source is None or now < self._ask_at.setdefault(study_instance_uid, now + self._after_s):
            return False
        if self._under_way is not None and self._under_way.is_alive():
            return False
        self._ask_at[study_instance_uid] = now + _AGAIN_S
        name, arguments = "fetch", (self._source, study_instance_uid)
        self._under_way = threading.Thread(target=self._fetch, name=name, args=arguments, daemon=True)
        self._under_way.start()
        return True

    def here(self, study_instance_uid: str) -> None:
        """It is missed no more."""
        self._ask_at.pop(study_instance_uid, None)

    def _fetch(self, source: Peer, study_instance_uid: str) -> None:
        try:
            moved = move(source, self._settings, Wanted(study_instance_uid), _BOUNDS)
        except (RetriableError, PermanentError) as error:
            log.warning("images_not_fetched", study_instance_uid=study_instance_uid, reason=str(error))
            return
        tell = log.info if moved.whole else log.warning
        tell(
            "images_fetched",
            study_instance_uid=study_instance_uid,
            completed=moved.completed,
            failed=moved.failed,
            reason=moved.reason,
        )
