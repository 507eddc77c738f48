"""What the benchmarks conclude: one that cannot fail proves nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.load import Load, wrong

WELL = {"taken_s": {"runs": [0.1, 0.2]}, "half_mb": 300.0}
UNSTABLE, VALID = {"validity": "unstable"}, {"validity": "valid"}


@pytest.mark.parametrize(
    ("saw", "after_mb", "measured", "said"),
    [
        ({}, 310.0, None, []),
        ({}, 310.0, [VALID, UNSTABLE], []),
        ({"failed": ["runs: no end within 120 s"]}, 310.0, None, ["1 of 3 pages failed"]),
        ({"taken_s": {}}, 310.0, None, ["no page was answered"]),
        ({}, 400.0, None, ["the server grew from 300 MB to 400 MB"]),
        ({}, 310.0, [VALID], ["none of its 1 rows is"]),
        ({}, 310.0, [], ["it has no rows"]),
    ],
)
def test_a_load_that_did_harm_is_told(
    saw: dict[str, object], after_mb: float, measured: list[dict[str, str]] | None, said: list[str]
) -> None:
    found = wrong(Load(**WELL | saw), after_mb, measured)  # type: ignore[arg-type]
    assert len(found) == len(said) and all(words in line for words, line in zip(said, found, strict=True))
