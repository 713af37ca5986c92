# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.PHONY: help install train compare benchmarks test test-slurm faults fuzz lint type
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(INSTALLED) ## create .venv with this package in it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	@touch $@

train: $(INSTALLED) ## train and evaluate a small MViT on the built-in videos; ARGS="overrides" go on
	$(BIN)/python -m mvit_train $(ARGS)

COMPARED = augment=motion_k400 run_id=compared
compare: $(INSTALLED) ## train MViT and a ViT of equal cost on the built-in videos, and print how they use time
	$(BIN)/python -m mvit_train name=motion_mvit $(COMPARED) $(ARGS)
	$(BIN)/python -m mvit_train name=motion_vit model=vit_small $(COMPARED) $(ARGS)
	$(BIN)/python -m mvit_train task=report 'input=[runs/motion_mvit/compared,runs/motion_vit/compared]'

benchmarks: $(INSTALLED) ## write BENCHMARKS.md from docs/benchmarks/*.json
	$(BIN)/python -m mvit_train.benchmarks.page docs/benchmarks/*.json > BENCHMARKS.md

test: $(INSTALLED) ## lint, type check and run all tests
	$(MAKE) --no-print-directory lint type
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope $(ARGS)

test-slurm: $(INSTALLED) ## conf/slurm under a real Slurm on this machine, installed if root; ARGS="--requeues 50"
	tests/slurm/install.sh
	$(BIN)/python -m pytest tests/slurm/scenarios.py tests/slurm/sweeps.py $(ARGS)

faults: $(INSTALLED) ## kill, signal, fill and break runs, and compare them with undisturbed ones; ARGS="--seed 3 --faults 400"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/faults/faults_*.py $(ARGS)

fuzz: $(INSTALLED) ## read mutated videos, manifests, configs and checkpoints; ARGS="--videos 20000 --texts 5000 --seed 1"
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz $(ARGS)

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED) ## pyright
	$(BIN)/pyright

wandb-sync: $(INSTALLED) ## send a run that was logged offline to W&B; RUN=runs/NAME/RUN_ID
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m mvit_train.wandb_sync $(RUN)
