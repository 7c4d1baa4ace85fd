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
RELAY := .venv-relay
RELAY_STAMP := $(RELAY)/.ofatvm-stamp
GOALS := $(or $(MAKECMDGOALS),setup)
# A stamp knows nothing of a Python that moved since, or of a package that is only half there.
CHECK := -I scripts/check_environment.py
BROKEN := $(if $(filter-out clean,$(GOALS)),$(shell \
  $(BIN)/python $(CHECK) requirements.lock ofatvm >/dev/null 2>&1 || echo broken))
RELAY_BROKEN := $(if $(filter relay test-relay test-slow $(RELAY_STAMP),$(GOALS)),$(shell \
  $(RELAY)/bin/python $(CHECK) requirements-relay.lock tvm >/dev/null 2>&1 || echo broken))

.PHONY: setup search test test-relay test-slow relay bench lint clean broken

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml $(BROKEN)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python >= 3.11 is needed; say make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 5; }
	$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  $(BROKEN:broken=--force-reinstall) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

search: $(STAMP)
	$(BIN)/ofatvm search --target host

relay: $(STAMP) $(RELAY_STAMP)

# Nothing of a broken one is kept: pip alone does not mend all that may be wrong.
$(RELAY_STAMP): requirements-relay.lock $(RELAY_BROKEN)
	$(if $(RELAY_BROKEN),$(PYTHON) -m venv --clear $(RELAY))
	$(RELAY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-relay.lock
	touch $@

# What is broken is never up to date.
broken:

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
	rm -rf $(VENV) $(RELAY) .mypy_cache .pytest_cache .ruff_cache .hypothesis
