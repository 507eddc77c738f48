"""Sentences about a run: each follows from its figures, and none calls a difference that is not shown."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import takeaways
from engine.store.queries import DERIVED_FIELDS, FIXED_FIELDS, FURTHER_FIELDS

RUN = {"id": "A", "suite": "tiny", "device_name": "a processor", "host": "here", "example_set_id": "e"}


def row(**changes: Any) -> dict[str, Any]:
    """A measurement that shows no difference to the baseline, but for `changes`."""
    measured = {
        "variant": "other",
        "title": "Other",
        "baseline": False,
        "batch_size": 8,
        "status": "measured",
        "validity": "valid",
        "speedup": 1.01,
        "speedup_low": 0.97,
        "speedup_high": 1.05,
        "comparison": "no_difference",
        "examples": 400,
        "accuracy": 0.9,
        "ram_peak_bytes": 500_000_000,
        "weights_bytes": 90_000_000,
    }
    assert set(measured | changes) <= set(FIXED_FIELDS + FURTHER_FIELDS + DERIVED_FIELDS)
    return dict.fromkeys(FIXED_FIELDS + FURTHER_FIELDS + DERIVED_FIELDS) | measured | changes


BASE = row(
    variant="base", title="Base", baseline=True, speedup=1.0, speedup_low=1.0, speedup_high=1.0, comparison=None
)
FASTER = {"speedup": 1.5, "speedup_low": 1.2, "speedup_high": 1.8, "comparison": "better"}
SLOWER = {"speedup": 0.5, "speedup_low": 0.4, "speedup_high": 0.6, "comparison": "worse"}


def said(*rows: dict[str, Any], shown: bool | None = None) -> list[str]:
    found = takeaways.takeaways([BASE, *rows])
    return [item.sentence for item in found if shown is None or item.shown is shown]


def one(**changes: Any) -> str:
    [sentence] = said(row(**changes), shown=True)
    return sentence


def test_nothing_shown_is_nothing_claimed():
    assert said(row(), shown=True) == []
    assert said(row(), shown=False) == ["Other: no difference in speed to Base is shown: 1.01× (0.970 to 1.05)."]
    # A baseline alone has nothing to be compared with.
    assert said() == []


def test_speed():
    assert one(**FASTER) == "Other answers 1.50× (1.20 to 1.80) as many samples/s as Base."
    assert one(**SLOWER) == "Other is slower than Base: 0.500× (0.400 to 0.600) its samples/s."
    assert "1.80, unstable)" in one(**FASTER, validity="unstable")


def test_accuracy():
    paired = {
        "accuracy_difference": -0.021,
        "accuracy_difference_low": -0.034,
        "accuracy_difference_high": -0.008,
        "accuracy_gained": 3,
        "accuracy_lost": 11,
        "accuracy_p": 0.0123,
    }
    assert one(**paired, accuracy_comparison="worse") == (
        "Other loses 2.1 points of accuracy against Base (−3.4 to −0.8; McNemar with Holm, p = 0.012): "
        "11 examples lost, 3 gained, of 400."
    )
    assert " gains 2.1 points" in one(**paired | {"accuracy_p": 1e-5}, accuracy_comparison="better")
    unshown = said(row(**paired, accuracy_comparison="no_difference", detectable_difference=0.031), shown=False)
    assert unshown[1] == (
        "Other: no difference in accuracy to Base is shown: −2.1 points (−3.4 to −0.8); "
        "11 examples lost, 3 gained, of 400; this n would have shown 3.1 points in four of five such cases."
    )


def test_answers_memory_energy_and_batching():
    assert one(flips=0) == "Other gives the same answer as Base to all 400 examples."
    assert one(flips=12) == "Other answers 12 of 400 examples otherwise than Base (3.00%)."
    assert one(ram_peak_bytes=200_000_000) == "Other needs 0.400× the RAM of Base: 200 MB at its peak, Base 500 MB."
    assert one(weights_bytes=30_000_000) == (
        "Other has 0.333× the bytes of weights of Base and saves no RAM: 500 MB at its peak, Base 500 MB."
    )
    # Less than the tenth that is worth a sentence of its own, but less.
    assert one(weights_bytes=30_000_000, ram_peak_bytes=460_000_000) == (
        "Other has 0.333× the bytes of weights of Base and needs 0.920× its RAM: 460 MB at its peak, Base 500 MB."
    )
    assert "saves no RAM" in one(weights_bytes=30_000_000, ram_peak_bytes=540_000_000)
    seen = {"batch 1": {"examples": 256, "changed": 3}, "padding longest": {"examples": 256, "changed": 0}}
    assert one(invariance=seen) == (
        "Other's answers depend on the batch: 3 of 256 under batch 1 differ from those at its own."
    )
    cold = BASE | {"energy_j_per_1000_examples": 20.0, "vram_peak_bytes": 100, "ram_peak_bytes": None}
    found = takeaways.takeaways([cold, row(energy_j_per_1000_examples=5.0, vram_peak_bytes=100)])
    assert [item.sentence for item in found if item.shown] == [
        "Other takes 0.250× the energy of Base: 5.00 J for 1,000 examples, Base 20.0 J, idle power subtracted."
    ]


def test_limits_and_labels_speak_for_themselves():
    assert one(limits={"sentence": "bound by compute."}) == "Other: bound by compute."
    flag = {"kind": "permuted", "sentence": "the labels look permuted", "figures": {}}
    assert one(quality={"flags": [flag]}) == "Other: the labels look permuted"
    base = BASE | {"quality": {"flags": [flag]}}
    assert [item.sentence for item in takeaways.takeaways([base])] == ["Base: the labels look permuted"]


def test_nothing_is_concluded_from_what_is_not_there():
    failed = dict.fromkeys(row()) | {
        "variant": "x",
        "title": "X",
        "batch_size": 8,
        "status": "failed",
        "status_reason": "it died",
    }
    assert said(failed) == ["X was not measured: failed: it died."]
    assert said(failed | {"status": "pending", "status_reason": None}) == ["X was not measured: pending."]
    invalid = row(**FASTER, flips=3) | {"validity": "invalid", "validity_reason": "weights in float16"}
    assert said(invalid) == ["Other is invalid, and nothing is concluded from it: weights in float16."]
    broken = [BASE | {"validity": "invalid", "validity_reason": "NaN"}, row(**FASTER)]
    assert [item.name for item in takeaways.takeaways(broken)] == ["Base"]


def test_several_batch_sizes_are_told_apart():
    rows = [BASE, BASE | {"batch_size": 1}, row(**FASTER), row(**SLOWER, batch_size=1)]
    shown = [item.sentence for item in takeaways.takeaways(rows)]
    assert shown[0].startswith("Other @ 8 answers") and shown[1].startswith("Other @ 1 is slower")


# Two runs


def test_a_change_between_runs_carries_both_intervals():
    a, b = row(speedup=2.0, speedup_low=1.8, speedup_high=2.2), row(speedup=3.0, speedup_low=2.7, speedup_high=3.3)
    ratio, low, high = takeaways.change(a, b)
    assert ratio == pytest.approx(1.5)
    half = math.log(2.2 / 1.8) / 2
    assert (low, high) == pytest.approx((1.5 / math.exp(half * math.sqrt(2)), 1.5 * math.exp(half * math.sqrt(2))))
    assert takeaways.change(a, row(speedup=None)) is None


def test_differences_of_two_runs():
    first = (RUN, [BASE, row(**FASTER), row(variant="only", title="Only")])
    faster = row(speedup=4.0, speedup_low=3.6, speedup_high=4.4, comparison="better")
    other = {"device_name": "another", "host": "there", "suite": "big", "example_set_id": "f"}
    assert takeaways.differences(first, (RUN | other, [BASE, faster])) == [
        "different devices: a processor (A), another (B)",
        "different suites: tiny (A), big (B)",
        "different hosts: here (A), there (B)",
        "different examples: accuracies are not comparable",
        "Other: the speed-up rose to 2.67× (2.13 to 3.34) of what it was: 1.50 (A), 4.00 (B)",
        "in one of the runs only: only",
    ]
    assert takeaways.differences(first, first) == []
    assert takeaways.differences(first, (RUN | {"host": "there"}, first[1]), ("A", "C")) == [
        "different hosts: here (A), there (C)"
    ]


def test_a_threshold_counts_only_what_is_shown():
    slower = row(speedup=0.93, speedup_low=0.9, speedup_high=0.96, comparison="worse")
    assert [item.name for item in takeaways.regressions([BASE, slower], 0.03)] == ["Other"]
    # Slower, but not shown to be by more than 5%.
    assert takeaways.regressions([BASE, slower], 0.05) == []
    lost = {"accuracy_difference": -0.04, "accuracy_comparison": "worse"}
    assert [i.name for i in takeaways.regressions([BASE, row(**lost)], 0.03)] == ["Other"]
    assert takeaways.regressions([BASE, row(**lost | {"accuracy_comparison": "no_difference"})], 0.03) == []
    assert [i.name for i in takeaways.regressions([BASE, row(status="failed")], 0.5)] == ["Other"]


def test_a_threshold_between_two_runs():
    fast = row(speedup=2.0, speedup_low=1.9, speedup_high=2.1)
    slow = row(speedup=1.5, speedup_low=1.4, speedup_high=1.6)
    first, second = (RUN, [BASE, fast]), (RUN, [BASE, slow | {"accuracy": 0.85}])
    found = takeaways.regressions_between(first, second, 0.03)
    assert [item.sentence.split(":")[1][:20] for item in found] == [" its speed-up fell b", " its accuracy fell b"]
    assert takeaways.regressions_between(second, first, 0.0) == []
    elsewhere = (RUN | {"example_set_id": "f"}, second[1])
    assert len(takeaways.regressions_between(first, elsewhere, 0.03)) == 1


@settings(deadline=None)
@given(st.floats(0.01, 100), st.floats(1.0, 3.0), st.floats(0, 0.5))
def test_no_regression_without_an_interval_beyond_it(speedup: float, width: float, threshold: float):
    changed = row(speedup=speedup, speedup_low=speedup / width, speedup_high=speedup * width)
    found = takeaways.regressions([BASE, changed], threshold)
    assert bool(found) == (speedup * width < 1 - threshold)
