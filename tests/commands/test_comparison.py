"""The tests that the table in docs/comparison.md names are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "comparison.md"


def test_every_row_names_a_test_that_is_there() -> None:
    for row in TABLE.read_text().partition("| --- |")[2].splitlines()[1:]:
        evidence = row.strip("| ").rpartition(" | ")[2]
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", evidence)
        assert named or evidence.startswith("`check.sh`"), row
        for file, test in named:
            source = (TESTS / file).read_text()
            assert not test or f"\ndef {test}(" in source, f"{file}::{test}"
