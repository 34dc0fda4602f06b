.PHONY: setup peers lint check demo test soak sbom audit models

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

# Two at a time, a file on one side: each side has its own servers, ports and folders.
test: setup peers lint
	.venv/bin/python -m pytest -q --durations=15 -n 2 --dist loadfile

# What takes minutes: load, faults and mutants in numbers.
soak: setup peers
	.venv/bin/python -m pytest -q --durations=15 -m soak

# The bill of materials of what is installed at a hospital (CycloneDX), and what is known against it. See docs/security.md.
sbom: setup
	.venv/bin/python -W ignore::UserWarning -m cyclonedx_py requirements requirements.lock --pyproject pyproject.toml \
		--of JSON --sv 1.6 --output-reproducible --validate -o sbom.json

audit: setup
	.venv/bin/python deploy/audit_lock.py requirements.lock

# Every bundle of models/recipes made again, for hours; DATA holds the data sets and start weights. What lacks data says so.
DATA ?= $(or $(RADNODE_SHARED_DATA),../shared/data)
RUNS ?= runs
models: setup
	.venv/bin/python -m models.recipes --data $(DATA) --out $(RUNS)
