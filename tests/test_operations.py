"""The polynomials that a model's operations are kept as."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.operations import CountError, evaluate, fit

quick = settings(deadline=None)
coefficients = st.lists(st.integers(0, 10**9), min_size=3, max_size=3)
SHAPES = [(rows, length) for rows in (2, 3) for length in (8, 16, 24)]


@quick
@given(coefficients, coefficients, st.integers(1, 512), st.integers(1, 512), st.sampled_from([1, 5, 8]))
def test_a_polynomial_is_found_again_exactly(shared, each, rows, length, step):
    polynomial = {"per_call": shared, "per_sequence": each}
    counts = {(b, n * step // 8): int(evaluate(polynomial, b, n * step // 8)) for b, n in SHAPES}
    assert fit(counts) == polynomial
    assert evaluate(fit(counts), rows, length) == sum(
        (shared[power] + rows * each[power]) * length**power for power in range(3)
    )


def test_what_is_no_polynomial_is_refused():
    # Padded to blocks of 20, as some attention works.
    counts = {(rows, length): rows * -(-length // 20) * 20 for rows, length in SHAPES}
    with pytest.raises(CountError, match="fit no quadratic"):
        fit(counts)
