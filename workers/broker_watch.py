"""Has the broker lost what it held? Then all that waits is announced again, at once instead of at the next repeat.

A key stands in the broker for as long as its messages do: a broker that was emptied, restarted without its files or
replaced by another lacks it. One that lost only its last second of messages has it; those are announced again after
`db.jobs.REANNOUNCE_FIRST_S`.
"""

from __future__ import annotations

import threading

import redis
import structlog

from db import leftovers
from db.errors import BrokerUnavailable, RetriableError
from db.session import Record
from node import broker
from node.settings import Settings

log = structlog.get_logger(__name__)

_ROUND_S = 1.0
_KEY = "radnode.announced"


class BrokerWatch:
    """Looks once a second."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Record and broker being away are waited out; of the broker the relay speaks."""
        with broker.client(self.settings.effective_broker_url) as client:
            while not stop.wait(_ROUND_S):
                try:
                    self.run_once(client)
                except BrokerUnavailable as error:
                    log.debug("broker_not_watched", reason=str(error))
                except RetriableError as error:
                    log.warning("not_announced_again", reason=str(error))

    def run_once(self, client: redis.Redis) -> int:
        """Returns how many announcements were written. Raises BrokerUnavailable or RecordUnavailable."""
        try:
            if client.exists(_KEY):
                return 0
            with self.record.write() as session:
                announced = leftovers.announce_all(session)
            # After the announcements: should this process end in between they are written twice, which is no harm.
            client.set(_KEY, "1")
        except redis.RedisError as error:
            raise BrokerUnavailable(f"the broker does not answer ({type(error).__name__})") from error
        if announced:
            log.warning("broker_was_emptied", announced=announced)
        return announced
