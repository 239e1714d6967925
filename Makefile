# From an empty machine with Python and make:
#   make demo    set up .venv, install, run the embedded example
#   make test    the same, install what the tests need, then the tests, ruff and mypy
#   make docs    the documentation as a site, in site/, made in an environment of its own, .docs
# And one that installs four programs that read what icons writes, some gigabytes, in .clients: docs/clients.md
#   make test-clients
SHELL   := /bin/bash
PYTHON  ?= python3
PIP     := -m pip install --quiet --disable-pip-version-check
STAMP   := .venv/installed
TESTING := .venv/installed-for-tests
SITE    := .docs/installed

.PHONY: install demo test test-clients docs
install: $(STAMP)

# torch comes first and pinned: left to the resolver it may bring a build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) "$$(grep '^torch==' constraints.txt)"
	.venv/bin/python $(PIP) -c constraints.txt -e .
	touch $(STAMP)

$(TESTING): $(STAMP)
	.venv/bin/python $(PIP) -c constraints.txt -e '.[test]'
	touch $(TESTING)

demo: $(STAMP)
	.venv/bin/python -m icons demo --out demo

test: $(TESTING)
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-clients: $(TESTING)
	.venv/bin/python -m pytest tests/clients -o timeout=3600 -v
	.venv/bin/python -m tests.clients.table

$(SITE): docs/site/requirements.txt
	$(PYTHON) -m venv .docs
	.docs/bin/python $(PIP) -r docs/site/requirements.txt
	touch $(SITE)

docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 .docs/bin/python -m mkdocs build --strict
