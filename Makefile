# make demo   install into .venv and do the main job on handwritten digits
# make test   install the test extras as well, run the default suite and what the pages show
# make test-oldest   the default suite with the oldest versions that are allowed
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# two tests at a time, each of one thread; those of two threads wait without spinning; at the end
# stands what was skipped, and why
THREADS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
TEST := $(THREADS) $(BIN)/python -m pytest -n 2 -rs

.PHONY: demo test test-all test-oldest lint clean

demo: $(VENV)/.installed
	$(BIN)/supernet demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TEST)
	$(TEST) -m slow tests/docs

test-all: $(VENV)/.installed-test
	$(TEST) -m ""

test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet uv
	$(VENV)-oldest/bin/uv pip install --python $(VENV)-oldest --resolution lowest-direct \
	    -e '.[test,bench]'
	$(THREADS) $(VENV)-oldest/bin/python -m benchmarks.reliability.supply oldest -n 2

lint: $(VENV)/.installed-test
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

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --progress-bar off -e '.[test,bench]'
	touch $@ $(VENV)/.installed
