# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.ready-test
PEERS_READY := $(VENV)/.ready-peers

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

# Minutes: small sizes, a case or two of each set, without the slowest peers.
bench: $(PEERS_READY)
	$(BIN)/python -m benchmarks.accuracy --quick -o bench
	$(BIN)/python -m benchmarks.metrics --quick -o bench
	$(BIN)/python -m benchmarks.registration --quick -o bench
	$(BIN)/python -m benchmarks.performance_page bench -o bench/performance.md

# Hours: everything. Stop it at will: it goes on where it stopped. Remove bench/full to measure anew.
bench-full: $(PEERS_READY)
	$(BIN)/python -m benchmarks.accuracy -o bench/full
	$(BIN)/python -m benchmarks.metrics -o bench/full
	$(BIN)/python -m benchmarks.registration -o bench/full
	$(BIN)/python -m benchmarks.performance_page bench/full --publish

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(TEST_READY): $(READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

$(PEERS_READY): $(TEST_READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[test,peers]"
	@touch $@

clean:
	rm -rf $(VENV) demo
