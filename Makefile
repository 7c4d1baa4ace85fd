# make search    set up .venv if needed, then find and ship the best network for this machine
# make test      set up .venv if needed, then ruff, mypy and pytest
# make test-relay  set up both environments, then the tests of the Relay road
# make test-slow   the same, the tests that take long: faults of boards 20 times, whole searches
# make relay     set up .venv-relay, with TVM 0.19 for --ir relay
# make bench     race against other runtimes and compare cold starts, on a quiet machine
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file's tests stay together, so that what they share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile
STAMP := $(VENV)/.ofatvm-stamp
RELAY_STAMP := .venv-relay/.ofatvm-stamp

.PHONY: setup search test test-relay test-slow relay bench lint clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python >= 3.11 is needed; say make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 5; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

search: $(STAMP)
	$(BIN)/ofatvm search --target host

relay: $(STAMP) $(RELAY_STAMP)

$(RELAY_STAMP): requirements-relay.lock
	test -x .venv-relay/bin/python || $(PYTHON) -m venv .venv-relay
	.venv-relay/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-relay.lock
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(PYTEST)

test-relay: relay
	$(PYTEST) -m "relay and not slow"

test-slow: relay
	$(PYTEST) -m slow

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-bench.lock
	$(BIN)/python benchmarks/runtimes.py
	$(BIN)/python benchmarks/cold_start.py

clean:
	rm -rf $(VENV) .venv-relay .mypy_cache .pytest_cache .ruff_cache .hypothesis
