#!/usr/bin/env bash
# One wheel for every Python and torch: builds it once, and runs the operators' tests with what is in it,
# nothing of this folder's, under each Python that is named. They need torch, numpy, pytest, hypothesis.
#   bash tests/wheel.sh PYTHON...
set -euo pipefail
cd "$(dirname "$0")/.."
# A wheel has all that can be built, wherever it is made.
command -v nvcc > /dev/null && export MOCE_CUDA="${MOCE_CUDA:-1}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" -m pip wheel --quiet --no-deps ${WHEEL_OPTIONS:-} --wheel-dir "$work" .
cp -r tests pyproject.toml "$work"
for python in "$@"; do
  python=$(realpath -s "$(command -v "$python")")  # its links are a virtual environment
  site="$work/site-$("$python" -c 'import sys; print(sys.version_info[1])')"
  "$python" -m pip install --quiet --no-deps --target "$site" "$work"/*.whl
  (
    cd "$work"
    export PYTHONPATH="$site"
    "$python" --version
    "$python" -m moce_kernels.info | sed -n 1,3p  # all of it is read: head would close the pipe
    "$python" -c "import moce_kernels; assert moce_kernels.__file__.startswith('$site')"
    "$python" -m pytest -q tests/ops/test_all_ops.py -k "${TESTS:-not inductor}"
  )
done
