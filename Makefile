# Each target makes the virtual environment it needs by itself: a bare Debian 12 with python3 and python3-venv is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard proto/hanse/v1/*.proto)

.PHONY: demo test lint bench bench-long stubs clean
.DEFAULT_GOAL := demo

demo: $(VENV)/core.stamp  ## a league of three on this machine, from invitation to verified bytes
	@$(BIN)/hanse demo

test: $(VENV)/dev.stamp  ## every test
	$(BIN)/python -m compileall -q hanse node registry tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/dev.stamp  ## style, types, walls, and stubs that match the agreement
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/python tests/docs/regenerate_stubs.py --check

bench: $(VENV)/bench.stamp  ## every figure in a short form, under ten minutes
	$(BIN)/python -m bench --short

bench-long: $(VENV)/bench.stamp  ## the same in the long form
	$(BIN)/python -m bench

stubs: $(VENV)/dev.stamp  ## hanse/v1 from proto/
	$(BIN)/python tests/docs/regenerate_stubs.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Hanse into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Hanse and what its tests need into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@ $(VENV)/core.stamp

$(VENV)/bench.stamp: $(VENV)/dev.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

clean:
	rm -rf $(VENV)
