# make demo   install into .venv and do the main job on handwritten digits
# make test   install the test extras as well, run the default suite and what the pages show
# make test RUNTIMES=1   the same with every runtime installed, whose tests are skipped without
# make test-slow   the slow tests, alone; with MINUTES=10 no test begins later than that
# make test-oldest   the default suite with the oldest versions that are allowed
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
comma := ,
EXTRAS := test,bench$(if $(RUNTIMES),$(comma)test-runtimes)
INSTALLED := $(VENV)/.installed-test$(if $(RUNTIMES),-runtimes)
# two tests at a time, each of one thread; those of two threads wait without spinning; at the end
# stands what was not run, why, and how to run it
THREADS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
TEST := $(THREADS) $(BIN)/python -m pytest -n 2
# every network of timm and the benchmarks, the longest, come last
SLOW := $(filter-out %benchmarks/ %nn/ %__pycache__/,$(wildcard tests/*/)) tests/nn tests/benchmarks

.PHONY: demo test test-slow test-all test-oldest lint clean

demo: $(VENV)/.installed
	$(BIN)/supernet demo

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TEST) -m "not slow and not cuda"

test-slow: $(INSTALLED)
	$(TEST) -m slow $(if $(MINUTES),--minutes $(MINUTES)) $(SLOW)

test-all: $(INSTALLED)
	$(TEST) -m ""

test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet uv
	$(VENV)-oldest/bin/uv pip install --python $(VENV)-oldest --resolution lowest-direct \
	    -e '.[test,bench]'
	$(THREADS) $(VENV)-oldest/bin/python -m benchmarks.reliability.supply oldest -n 2

lint: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --progress-bar off -e .
	touch $@

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --progress-bar off -e '.[$(EXTRAS)]'
	touch $@ $(VENV)/.installed
