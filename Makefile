# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.PHONY: help install train compare test lint type
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

test: $(INSTALLED) ## lint, type check and run all tests
	$(MAKE) --no-print-directory lint type
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED) ## pyright
	$(BIN)/pyright

wandb-sync: $(INSTALLED) ## send a run that was logged offline to W&B; RUN=runs/NAME/RUN_ID
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m mvit_train.wandb_sync $(RUN)
