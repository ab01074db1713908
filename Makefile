# make demo: the whole road on real data.  make test: lint, types, tests.  make audit: known vulnerabilities of the
# locked dependencies, where a service answers.  All set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Compiled once, also where the environment says otherwise: the tests start hundreds of interpreters.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder --max-worker-restart 0

.PHONY: demo test test-quick lint audit clean

demo: $(READY)
	@$(BIN)/charflow run digits

test: lint
	@$(PYTEST)

test-quick: lint
	@$(PYTEST) -m "not slow"

audit: $(READY)
	@$(BIN)/python -m tests.audit

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

$(READY): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "charflow needs Python 3.11 or newer")'
	@echo "setting up .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt "torch==2.13.0"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt --editable ".[dev]"
	@touch $(READY)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
