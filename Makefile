.PHONY: setup demo test

setup: .venv/ready

.venv/ready: requirements-dev.lock pyproject.toml
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	.venv/bin/python -m pip install --quiet --no-deps -e .
	touch .venv/ready

demo: setup
	.venv/bin/radnode demo

test: setup
	.venv/bin/lint-imports
	.venv/bin/python -m pytest -q tests/unit
