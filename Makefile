# The four things that one does with a checkout. Each makes .venv and installs what it needs first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
DATA ?= digits
# Small tensors, many tests: one thread each is faster on a shared machine.
THREADS := OMP_NUM_THREADS=1

.PHONY: demo test unit check docs format bench paper clean

demo: $(VENV)/.demo ## the main job on a real backbone and real images; DATA=folder takes your own
	$(RUN)/selfmask demo --data "$(DATA)"

test: $(VENV)/.dev ## all tests
	$(THREADS) $(RUN)/python -m pytest -n 2 --dist worksteal

unit: $(VENV)/.dev ## the quick part of the tests
	$(THREADS) $(RUN)/python -m pytest -n 2 -m "not slow"

check: $(VENV)/.dev ## style, types, the order of the rooms, nothing unused
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright
	$(RUN)/lint-imports
	$(RUN)/vulture

docs: $(VENV)/.dev ## the site, in build/site: open index.html there; no server is needed
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict

format: $(VENV)/.dev
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

bench: $(VENV)/.dev ## side-by-side measurements; takes a while, and wants the machine to itself
	for file in benchmarks/bench_*.py; do echo "== $$file"; $(RUN)/python "$$file" || exit 1; done

# The + has `make paper --dry-run` ask the program, which lists the commands and their time.
paper: $(VENV)/.dev ## the paper's tables and figures on two cores; FULL=1 at its own scale; goes on where it was stopped
	+$(RUN)/python paper/make.py $(if $(FULL),--full) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),--dry-run)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# constraints.txt names torch and torchvision as a pair that belongs together.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
