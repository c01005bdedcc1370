# Everything a user or CI runs. The one virtual environment is made by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEEDS := 10000
BENCHES := core merge log fabric hostile overhead faults survive matrix soak lab rounds reality goodput simulate quality

.PHONY: help setup demo test lint worlds bench soak figures clean $(addprefix bench-,$(BENCHES))

help:
	@echo "make demo        train a small model on four learners under faults; figures and a picture"
	@echo "make test        lint, types, import floors, docs build, all tests (under 5 minutes on two cores)"
	@echo "make worlds      ten thousand whole runs under every fault at once, in virtual time (SEEDS=10000), and planted faults"
	@echo "make lint        the static checks alone"
	@echo "make bench       every measurement of the README but bench-quality (hours); make bench-NAME one of: $(BENCHES)"
	@echo "make soak        half an hour of faults: what grows, what stays behind"
	@echo "make figures     redraw the pictures of docs/ (seconds)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/skerry train --config examples/demo.toml --force

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site

test: lint
	$(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal

soak: bench-soak

worlds: $(STAMP)
	PYTHONPATH=tests:src $(BIN)/python -m worlds --seeds $(SEEDS)
	PYTHONPATH=tests:src $(BIN)/python -m worlds --planted

$(addprefix bench-,$(BENCHES)): bench-%: $(STAMP)
	$(BIN)/python -m benchmarks.$*

bench: $(addprefix bench-,$(filter-out quality,$(BENCHES)))

figures: $(STAMP)
	$(BIN)/python -m benchmarks.figures

clean:
	rm -rf $(VENV) build bench/*.json runs .pytest_cache .hypothesis .mypy_cache .ruff_cache
