# Everything runs in a virtual environment of its own; nothing is installed elsewhere.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint golden bench clean

help:            ## what there is
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

demo: $(READY)   ## compile an example for two environments, explain a value, make a mistake
	@PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh

test: $(READY)   ## all tests
	$(BIN)/python -m pytest

lint: $(READY)   ## ruff, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: $(READY) ## write specs/ and the expected trees of the examples anew
	$(BIN)/aibrix-compile schema -o specs
	$(BIN)/python -m tests.golden.trees

bench: $(READY)  ## compile times beside Helm and cdk8s, in one run
	$(BIN)/python -m tests.bench.run

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
