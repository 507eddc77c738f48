"""What the benchmarks conclude: one that cannot fail proves nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.load import Load, wrong
from benchmarks.repeatability import Noise, covered, moved, noise_of, simulated_coverage, slowdowns

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


def test_what_runs_moved_by_and_what_their_intervals_held():
    assert moved([2.0, 2.2, 1.9]) == pytest.approx([0.0, 0.1, 0.05])
    estimates = np.array([2.0, 2.0, 8.0])
    # Of the others: 4, 4 and 2.
    assert covered(estimates, estimates / 2.5, estimates * 2.5) == 2
    assert covered(estimates, estimates / 5, estimates * 5) == 3
    runs = [{"a": {"latency_p50_s": a}, "b": {"latency_p50_s": b}} for a, b in ((1.0, 4.0), (1.5, 4.4), (2.0, 8.0))]
    assert slowdowns(runs) == pytest.approx([1.0, 1.3, 2.0])


def test_the_noise_of_known_runs_is_found_again():
    random = np.random.default_rng(2)
    within, between = 0.05, 0.03
    runs = [[np.exp(random.normal(0, between) + random.normal(0, within, 200)) for _ in range(2)] for _ in range(60)]
    found = noise_of(runs)
    assert found.within == pytest.approx(within, rel=0.1) and found.resemblance < 0.1
    assert found.between == pytest.approx(between, rel=0.35)
    assert (found.rounds, found.processes) == (200, 2)


def test_coverage_falls_with_noise_that_no_interval_knows_of():
    assert simulated_coverage(Noise(0.05, 0.0, 0.02, 30, 1)) > 0.93
    assert simulated_coverage(Noise(0.05, 0.0, 0.2, 30, 1)) < 0.5
