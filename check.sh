#!/usr/bin/env bash
# Everything that a change must pass, in a virtual environment of its own: formatting, lint, types,
# documentation, tests.
set -euo pipefail
cd "$(dirname "$0")"
environment=.venv-check
# Without a GPU the CUDA kernels are compiled to see that they can be: for one architecture.
command -v nvidia-smi > /dev/null || export MOCE_CUDA_ARCHS="${MOCE_CUDA_ARCHS:-9.0}"
python3 -m venv --clear "$environment"
source "$environment/bin/activate"
# The tests also run the kernels for older processors.
export MOCE_CPU_ISA="${MOCE_CPU_ISA:-all}"
pip install --quiet torch==2.13.0 ninja
pip install --quiet --no-build-isolation --editable '.[test]'
# Without its requirements: of these only torchvision is not here, and it has no build for this torch.
pip install --quiet --no-deps spandrel==0.4.2 einops
# Beside these, tests see the oldest versions that pyproject.toml admits: of torch the headers, from
# the smallest wheel that has them (80 MB).
export MOCE_OLDEST="$PWD/$environment/oldest"
pip install --quiet --no-deps --target "$MOCE_OLDEST/triton" triton==3.6.0
pip download --quiet --no-deps --dest "$MOCE_OLDEST" --only-binary :all: \
  --platform macosx_11_0_arm64 --python-version 3.12 torch==2.11.0
python -m moce_kernels.info
# Without its library the tests of the CUDA C++ kernels would be skipped, and nobody would see.
if command -v nvcc > /dev/null; then test -e moce_kernels/_moce_cuda.so; fi
ruff format --check .
ruff check .
NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --site-dir "$environment/site" &
mypy
wait $!
# Files of tests run side by side: one for each core that has 4 GB of memory. The cores are divided
# among them: more threads than cores wait for each other, and tests of networks take three times as
# long.
workers=$(python -c "import os
from moceir.machine import host_bytes
print(max(1, min(os.cpu_count() or 1, (host_bytes() or 0) // 2**32)))")
cores=$(python -c "import os; print(os.cpu_count() or 1)")
# In their own order: xdist would begin with the files of the most tests, and end with a long one.
OMP_NUM_THREADS=$((cores / workers)) python -m pytest -n "$workers" --dist loadfile \
  --no-loadscope-reorder "$@"
