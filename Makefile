# Every target sets itself up: .venv is made with $(PYTHON), and filled again when pyproject.toml has changed.
PYTHON ?= python3
SHELL := /bin/sh
BIN := .venv/bin
INSTALLED := .venv/.installed
NEWER := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

.PHONY: help demo test lint bench clean

help:
	@echo "make demo    train a few methods, rank them"
	@echo "make test    run the tests"
	@echo "make lint    check format, style and types"
	@echo "make bench   print timings"
	@echo "make clean   remove .venv and caches; results stay"

demo: $(INSTALLED)
	@$(BIN)/dgbench demo

test: $(INSTALLED)
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy .

bench: $(INSTALLED)
	@$(BIN)/pytest -m bench -s tests/benchmarks

$(INSTALLED): pyproject.toml
	@$(BIN)/python $(NEWER) 2>/dev/null || $(PYTHON) $(NEWER) || { \
		echo "dgbench needs Python 3.11 or newer, and '$(PYTHON)' is not one." \
			"Name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing dgbench and what it needs into .venv (the first time: some minutes, about 6 GB)."
	@rm -f $@
	@{ $(BIN)/python $(NEWER) && $(BIN)/python -m pip --version; } >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

clean:
	@rm -rf .venv build dgbench.egg-info .mypy_cache .pytest_cache .ruff_cache
