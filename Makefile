# Two commands from an empty machine with Python and make:
#   make demo    set up .venv, install, run the embedded example
#   make test    the same set-up, then the tests, ruff and mypy
# And one that installs four programs that read what icons writes, some gigabytes, in .clients: docs/clients.md
#   make test-clients
SHELL  := /bin/bash
PYTHON ?= python3
STAMP  := .venv/installed

.PHONY: install demo test test-clients
install: $(STAMP)

# torch comes first and pinned: left to the resolver it may bring a build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(STAMP)

demo: $(STAMP)
	.venv/bin/python -m icons demo --out demo

test: $(STAMP)
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-clients: $(STAMP)
	.venv/bin/python -m pytest tests/clients -o timeout=3600 -v
	.venv/bin/python -m tests.clients.table
