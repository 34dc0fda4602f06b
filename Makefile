.PHONY: setup peers lint check demo test soak models

setup: .venv/ready

.venv/ready: requirements-dev.lock pyproject.toml
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	.venv/bin/python -m pip install --quiet --no-deps -e .
	touch .venv/ready

# The real PACS, toolkits, database and broker that the tests speak with.
peers:
	deploy/install-peers.sh

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

# What a change needs before it is shown to anybody: a minute, no peers.
check: lint
	.venv/bin/python -m pytest -q -m "not e2e and not tensorflow and not soak" tests/unit

demo: setup
	.venv/bin/radnode demo

test: setup peers lint
	.venv/bin/python -m pytest -q --durations=15

# What takes minutes: load, faults and mutants in numbers.
soak: setup peers
	.venv/bin/python -m pytest -q --durations=15 -m soak

# Every bundle of models/recipes made again, for hours; DATA holds the data sets and start weights. What lacks data says so.
DATA ?= $(or $(RADNODE_SHARED_DATA),../shared/data)
RUNS ?= runs
models: setup
	.venv/bin/python -m models.recipes --data $(DATA) --out $(RUNS)
