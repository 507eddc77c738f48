# make run: set up, measure the demo once, serve the dashboard.
# make test: set up, run the first tier of tests.   make test-all: every test, with servers of its own.
# PORT=8501 and PYTHON=python3.11 may be given.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8501
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: run test test-all lint docs install install-dev browser servers clean

run: install
	@$(PY) -m engine run demo --once
	@$(PY) -m dashboard --port $(PORT)

test: install-dev browser
	@$(PY) -m pytest -n 2 --dist worksteal -m "not second_tier" --durations=20

test-all: install-dev browser servers
	@$(PY) -m pytest -n 2 --dist worksteal --durations=20

lint: install-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

# The command reference, from the commands.
docs: install
	@$(PY) -m engine.cli.reference > docs/commands.md.new && mv docs/commands.md.new docs/commands.md

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; give another: make PYTHON=python3.11"; exit 2; }
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the pinned packages into $(VENV): some minutes the first time."
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing what the tests need."
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

# The browser tests drive a Chromium. Where there is none, root on a Debian machine can install one; anybody
# else's tests of the browser are skipped, with that reason.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		  echo "Installing Chromium for the browser tests." && \
		  apt-get update -qq >/dev/null && apt-get install -y -qq chromium >/dev/null; } || \
		echo "No Chromium here: the browser tests will be skipped."

# Tests of the second tier start a Slurm cluster, a PostgreSQL server and a network file system of their own, on this machine, and
# end them; another mounts a folder by FUSE.
servers:
	@PATH="$$PATH:/usr/sbin"; { command -v slurmctld && command -v glusterfsd && command -v bindfs && \
		ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1 || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		  echo "Installing Slurm, PostgreSQL, GlusterFS and bindfs for their tests." && apt-get update -qq >/dev/null && \
		  apt-get install -y -qq --no-install-recommends \
		    slurm-wlm munge postgresql glusterfs-server glusterfs-client bindfs >/dev/null; } || \
		echo "No Slurm, PostgreSQL, GlusterFS or bindfs here: their tests will be skipped."

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
