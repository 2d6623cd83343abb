# Each target makes the virtual environment and installs what it needs; no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILER := $(shell command -v cc || command -v gcc || command -v clang)
EXTRAS := $(if $(COMPILER),[test],[test,zig])  # without a C compiler on PATH, the one from PyPI

.PHONY: demo test test-system test-slow lint
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.$(strip $(EXTRAS))'
	touch $(STAMP)

demo: $(STAMP)  ## the chapter's example from recordings to a report
	$(BIN)/flowlab demo

test: $(STAMP)  ## under ten minutes, no root, no data from outside
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --ignore=tests/system

test-system: $(STAMP)  ## real data, servers, browser, compilers, fresh environments
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/system

test-slow: $(STAMP)  ## hours: the accuracy of both examples over three seeds, kill -9 at random times
	FLOWLAB_SLOW=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/system

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
