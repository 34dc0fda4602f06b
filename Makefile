.PHONY: setup test

setup: .venv/ready

.venv/ready: requirements-dev.lock pyproject.toml
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	.venv/bin/python -m pip install --quiet --no-deps -e .
	touch .venv/ready

test: setup
	.venv/bin/lint-imports
	.venv/bin/python -m pytest -q tests/unit \
		--deselect tests/unit/test_manifest.py::test_list_names_damaged_bundles_too \
		--deselect tests/unit/test_manifest.py::test_show_gives_the_manifest_and_verify_refuses_a_changed_file \
		--deselect tests/unit/test_runner.py::test_verify_runs_the_test_vectors
