# Everything works on a fresh machine: the first target that needs .venv creates it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK := "not (processes or postgres or browser or slow or gpu or engines)"
.DEFAULT_GOAL := help
.PHONY: help install demo quick test test-all test-lowest coverage test-engines tools check docs screenshots format soak bench bench-load bench-search bench-search-peers clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

install: $(VENV)/installed  ## create .venv with everything in it

demo: install  ## search on real images, on the CPU, in under four minutes
	$(BIN)/hpo run quickstart

quick: install  ## run the tests that start no process, server or browser (four minutes on two cores)
	$(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal -m $(QUICK)

test: install check tools  ## check, then run every test that is not slow
	$(BIN)/pytest -n 3 --dist worksteal -m "not slow and not engines"

test-all: install check tools  ## check, then run every test, also large models and long runs
	$(BIN)/pytest -n 3 --dist worksteal -m "not engines"

coverage: install tools  ## run every test that is not slow, and show which lines they miss
	$(BIN)/pytest -n 3 --dist worksteal -m "not slow and not engines" --cov --cov-report=term --cov-report=html

# The lowest declared versions come from uv; PyTorch, whose builds differ by machine, comes from pip.
LOWEST := .venv-lowest

test-lowest:  ## run the quick tests with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet uv
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml | \
	  grep -vE "^(torch|triton|nvidia-.*-cu|cuda-|hpo-vision)" > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/pip install --quiet torch torchvision --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/bin/pip install --quiet --no-deps --editable .
	$(LOWEST)/bin/pytest -n 3 --dist worksteal -m $(QUICK)

test-engines: install  ## let a real Slurm and a real Ray run workers; installs both
	@wanted="$$(command -v slurmctld >/dev/null && command -v munged >/dev/null || echo slurm-wlm munge)"; \
	  $(call apt,the tests start a Slurm of their own)
	$(BIN)/pip install --quiet --editable '.[dev,ray]'
	$(BIN)/pytest -m engines tests/engines

# Install the missing Debian packages as root, or say which are missing and what needs them.
apt = [ -z "$$(echo $$wanted)" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { apt-get update -qq; apt-get install -y -qq --no-install-recommends $$wanted; } >/dev/null; } || \
	  echo "not installed:" $$wanted "(Debian packages): $(1); run this as root to install them"

tools:
	@wanted="$$(command -v ip >/dev/null || echo iproute2) \
	  $$(command -v chromium >/dev/null || echo chromium fonts-liberation) \
	  $$(command -v pgbouncer >/dev/null || echo pgbouncer)"; \
	  $(call apt,the tests cut a network and use a browser and a pooler)

check: install  ## check style, format, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: install  ## build the documentation site into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

screenshots: install tools  ## search on digits and take the documentation's pictures of it, some minutes
	$(BIN)/python -m docs.screenshots

soak: install  ## mutate 20,000 inputs and 5,000 stores, inject faults for ten minutes, run 64 workers for ten
	$(BIN)/python -m tests.mutated_input --cases 20000
	$(BIN)/python -m tests.mutated_attributes --cases 5000
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600)
	$(BIN)/python -m benchmarks.store_load --case paced --seconds $(or $(SECONDS),600)

bench: install  ## compare hpo with named peers in the same run
	@begun=$$(date +%s); for each in epoch pictures packing head augmentation controls store live_view turnaround plan; do start=$$(date +%s); \
	  $(BIN)/python -m benchmarks.$$each || exit 1; now=$$(date +%s); \
	  echo "$$each took $$((now - start)) s, $$((now - begun)) s in all"; done

bench-load: install  ## measure what 1 to 512 workers cost a Postgres, a quarter of an hour
	$(BIN)/python -m benchmarks.store_turns
	$(BIN)/python -m benchmarks.store_load $$(command -v pgbouncer >/dev/null && echo --pgbouncer)

bench-search: install  ## compare search strategies on recorded curves and synthetic studies
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.many_studies --seeds 3 --trainings 20 --warm
	$(BIN)/python -m benchmarks.fronts

PEERS := .venv-peers

bench-search-peers:  ## compare search with SMAC3 and Syne Tune in an environment of their own
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --editable . "smac>=2.4,<2.5" "syne-tune>=0.16,<0.17"
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m benchmarks.peers

format: install  ## fix style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## delete .venv and caches, but not the studies in storage/
	rm -rf $(VENV) $(LOWEST) $(PEERS) .coverage* htmlcov .mypy_cache .ruff_cache .pytest_cache dist site
