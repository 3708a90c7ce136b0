# Everything lives in this folder: the environment in .venv, downloads and built kernels in .cache, pictures in out.
PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/ready
DEMO   := out/demo

export XDG_CACHE_HOME  := $(CURDIR)/.cache
export PIP_CACHE_DIR   ?= $(CURDIR)/.cache/pip
export PIX2PIX3D_CACHE := $(CURDIR)/.cache/pix2pix3d
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.cache/torch_extensions
PYTEST := mkdir -p .cache && $(VENV)/bin/pytest --basetemp=.cache/pytest

.PHONY: demo test test-all lint format
.DELETE_ON_ERROR:

demo: $(READY)  ## a label map in, pictures out; the network is made here and untrained
	@mkdir -p $(DEMO)
	$(VENV)/bin/python legacy.py init $(DEMO)/untrained.pt --cfg seg2cat
	$(VENV)/bin/python applications/generate_samples.py --network $(DEMO)/untrained.pt --outdir $(DEMO) \
	    --cfg seg2cat --random_seed 0 1 --input applications/assets/cat.png

test: $(READY)  ## the quick tests
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## every test
	$(PYTEST)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.txt --editable .
	@touch $@
