"""One Celery worker, from its arguments to its exit status, without the interpreter's own tidying up at the end.

By then all work is finished or handed back. What is left, taking down every module of this process one by one, takes a
second or two of a busy machine and does nothing for anybody.
"""

from __future__ import annotations

import logging
import os
import sys

from workers.tasks import app


def main() -> None:
    status: object = 0
    try:
        app.worker_main(sys.argv[1:])
    except SystemExit as end:
        status = end.code
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    main()
