# Needs Python 3.11 or newer and make; everything else comes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Tests of one file share what they have exported and compiled.
PARALLEL := -n auto --dist loadfile

.PHONY: help demo test test-fast lint format docs bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       train, export, compile, check and measure a small network"
	@echo "make test       every test"
	@echo "make test-fast  the tests that take little time"
	@echo "make lint       ruff, ruff format, mypy"
	@echo "make format     let ruff format the code"
	@echo "make docs       the documentation as a site: docs/_build/index.html"
	@echo "make bench      measure the compiler's kernels and networks on this machine"

demo: $(VENV)/.demo
	$(BIN)/python -m examples.demo --output demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q --fail-on-warning --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

# BENCH: more options, as in make bench BENCH="--larq PYTHON --larq-models DIR"
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run --json bench-results/results.json --markdown bench-results/results.md $(BENCH)

clean:
	rm -rf $(VENV) build dist demo docs/_build docs/api/*.rst *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: the environment is brought up to date when the packaging or the versions change.
$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit("bnncc needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) -e '.[dev]'
	@touch $@
