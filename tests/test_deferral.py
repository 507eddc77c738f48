"""What a quantised model defers, and that no answer is changed where nothing moved further than was observed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.backends import deferral

LOGITS = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(2, 5)), elements=st.floats(-8, 8))


@given(LOGITS, st.integers(0, 2**32 - 1), st.floats(0, 4))
def test_deferred_or_unchanged(exact, seed, noise):
    quantized = exact + noise * np.random.default_rng(seed).uniform(-1, 1, exact.shape)
    margin = deferral.margin(quantized, exact) + 1e-9
    kept = np.setdiff1d(np.arange(len(exact)), deferral.unsure(quantized, margin))
    best = exact[kept, quantized[kept].argmax(axis=1)]
    assert (best == exact[kept].max(axis=1)).all()


def test_the_margin_is_the_furthest_move_towards_a_changed_answer():
    exact = np.array([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0]])
    # The first answer gains 0.25 on its runner-up; the second loses, by which it hides no other answer.
    quantized = exact + np.array([[0.25, 0.0, 0.25], [0.0, -0.5, 0.5]])
    assert deferral.margin(quantized, exact) == 0.25
    assert deferral.margin(exact, exact) == 0.0


def test_what_is_nearer_than_the_margin_is_unsure():
    logits = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.75], [4.0, 0.0, 0.0]])
    assert deferral.unsure(logits, 0.5).tolist() == [1]
    assert deferral.unsure(logits, 0.51).tolist() == [0, 1]
    assert deferral.unsure(logits, 0.0).tolist() == []
    assert deferral.unsure(logits[:, :1], 9.0).tolist() == [], "one label is always the answer"


def test_moves_further_than_any_observed_one_are_as_rare_as_said():
    chance = np.random.default_rng(5)
    exceeded = []
    for _ in range(2000):
        exact = chance.normal(0, 3, (40, 4))
        moved = exact + chance.standard_t(3, (40, 4)) / 5
        exceeded.append(deferral.margin(moved[39:], exact[39:]) > deferral.margin(moved[:39], exact[:39]))
    assert np.mean(exceeded) <= 1 / 40 + 3 * np.sqrt(1 / 40 / 2000)
