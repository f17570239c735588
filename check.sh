#!/usr/bin/env bash
# Everything that a change must pass, in a virtual environment of its own: formatting, lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")"
environment=.venv-check
# Without a GPU the CUDA kernels are compiled to see that they can be: for one architecture.
command -v nvidia-smi > /dev/null || export MOCE_CUDA_ARCHS="${MOCE_CUDA_ARCHS:-9.0}"
python3 -m venv --clear "$environment"
source "$environment/bin/activate"
# The tests also run the kernels for older processors.
export MOCE_CPU_ISA="${MOCE_CPU_ISA:-all}"
pip install --quiet --editable '.[test]' torch==2.13.0
python -m moce_kernels.info
ruff format --check .
ruff check .
mypy
python -m pytest "$@"
