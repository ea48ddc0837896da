# Each target makes its own virtual environment if there is none; nothing else has to be done first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: help demo test lint slow bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

$(READY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmrec needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## make a toy shop, train three models, write runs/demo/report.html
	$(BIN)/mmrec demo

test: lint  ## lint, types, spelling and the default tests, in two processes
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

lint: $(READY)  ## ruff, mypy and typos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/typos

slow: $(READY)  ## long tests on real data and real pretrained models, skipped where those are absent
	$(BIN)/python -m pytest -m slow

bench: $(READY)  ## measured comparisons, as ratios; run it on a quiet machine
	$(BIN)/python -m pytest -m bench -s

clean:  ## remove the environment and the demo
	rm -rf $(VENV) runs/demo
