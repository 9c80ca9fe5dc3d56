PYTHON ?= python3
PORT ?= 3000
ROUNDS ?= 4
LANCE_HOME ?= $(CURDIR)/.lance

override LANCE_HOME := $(abspath $(LANCE_HOME))
export LANCE_HOME
export DAGSTER_HOME := $(LANCE_HOME)/dagster

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo ui test lint bench

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) LANCE_HOME=$(LANCE_HOME) PORT=$(PORT) ROUNDS=$(ROUNDS)"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make setup PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)

# A newer dagster.yaml replaces the instance's; changes made to the instance's own stay until then.
setup: $(INSTALLED) ## Install into .venv, and create LANCE_HOME with the Dagster instance
	@mkdir -p "$(DAGSTER_HOME)"
	@if [ ! -e "$(DAGSTER_HOME)/dagster.yaml" ] || [ dagster.yaml -nt "$(DAGSTER_HOME)/dagster.yaml" ]; then \
		cp dagster.yaml "$(DAGSTER_HOME)/dagster.yaml"; fi

demo: setup ## Run mini_lance for ROUNDS rounds after r0000 and print their table
	$(BIN)/python -m lance_assets.assets.run mini_lance --rounds $(ROUNDS)

ui: setup ## Serve the Dagster UI
	@echo "Dagster UI: http://localhost:$(PORT)"
	@exec $(BIN)/dagster dev -w workspace.yaml -p $(PORT)

test: setup ## Run the tests
	$(BIN)/python -m pytest

lint: setup ## Check style, formatting, the direction of imports, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## Run every benchmark and print one table; DATA names a folder of real data
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks $(if $(DATA),--data "$(DATA)")
