# make demo    the embedded study, from simulated raw scans to table, figures and report
# make test    all tests but those on Slurm; those in a browser are skipped without Chromium and its driver
# make test-slurm    those on Slurm: starts a real one for the time of the tests; needs root and, once, Debian's apt-get
# make test-slow    whether 95 % intervals cover the truth in 95 of 100 cases: minutes of simulation
# make bench   ours beside its peers, in one run; writes docs/benchmarks.md, which says how long it took
# make validator    once, for a test of maps that is skipped without it: the BIDS validator of npm (needs Node and npm)
# make lint    layout and lint of Python and Snakemake files
# make lock    write requirements.lock anew from pyproject.toml

PYTHON ?= python3
CORES ?= all
ENVIRONMENT := .venv/installed
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# Byte code is written once, at the install: without it each job would compile its imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
# The recipe of `demo`, under its lock.
.PHONY: demo-run
.PHONY: help install demo test test-slurm test-slow bench validator lint format lock clean

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(ENVIRONMENT)

$(ENVIRONMENT): requirements.lock
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'brainuad needs Python 3.11 or later; name one by: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "uv>=0.5"
	$(BIN)/uv pip install --quiet --python .venv --require-hashes --compile-bytecode -r requirements.lock
	touch $@

# One run at a time: a second waits. A killed run leaves Snakemake's own lock behind, which the next one lifts.
FLOCK := $(if $(shell command -v flock),flock demo/results/.running)

demo: $(ENVIRONMENT)
	@mkdir -p demo/results
	@$(FLOCK) $(MAKE) --no-print-directory demo-run

# One thread a training: they then run side by side, and the table does not depend on the number of cores.
demo-run:
	@snakemake --directory demo --unlock --quiet all
	snakemake --directory demo --cores $(CORES) --set-threads train=1 --rerun-incomplete --show-failed-logs --quiet host rules reason
	@echo; cat demo/results/table2.md; echo
	@echo "All scans of this study are simulated. The table above: demo/results/table2.md"
	@echo "Figure: demo/results/figures/qualitative.png"
	@echo "Report, everything on one page: demo/results/report.html"

test: $(ENVIRONMENT)
	$(BIN)/python -m pytest

# All at once: they mostly wait.
test-slurm: $(ENVIRONMENT)
	$(BIN)/python tests/slurm/cluster.py $(BIN)/python -m pytest --numprocesses 10 --dist worksteal --verbose --verbose tests/slurm

test-slow: $(ENVIRONMENT)
	$(BIN)/python -m pytest -m slow --capture no

bench: $(ENVIRONMENT)
	$(BIN)/python benchmarks/all.py

# Its package is whole: what it lists as dependencies is for its developers, 700 MB of it.
VALIDATOR := .venv/bids-validator
validator: $(VALIDATOR)/package/bin/bids-validator

$(VALIDATOR)/package/bin/bids-validator: $(ENVIRONMENT)
	mkdir -p $(VALIDATOR)
	cd $(VALIDATOR) && npm pack --silent bids-validator@1.15.0 && tar -xzf bids-validator-1.15.0.tgz
	touch $@

lint: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules

format: $(ENVIRONMENT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

lock: $(ENVIRONMENT)
	$(BIN)/uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --generate-hashes --quiet --custom-compile-command "make lock" -o requirements.lock

clean:
	rm -rf demo/results demo/.snakemake
