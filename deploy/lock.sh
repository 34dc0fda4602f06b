#!/bin/sh
# Rewrites the four lock files from pyproject.toml. Run it after a change of the dependencies.
set -eu
cd "$(dirname "$0")/.."
lock() { .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 \
    --generate-hashes --quiet --no-header "$@"; }
lock --extra cpu --extra train -o requirements.lock
lock --extra cpu --extra train --extra dev -c requirements.lock -o requirements-dev.lock
lock --extra cpu --extra train --extra dev --extra bench -c requirements-dev.lock -o requirements-bench.lock
lock --extra gpu --extra train -o requirements-gpu.lock
