"""A pytest plugin: the compiled libraries of another folder in place of the package's own.

MOCE_TEST_LIBRARIES=<folder> python -m pytest -p tests.other_libraries tests/ops
"""

from __future__ import annotations

import os
from pathlib import Path

from moce_kernels import native

native.FOLDER = Path(os.environ["MOCE_TEST_LIBRARIES"])
