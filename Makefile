# Two commands for a fresh machine: `make pretrain` and `make test`. Both set up .venv first, through constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup pretrain test lint bench

setup: $(VENV)/.ready

# torch first and alone, from the pinned version, so that no later package pulls another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dali,test,report]"
	touch $@

pretrain: setup
	$(BIN)/python scripts/pretrain.py --amp

# One worker a core, one thread each: busy threads of several processes wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

lint: setup
	$(BIN)/ruff check .

bench: setup
	$(BIN)/python -m pytest bench/ --benchmark-only
