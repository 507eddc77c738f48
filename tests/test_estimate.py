"""How long a run takes, said before it starts."""

from __future__ import annotations

import pytest

from engine.run import estimate
from engine.suite.reading import load_suite

KNOWN = {(v.name, 8): 0.01 for v in load_suite("demo").variant}


def before(preparing_s: float = 0.0, known: dict[tuple[str, int], float] = KNOWN) -> estimate.Earlier:
    return estimate.Earlier("0" * 26, 100.0, 60.0, preparing_s, len(known), known)


def test_an_estimate_needs_an_earlier_run():
    assert "no earlier run" in estimate.words(load_suite("demo"), None)
    assert estimate.words(load_suite("demo"), before()) == (
        "Timing takes about 44 s at the speeds of run …000000; "
        "loading, answering and the rest took that run 40 s for its 5 variants."
    )
    partly = estimate.words(load_suite("demo"), before(known={("fp32", 8): 0.01}))
    assert partly.startswith("Timing ends after at most 1 min; ") and partly.endswith("for its one variant.")


def test_what_an_earlier_run_trained_and_built_is_not_expected_again():
    assert estimate.words(load_suite("demo"), before(preparing_s=30.0)).endswith(
        "the rest took that run 10 s for its 5 variants. It prepared models for 30 s before: what is built is kept."
    )
    assert "prepared" not in estimate.words(load_suite("demo"), before(preparing_s=2.0))


def test_a_service_load_is_counted_in():
    suite = load_suite("demo", ["load.p99_ms=50"])
    unknown = estimate.words(suite, None)
    assert unknown.endswith(
        "A service's load takes up to about 3 min 10 s more a variant, longer where one answers fewer than 44 texts/s."
    )
    # Batches of 8 in 10 ms: 800 texts/s, so 15 s are the longer part of each of 12 trials.
    assert estimate.words(suite, before()).endswith("A service's load takes up to about 15 min more.")
    loaded = estimate.Earlier("0" * 26, 400.0, 60.0, 0.0, 5, KNOWN, 300.0, {v.name: 10.0 for v in suite.variant})
    # What it took then is not among the rest; at 10 texts/s a trial needs 662 texts, and few are worth their time.
    assert "took that run 40 s" in estimate.words(suite, loaded)
    assert estimate.serving_seconds(suite, loaded) == pytest.approx(5 * (10 + 240 + 66.2))
    assert "load" not in estimate.words(load_suite("demo"), loaded).partition("loading")[2]


@pytest.mark.parametrize(("key", "longer"), [("rounds=120", True), ("max_seconds=5", False)])
def test_the_protocol_decides(key, longer):
    usual = estimate.timing_seconds(load_suite("demo"), KNOWN)
    other = estimate.timing_seconds(load_suite("demo", [f"protocol.{key}"]), KNOWN)
    assert usual is not None and other is not None and (other > usual) is longer
