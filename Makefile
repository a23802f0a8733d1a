VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CPUS := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

.PHONY: demo test test-long lint types check install clean

demo: $(READY)
	$(BIN)/crossalign demo --overwrite
	@echo "these commands need the environment:  source $(BIN)/activate"

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CPUS) -m "not long"

test-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CPUS) -m long

lint: $(READY)
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs

types: $(READY)
	$(BIN)/mypy

check: lint types test

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo
