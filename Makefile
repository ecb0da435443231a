# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.ready-test

# Waiting threads spin only briefly: on a busy machine they would else take the cores from those that work.
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo test lint bench bench-full clean

demo: $(READY)
	$(BIN)/regsim demo -o demo
	@echo "Open demo/report.html in a browser."

test: $(TEST_READY) lint
	$(BIN)/python -m pytest

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(TEST_READY)
	$(BIN)/python -m benchmarks.accuracy --quick

bench-full: $(TEST_READY)
	$(BIN)/pip install -q -c constraints.txt -e ".[ants]"
	$(BIN)/python -m benchmarks.accuracy

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(TEST_READY): $(READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) demo
