#!/usr/bin/env bash
# Check and time everything that depends on the device, in at most 8 minutes: tests/gpu/run.sh [DIRECTORY] [--small ...]
# Writes results.json, results.md and log.txt to the directory (default: out/gpu). Needs PyTorch and the packages of
# requirements.txt; on a GPU, nvcc and ninja too. No network. Exit code 1 if a part failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

# Kernels and torch.compile start from nothing, so that what they take to build is measured, and nothing stays behind.
CACHE=$(mktemp -d)
trap 'rm -rf "$CACHE"' EXIT
export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$CACHE/extensions} TORCHINDUCTOR_CACHE_DIR=$CACHE/inductor
export TRITON_CACHE_DIR=$CACHE/triton PIX2PIX3D_CACHE=$CACHE/pix2pix3d PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}
"$PYTHON" tests/gpu/run.py "$@"
