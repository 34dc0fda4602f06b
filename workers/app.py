"""The Celery application: what a message is, and how the broker is used.

Messages are JSON and hold an id, nothing else. They are acknowledged late and handed out one at a time; results of
tasks are not kept, because the record knows better.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError

from db import outbox
from db.errors import BrokerUnavailable
from node.settings import Settings, load

# How a worker process finds the settings file that its command was given.
CONFIG_VARIABLE = "RADNODE_CONFIG_FILE"

QUEUES = (outbox.TOPIC_INFER_STAT, outbox.TOPIC_INFER, outbox.TOPIC_DELIVER)
INFER_TASK, DELIVER_TASK = "radnode.infer", "radnode.deliver"
_TASK_OF = {
    outbox.TOPIC_INFER_STAT: INFER_TASK,
    outbox.TOPIC_INFER: INFER_TASK,
    outbox.TOPIC_DELIVER: DELIVER_TASK,
}


def settings_of_process() -> Settings:
    """The settings of a worker process, from the file its parent named."""
    named = os.environ.get(CONFIG_VARIABLE)
    return load(Path(named) if named else None)


def make_app(settings: Settings) -> Celery:
    """An application for these settings; connects to nothing yet."""
    app = Celery("radnode", broker=settings.effective_broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=False,
        task_queues=[_queue(name) for name in QUEUES],
        task_default_queue=outbox.TOPIC_INFER,
        task_create_missing_queues=False,
        task_soft_time_limit=settings.work.soft_time_limit_s,
        task_time_limit=settings.work.hard_time_limit_s,
        worker_prefetch_multiplier=1,
        # Loading a model takes longer than Celery grants a new child by default.
        worker_proc_alive_timeout=180.0,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # A consumer that connects again may sit there and take nothing, for good, when a task ended in between (Celery
        # 5.7). A worker that loses the broker finishes what it holds and ends; whoever watches it starts a new one.
        broker_connection_retry=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Queues in the order they were named: STAT before routine.
        broker_transport_options={
            "queue_order_strategy": "priority",
            # The broker gives a message to somebody else when it was not acknowledged within this time.
            "visibility_timeout": settings.work.visibility_s,
            "socket_connect_timeout": 5,
            "retry_on_timeout": True,
        },
        enable_utc=True,
        timezone="UTC",
    )
    return app


def _queue(name: str) -> Queue:
    """With an exchange of its own: on a shared one every message would go to every queue."""
    return Queue(name, Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]


class Publisher:
    """Puts hints on the broker. Belongs to one thread."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def __call__(self, topic: str, subject: str) -> None:
        """Raises BrokerUnavailable where the broker does not take it."""
        try:
            self.app.send_task(_TASK_OF[topic], args=[subject], queue=topic, retry=False)
        except (OperationalError, OSError) as error:
            raise BrokerUnavailable(
                f"the broker took no message ({type(error).__name__}); check that it runs"
            ) from error
