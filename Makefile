# Everything runs in .venv, which each target makes if it is missing or older than pyproject.toml and constraints.txt.
# A fresh clone needs nothing but make and Python >= 3.11 (another interpreter: make test PYTHON=python3.12).

PYTHON ?= python3
# A third of their time tests wait (for a ttl, a disk, a process): one process more than there are cores. Each starts with
# its share of them in their order; whoever is done takes over some of another's.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PYTEST = $(BIN)/pytest -n $(JOBS) --dist worksteal
VENV := .venv
BIN := $(VENV)/bin

LOOPLESS := core protocol storage

# Where it is set, each of the many processes that tests start would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
# Two fills of one .venv must not run at once.
.NOTPARALLEL:
.PHONY: help demo test check simulate torture bench bench-quick clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.dev ## an index, three peers and two subscribers on live readings of this machine, and a failover; about 12 s
	@$(BIN)/pubsub demo

test: $(VENV)/.dev ## every test
	$(PYTEST) tests

# The checks that need no server come first: they fail fastest. The tests then run once more with asyncio's debug mode on,
# but for those of what has no event loop.
check: $(VENV)/.dev ## format, lint, types, import rules; tests under asyncio debug with warnings as errors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict pubsub
	$(BIN)/lint-imports
	PYTHONASYNCIODEBUG=1 $(PYTEST) -W error $(addprefix --ignore=tests/unit/,$(LOOPLESS)) $(wildcard $(addprefix tests/,unit integration conformance scenarios))

SEEDS ?= 1000
FIRST ?= 0
SEED ?=

simulate: $(VENV)/.dev ## the rules of replication under faults, SEEDS=n of them from FIRST=n on; SEED=n tells one run's story
	@$(BIN)/python -m tests.simulation $(SEEDS) --first $(FIRST) $(if $(SEED),--seed $(SEED))

MINUTES ?= 10

torture: $(VENV)/.dev ## real processes under kills, pauses, partitions, full disks and lost registries for MINUTES=n; SEED=n for one plan
	@$(BIN)/python -m tests.torture $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.bench ## ours and the others in turn, three times (some minutes)
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.bench ## the same benchmarks on small inputs
	$(BIN)/python -m benchmarks --quick

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say with which extras .venv was filled; each is remade when what it was filled from changes.
$(VENV)/.dev: pyproject.toml constraints.txt
	$(call fill,dev)

$(VENV)/.bench: pyproject.toml constraints.txt
	$(call fill,dev$(comma)bench)
	@touch $(VENV)/.dev

comma := ,

define fill
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "peer-pubsub needs Python >= 3.11, and '$(PYTHON)' is `$(PYTHON) --version 2>/dev/null || echo missing`: try make PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	{ echo "'$(PYTHON)' cannot make virtual environments: install its venv package (Debian: apt-get install python3-venv)" >&2; exit 1; }
@echo "Filling $(VENV) with extras $(1); once, about a minute"
@$(PYTHON) -m venv $(VENV)
@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
@touch $@
endef
