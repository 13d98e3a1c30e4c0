PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
PIP := VIRTUAL_ENV=.venv uv --quiet pip
endif
VENV := $(if $(UV),uv --quiet venv --clear --python $(PYTHON),$(PYTHON) -m venv --clear) .venv
# A venv that was left half made, or made by the other of pip and uv, is made again.
READY := { $(PIP) --version && $(BIN)/python -c ''; } >/dev/null 2>&1 || $(VENV)
# How many processes run the tests, each with servers of its own.
TEST_PROCESSES ?= 2
CODE := src tests $(wildcard examples deploy docs/mkdocs_hooks.py)

.DEFAULT_GOAL := setup
.PHONY: setup run servers test check fix bench docs

setup: .venv/.dev

run: .venv/.dev
	$(BIN)/python -m examples.production_service

servers: .venv/.dev
	$(BIN)/python -m tests.servers

test: servers
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

check: .venv/.dev
	$(BIN)/ruff check && $(BIN)/ruff format --check
	$(BIN)/mypy $(CODE) && $(BIN)/basedpyright $(CODE) && $(BIN)/lint-imports --no-logo

fix: .venv/.dev
	$(BIN)/ruff check --fix; $(BIN)/ruff format

bench: .venv/.bench
	$(BIN)/python -m bench

docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/.dev: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "avx-events needs Python 3.11 or newer: make PYTHON=python3.11")'
	@$(READY)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/.bench: .venv/.dev
	@$(READY)
	$(PIP) install --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@
