# `make study` runs the quickstart study, `make test` the tests, `make fast` those that are not marked slow, `make nightly`
# those that take many minutes, and `make check` ruff and mypy; `make docs` builds the documentation's site in build/site. Each sets
# up the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUTPUT ?= runs/quickstart
# A test that starts Ray takes up to 6 GB: two processes fit into 16 GB. PROCESSES=0 runs the tests in pytest's own.
PROCESSES ?= 2
SIDE_BY_SIDE := -n $(PROCESSES) --no-loadscope-reorder
# Two processes on two cores: threads of one would wait for those of the other.
test fast nightly: export OMP_NUM_THREADS ?= 1

.PHONY: study test nightly fast check docs format clean

study: $(READY)
	$(BIN)/python -m study run quickstart --output $(OUTPUT)

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# What takes many minutes: whole rounds of measuring commands, and ten times the random examples.
nightly: $(READY)
	$(BIN)/python -m pytest --nightly -m nightly
	FUZZ_FACTOR=10 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -k fuzz

fast: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/site/build.py

docs: $(READY)
	$(BIN)/python docs/site/build.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The doctor also compiles DeepSpeed's communication operator, so that no study spends time on it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m study doctor
	touch $(READY)

clean:
	rm -rf $(VENV) runs build
