# `make demo` and `make test` set everything up in .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# TensorFlow 2.19 has wheels up to Python 3.12; Snakemake 9 needs 3.11.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3; do \
	$$candidate -c '$(SUPPORTED)' 2>/dev/null && { echo $$candidate; break; }; done)
# Without OMP_NUM_THREADS, which nproc would take for the number of cores.
CORES ?= $(shell env -u OMP_NUM_THREADS nproc)
# Activates the environment for one command, as `source .venv/bin/activate` would, with the package of this checkout.
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONPATH="$(CURDIR)/src" PYTHONNOUSERSITE=1
RESULTS ?= results
DEMO := $(RUN) snakemake --profile profiles/demo --cores $(CORES)

.PHONY: help setup demo test tests test-slurm test-environments test-report status lint format schema clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/ready  ## Install everything into .venv (done by the other targets when needed)

.venv/ready: envs/workflow.yaml envs/torch.yaml envs/tensorflow.yaml envs/develop.yaml pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: Python 3.11 or 3.12 with venv is needed (found: $$(python3 --version 2>&1))." >&2; \
		echo "On Debian or Ubuntu: apt-get install python3.11 python3.11-venv; or: make PYTHON=/path/to/python3.11 ..." >&2; \
		exit 1; \
	fi
	@echo "Setting up .venv with $$($(PYTHON) --version) (once; about 10 GB on disk)"
	$(PYTHON) -m venv .venv
	$(PYTHON) envs/pins.py $(filter envs/%,$^) > .venv/requirements.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off --no-compile -r .venv/requirements.txt
	@# With all cores; some packages hold templates that are no Python, and say so.
	@.venv/bin/python -m compileall -q -j 0 .venv/lib > /dev/null 2>&1 || true
	@touch $@

demo: .venv/ready  ## Run the whole workflow at demo scale (handwritten digits, no GPU)
	@$(DEMO)
	@$(DEMO) --report results/demo/report.html
	@echo "Table:  results/demo/table1.md"
	@echo "Report: results/demo/report.html"

test: .venv/ready  ## Lint and run every test, side by side
	@$(MAKE) --no-print-directory --jobs 2 lint tests

tests: .venv/ready
	@$(RUN) python -m pytest

test-slurm: .venv/ready  ## Preempt, kill and time out jobs of a real SLURM set up here (Debian or Ubuntu, root; else skipped)
	@$(RUN) python -m pytest tests/slurm -o python_files='scenario_*.py' -n 12 --dist load -vv -rs --durations 0 --durations-min 1

test-environments: .venv/ready  ## Resolve the pins of envs/ from the package index, installing nothing (no index: skipped)
	@$(RUN) python -m pytest tests/environments -n 0 -vv -rs -o python_files='resolve_*.py'

test-report: demo  ## Open the demo's report in Chromium, look at everything, leave screenshots (installs it if root)
	@if ! { command -v chromium && command -v chromedriver; } > /dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver; \
	fi
	@$(RUN) python -m pytest -rs tests/report

status:  ## Show where every row stands, also while it runs (RESULTS=results/demo for the demo's)
	@$(RUN) python3 -c 'import pydantic, tqdm, tyro' 2> /dev/null || { \
		echo "error: no environment is active: run 'make setup' once, or 'conda activate' that of envs/workflow.yaml" >&2; exit 1; }
	@$(RUN) python3 -m dsr.commands.status $(RESULTS)/status.json

lint: .venv/ready  ## Format, style, types, imports, and the workflow's own lint
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) lint-imports --no-cache
	@$(RUN) snakefmt --check Snakefile rules
	@$(RUN) snakemake --lint

format: .venv/ready  ## Format all code
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .
	@$(RUN) snakefmt Snakefile rules

schema: .venv/ready  ## Write the JSON schema of config.yaml from the typed configuration
	@$(RUN) python -c 'import json; from dsr.config.load import Config; print(json.dumps(Config.model_json_schema(), indent=2))' \
		> rules/config.schema.json

clean:  ## Remove the demo's results
	rm -rf results/demo
