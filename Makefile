# All files stay in this directory: the environment in .venv, downloads and compiled kernels in .cache, images in out.
PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/ready
DEMO   := out/demo

export XDG_CACHE_HOME  := $(CURDIR)/.cache
export PIP_CACHE_DIR   ?= $(CURDIR)/.cache/pip
export PIX2PIX3D_CACHE := $(CURDIR)/.cache/pix2pix3d
export OMP_WAIT_POLICY ?= passive# waiting threads leave the cores to other programs
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.cache/torch_extensions
# One process with one thread per core: on small tensors, two threads are hardly faster than one.
PYTEST := mkdir -p .cache && OMP_NUM_THREADS=1 $(VENV)/bin/pytest --basetemp=.cache/pytest \
    --numprocesses=auto --maxprocesses=4 --dist=loadfile

.PHONY: demo images test test-all lint format
.DELETE_ON_ERROR:

demo: $(READY)  ## images, videos and meshes from label maps, by the models in checkpoints/
	$(VENV)/bin/python applications/demo.py --outdir $(DEMO) --overwrite

images: demo  ## images for the README and docs/photo.md
	cp $(DEMO)/demo.png docs/images/
	$(VENV)/bin/python applications/showcase.py --outdir docs/images --overwrite
	$(VENV)/bin/python applications/style_matrix.py --outdir docs/images --overwrite

test: $(READY)  ## fast tests
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## all tests
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
