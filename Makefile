# make run    installs what is needed into .venv, starts the three servers, prints the page addresses
# make test   installs what the tests need too, and runs the checks and the whole suite
#             (make test ARGS="tests/relay -x" runs a part of it)
# make results writes the README's table of results again from the reports in the model's folder
# make docs   writes docs/cli.md and the README's settings again, from the program's own help
# make lock   makes requirements.lock again from the versions in requirements*.txt
# make audit  looks up the known vulnerabilities of all that requirements.lock pins, in PyPI's database
#
# A Python other than the first that fits: make run PYTHON=python3.12

VENV ?= .venv
# Processes of the test suite; 0 for all tests in one.
JOBS ?= 2
BIN = $(VENV)/bin
UV = 0.13.9
PIP_AUDIT = 2.10.1
# Of this package the tests use the file of axe-core alone, without Playwright.
AXE = 0.1.8
IN_RANGE = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c '$(IN_RANGE)' 2>/dev/null && echo $$python && break; done),python3)
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help run test results docs lock audit
.NOTPARALLEL:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

run: $(VENV)/run.stamp
	@exec $(BIN)/python -m captioner up

# All checks run, whichever fails first.
test: $(VENV)/test.stamp
	@status=0; \
	$(BIN)/python -m ruff check . || status=1; \
	$(BIN)/python -m ruff format --check . || status=1; \
	$(BIN)/python -m mypy || status=1; \
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS) || status=1; \
	exit $$status

results: $(VENV)/run.stamp
	@$(BIN)/python docs/results.py

docs: $(VENV)/run.stamp
	@$(BIN)/python docs/cli.py

# A stamp is newer than the files that it was made from once their packages are installed.
$(VENV)/run.stamp: requirements.txt requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) install -r requirements.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/test.stamp: Makefile requirements-test.txt requirements-ray.txt $(VENV)/run.stamp
	$(PIP) install -r requirements-test.txt
	$(PIP) install --quiet --no-deps axe-playwright-python==$(AXE)
	@touch $@

$(BIN)/python:
	@'$(PYTHON)' -c '$(IN_RANGE)' 2>/dev/null || { \
		echo "Python 3.10 to 3.13 is needed and '$(PYTHON)' is not that; install one, or name it:" \
			"make run PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "No virtual environment could be made; on Debian and Ubuntu install python3-venv." >&2; \
		exit 1; }

lock:
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(PYTHON) -m venv "$$tools" && "$$tools/bin/pip" install --quiet uv==$(UV) && \
	grep -hv '^-' requirements.txt requirements-ray.txt requirements-test.txt | \
	"$$tools/bin/uv" pip compile --quiet --universal --python-version 3.10 --upgrade --no-annotate \
		--custom-compile-command 'make lock' --output-file requirements.lock -

# The pins for this Python's version. Strict: a package that the database lacks fails, too.
audit:
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(PYTHON) -m venv "$$tools" && "$$tools/bin/pip" install --quiet pip-audit==$(PIP_AUDIT) && \
	"$$tools/bin/pip-audit" --strict --disable-pip --no-deps --progress-spinner off \
		--requirement requirements.lock
