# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.PHONY: help install train test lint type
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

install: $(INSTALLED) ## create .venv with this package in it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	@touch $@

train: $(INSTALLED) ## train and evaluate a small MViT on the built-in videos; ARGS="overrides" go on
	$(BIN)/python -m mvit_train $(ARGS)

test: $(INSTALLED) ## lint, type check and run all tests
	$(MAKE) --no-print-directory lint type
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED) ## pyright
	$(BIN)/pyright
