# `make` alone lists the goals.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGE ?= rl2ml
UV_VERSION := 0.13.9

SHELL := bash
comma := ,
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Bytecode is left to the first import (and so must be allowed): compiling all of scipy takes longer than installing it.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --no-compile
# $(call stage,NAME,COMMAND) runs COMMAND and prints its seconds.
stage = @printf '\n== %s\n' '$(1)'; TIMEFORMAT='== $(1): %1R s'; time $(2)

# The matrices are small: threads inside BLAS cost more than they bring, and two test workers would fight over the cores.
test benchmarks evidence evidence-quick: export OPENBLAS_NUM_THREADS = 1
test benchmarks evidence evidence-quick: export OMP_NUM_THREADS = 1

.PHONY: help run test lint types format lock image benchmarks evidence evidence-quick audit sbom clean

help: ## list the goals
	@echo 'RL2ML: make run, then open the address it prints. Goals:'
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r goal what; do printf '%-22s%s\n' "$$goal" "$$what"; done
	@echo 'PORT=9000 make run takes another port; make PYTHON=python3.12 another interpreter.'

run: $(VENV)/.runtime ## start the service with the demo pilot on http://127.0.0.1:$PORT (8000)
	@$(BIN)/python -m app --demo examples/addition/pilot.csv

test: lint types $(if $(TRAINING)$(RL2ML_REQUIRE_ALL),$(VENV)/.training) ## everything that must hold before a commit; TRAINING=1 adds torch and the trainers
	$(call stage,pytest,$(BIN)/pytest -n 2 --dist loadgroup)

lint: $(VENV)/.dev ## style, formatting and the direction of imports
	$(call stage,ruff check,$(BIN)/ruff check --quiet)
	$(call stage,ruff format,$(BIN)/ruff format --check --quiet)
	$(call stage,lint-imports,$(BIN)/lint-imports --no-logo)

types: $(VENV)/.dev ## mypy, strict
	$(call stage,mypy,$(BIN)/mypy)

format: $(VENV)/.dev ## apply the style
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

benchmarks: $(VENV)/.training ## seconds, requests per second and shares covered, against the budgets the scripts name
	$(call stage,solver,$(BIN)/python benchmarks/solver.py)
	$(call stage,http,$(BIN)/python benchmarks/http.py)
	$(call stage,coverage,$(BIN)/python benchmarks/coverage.py)
	$(call stage,controller,$(BIN)/python benchmarks/controller.py)
	$(call stage,loss,$(BIN)/python benchmarks/loss.py)
	$(call stage,geometry,$(BIN)/python benchmarks/geometry.py)
	$(call stage,filters,$(BIN)/python benchmarks/filters.py)
	$(call stage,rollouts,$(BIN)/python benchmarks/rollouts.py)
	$(call stage,service,$(BIN)/python benchmarks/service.py)
	$(call stage,page,$(BIN)/python benchmarks/page.py)
	$(call stage,planning,$(BIN)/python benchmarks/planning.py)

evidence: $(VENV)/.training ## train everything behind docs/evidence.md, some 50 minutes, resumable, and fill in its tables
	$(call stage,simulator,$(BIN)/python -m benchmarks.evidence.run --full)
	$(call stage,models,$(BIN)/python benchmarks/evidence/models/run.py)
	$(call stage,planning,$(BIN)/python -m benchmarks.evidence.planning)
	$(call stage,document,$(BIN)/python -m benchmarks.evidence.document)

evidence-quick: $(VENV)/.training ## the same code, small: a check that it runs
	$(call stage,simulator,$(BIN)/python -m benchmarks.evidence.run --quick)
	$(call stage,models,$(BIN)/python benchmarks/evidence/models/run.py --quick)

# B101: asserts are never a check of input. B105: JSON pointers, taken for passwords. B311: the jitter of waits.
# B608: SQL made in rl2ml_core/pilot/rollouts, quoted by sql.py; ruff's S608 looks for it everywhere else.
audit: $(VENV)/.dev ## what bandit finds in the code, and which locked packages have known vulnerabilities
	$(call stage,bandit,$(BIN)/bandit --quiet --recursive --skip B101$(comma)B105$(comma)B311$(comma)B608 app rl2ml_core)
	$(call stage,pip-audit,$(BIN)/pip-audit --progress-spinner off --strict --require-hashes --disable-pip -r requirements/runtime.txt)

sbom: $(VENV)/.dev ## what the image's Python packages are, as CycloneDX: build/sbom.json
	@mkdir -p build
	@$(BIN)/cyclonedx-py requirements requirements/runtime.txt --output-reproducible --output-file build/sbom.json

image: ## build the container image as $IMAGE (rl2ml)
	docker build -t $(IMAGE) .

# One set of pins serves every supported Python: the numbers must not depend on which one runs them.
UV_COMPILE = build/lock/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --fork-strategy fewest \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

lock: build/lock/bin/uv ## resolve requirements/*.in into hashed locks; UPGRADE=1 moves the pins too
	@cd requirements && uv() { ../$(UV_COMPILE) "$$@"; } \
	&& uv runtime.in -o runtime.txt \
	&& uv build.in -c runtime.txt -o build.txt \
	&& uv dev.in -c runtime.txt -c build.txt -o dev.txt \
	&& uv --config-file trainers.toml --no-emit-package torch trainers.in -c dev.txt -o trainers.txt

build/lock/bin/uv: Makefile
	@$(PYTHON) -m venv --clear build/lock && build/lock/bin/python -m pip --disable-pip-version-check install --quiet uv==$(UV_VERSION)
	@touch $@

clean: ## remove .venv, builds and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is touched only after its step succeeded, so an interrupted set-up starts again.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null \
	|| { echo 'RL2ML needs Python 3.11 or newer; found no $(PYTHON). Name one with make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("RL2ML needs Python 3.11 or newer; got %d.%d.%d. Name one with make PYTHON=python3.12" % v[:3])'
	@echo 'Setting up $(VENV) (once, about a minute) …'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Reinstalled when the version changes: the installed metadata carries it.
$(VENV)/.runtime: $(VENV)/.created requirements/runtime.txt requirements/build.txt pyproject.toml rl2ml_core/version.py
	@$(PIP) --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@echo 'Adding the development tools to $(VENV) …'
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# By pip and without hashes: an index may serve torch's CPU build for this platform under the same version.
# The trainers are a complete lock, so nothing asks for another torch.
$(VENV)/.training: $(VENV)/.dev requirements/training.txt requirements/trainers.txt
	@echo 'Adding torch, TRL and verl to $(VENV) (some minutes, 2 GB) …'
	@$(PIP) -r requirements/training.txt
	@$(PIP) --no-deps --require-hashes -r requirements/trainers.txt
	@touch $@
