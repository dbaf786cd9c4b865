# make demo [DATA=/path/to/HAM10000]   the main job; on drawn lesions when no data is named
# make demo KIND=fundus [DATA=...]     the same on drawn eyes, or on ODIR-5K
# make test                            the whole test suite (ARGS="tests/losses -q" for a part)
# make lint                            ruff and mypy
# Each sets up .venv first, once.

PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready

.PHONY: setup demo test lint

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(VENV)/bin/medshadow demo $(if $(KIND),--kind "$(KIND)") $(if $(DATA),--data "$(DATA)")

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
