"""Sentences about a run: each follows from its figures, and none calls a difference that is not shown."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_builder import stored_row

from engine.measurement import summary
from engine.report import changes as report_changes
from engine.report import takeaways
from engine.store.rows import Row
from engine.units import point_interval

RUN = {"id": "A", "suite": "tiny", "device_name": "a processor", "host": "here", "example_set_id": "e"}


def row(**changes: Any) -> Row:
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
    return stored_row(**measured | changes)


BASE = row(variant="base", title="Base", baseline=True, speedup=1.0, speedup_low=1.0, speedup_high=1.0, comparison=None)
FASTER = {"speedup": 1.5, "speedup_low": 1.2, "speedup_high": 1.8, "comparison": "better"}
SLOWER = {"speedup": 0.5, "speedup_low": 0.4, "speedup_high": 0.6, "comparison": "worse"}


def said(*rows: Row, shown: bool | None = None) -> list[str]:
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
    paired |= {"accuracy_comparison": "no_difference", "detectable_difference": 0.031, "accuracy_p": 0.21}
    unshown = said(row(**paired), shown=False)
    assert unshown[1] == (
        "Other: no difference in accuracy to Base is shown: −2.1 points (−3.4 to −0.8 for this pair alone, but "
        "p = 0.21 by McNemar with Holm); 11 examples lost, 3 gained, of 400; this n would have shown 3.1 points in "
        "four of five such cases."
    )
    clear = said(row(**paired | {"accuracy_difference_high": 0.001}), shown=False)[1]
    assert "−2.1 points (−3.4 to +0.1); 11 examples" in clear


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
    cold = replace(BASE, energy_j_per_1000_examples=20.0, vram_peak_bytes=100, ram_peak_bytes=None)
    found = takeaways.takeaways([cold, row(energy_j_per_1000_examples=5.0, vram_peak_bytes=100)])
    assert [item.sentence for item in found if item.shown] == [
        "Other takes 0.250× the energy of Base: 5.00 J for 1,000 examples, Base 20.0 J, idle power subtracted."
    ]


def test_limits_and_labels_speak_for_themselves():
    assert one(limits={"sentence": "bound by compute."}) == "Other: bound by compute."
    flag = {"kind": "permuted", "sentence": "the labels look permuted", "figures": {}}
    assert one(quality={"flags": [flag]}) == "Other: the labels look permuted"
    base = replace(BASE, quality={"flags": [flag]})
    assert [item.sentence for item in takeaways.takeaways([base])] == ["Base: the labels look permuted"]


def test_nothing_is_concluded_from_what_is_not_there():
    failed = stored_row(variant="x", title="X", status="failed", status_reason="it died", validity=None)
    assert said(failed) == ["X was not measured: failed: it died."]
    assert said(replace(failed, status="pending", status_reason=None)) == ["X was not measured: pending."]
    invalid = replace(row(**FASTER, flips=3), validity="invalid", validity_reason="weights in float16")
    assert said(invalid) == ["Other is invalid, and nothing is concluded from it: weights in float16."]
    broken = [replace(BASE, validity="invalid", validity_reason="NaN"), row(**FASTER)]
    assert [item.name for item in takeaways.takeaways(broken)] == ["Base"]


def test_several_batch_sizes_are_told_apart():
    rows = [BASE, replace(BASE, batch_size=1), row(**FASTER), row(**SLOWER, batch_size=1)]
    shown = [item.sentence for item in takeaways.takeaways(rows)]
    assert shown[0].startswith("Other @ 8 answers") and shown[1].startswith("Other @ 1 is slower")


# Two runs


def test_a_change_between_runs_carries_both_intervals():
    a, b = row(speedup=2.0, speedup_low=1.8, speedup_high=2.2), row(speedup=3.0, speedup_low=2.7, speedup_high=3.3)
    ratio, low, high = report_changes.change(a, b)
    assert ratio == pytest.approx(1.5)
    half = math.log(2.2 / 1.8) / 2
    assert (low, high) == pytest.approx((1.5 / math.exp(half * math.sqrt(2)), 1.5 * math.exp(half * math.sqrt(2))))
    assert report_changes.change(a, row(speedup=None)) is None


def test_differences_of_two_runs():
    first = (RUN, [BASE, row(**FASTER), row(variant="only", title="Only")])
    faster = row(speedup=4.0, speedup_low=3.6, speedup_high=4.4, comparison="better")
    other = {"device_name": "another", "host": "there", "suite": "big", "example_set_id": "f"}
    assert report_changes.differences(first, (RUN | other, [BASE, faster])) == [
        "different devices: a processor (A), another (B)",
        "different suites: tiny (A), big (B)",
        "different hosts: here (A), there (B)",
        "different examples: accuracies are not comparable",
        "Other: the speed-up rose to 2.67× (2.13 to 3.34) of what it was: 1.50 (A), 4.00 (B)",
        "in one of the runs only: only",
    ]
    assert report_changes.differences(first, first) == []
    assert report_changes.differences(first, (RUN | {"host": "there"}, first[1]), ("A", "C")) == [
        "different hosts: here (A), there (C)"
    ]


def pair(gained: int, lost: int, n: int = 400, **changes: Any) -> summary.Difference:
    """The accuracy of one comparison, as a run or `engine.report.between` draws them."""
    right, base = np.zeros(n, bool), np.zeros(n, bool)
    right[:gained], base[gained : gained + lost] = True, True
    (found,) = summary.corrected([summary.difference(right, base)])
    return replace(found, **changes)


LOST, NOISE, ONE = pair(3, 43), pair(11, 14), pair(0, 1)
"""10 points of 400 lost, less than a point, one example."""
NAN = {"validity": "invalid", "validity_reason": "NaN"}


def test_accuracy_between_runs_is_told_where_it_is_shown():
    first, second = (RUN, [BASE, row()]), (RUN, [BASE, row()])
    assert report_changes.differences(first, second, answers={("other", 8): LOST, ("base", 8): NOISE}) == [
        f"Other: the accuracy fell by 10.0 points from A to B ({units_of(LOST)}; McNemar with Holm, p < 0.001): "
        "43 of the same 400 examples lost, 3 gained"
    ]
    [sentence] = report_changes.differences(first, second, answers={("base", 8): pair(43, 3)})
    assert sentence.startswith("Base: the accuracy rose by 10.0 points from A to B (")
    assert report_changes.differences(first, second) == []


def units_of(found: dict[str, Any]) -> str:
    return point_interval(found.accuracy_difference_low, found.accuracy_difference_high)


def test_memory_between_runs_is_told_from_a_tenth_on():
    def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        return report_changes.differences((RUN, [BASE, row(**before)]), (RUN, [BASE, row(**after)]), ("A", "C"))

    assert told({}, {"ram_peak_bytes": 1_000_000_000}) == [
        "Other: the peak of its RAM rose to 2.00× of what it was: 500 MB (A), 1,000 MB (C)"
    ]
    assert told({}, {"ram_peak_bytes": 530_000_000}) == told({}, {"ram_peak_bytes": None}) == []
    on_gpu = {"vram_peak_bytes": 2_000_000_000}
    assert told(on_gpu, {"vram_peak_bytes": 1_000_000_000, "ram_peak_bytes": 9_000_000_000}) == [
        "Other: the peak of its VRAM fell to 0.500× of what it was: 2,000 MB (A), 1,000 MB (C)"
    ]
    # One without a GPU has RAM alone to be held beside.
    assert told(on_gpu, {"ram_peak_bytes": 250_000_000})[0].startswith("Other: the peak of its RAM fell to 0.500×")


def test_unlike_baselines_have_no_speedups_to_compare():
    first = (RUN, [BASE, row(**FASTER)])
    second = (RUN, [replace(BASE, precision="bf16"), row(**SLOWER)])
    assert report_changes.differences(first, second) == ["different baselines: speed-ups are not comparable"]
    assert report_changes.regressions_between(first, second, 0.0) == []
    turned = (RUN, [replace(BASE, baseline=False, **SLOWER), replace(row(), baseline=True)])
    assert report_changes.differences(first, turned) == ["different baselines: speed-ups are not comparable"]


def test_a_threshold_counts_only_what_is_shown():
    slower = row(speedup=0.93, speedup_low=0.9, speedup_high=0.96, comparison="worse")
    assert [item.name for item in report_changes.regressions([BASE, slower], 0.03)] == ["Other"]
    # Slower, but not shown to be by more than 5%.
    assert report_changes.regressions([BASE, slower], 0.05) == []
    assert [i.name for i in report_changes.regressions([BASE, row(status="failed")], 0.5)] == ["Other"]


def test_an_accuracy_is_lost_by_more_than_a_threshold_where_its_interval_lies_beyond_it():
    high = -LOST.accuracy_difference_high
    assert 0.05 < high < 0.1 == pytest.approx(-LOST.accuracy_difference)
    [found] = report_changes.regressions([BASE, row(**asdict(LOST))], 0.05)
    assert found.sentence == f"Other loses more than 5.0 points of accuracy: −10.0 points ({units_of(LOST)})"
    # The estimate lies beyond it, but not all of the interval: a loss is shown, of more than this it is not.
    assert report_changes.regressions([BASE, row(**asdict(LOST))], high + 0.01) == []
    assert report_changes.regressions([BASE, row(**asdict(LOST) | {"accuracy_comparison": "no_difference"})], 0.0) == []
    assert (
        report_changes.regressions([BASE, row(**asdict(NOISE))], 0.0)
        == report_changes.regressions([BASE, row(**asdict(ONE))], 0.0)
        == []
    )


def test_a_threshold_between_two_runs():
    fast = row(speedup=2.0, speedup_low=1.9, speedup_high=2.1)
    slow = row(speedup=1.5, speedup_low=1.4, speedup_high=1.6)
    first, second = (RUN, [BASE, fast]), (RUN, [BASE, slow])
    found = report_changes.regressions_between(first, second, 0.03, {("other", 8): LOST})
    assert [item.sentence.split(":")[1] for item in found] == [
        " its speed-up fell by more than 3.0%, to 0.750× (0.690 to 0.815) of what it was",
        " its accuracy fell by more than 3.0 points on the same examples",
    ]
    assert report_changes.regressions_between(second, first, 0.0) == []
    high = -LOST.accuracy_difference_high
    assert report_changes.regressions_between(first, first, high + 0.01, {("other", 8): LOST}) == []


def test_one_example_more_or_less_is_no_regression():
    first = (RUN, [BASE, row(accuracy=0.9)])
    second = (RUN, [BASE, row(accuracy=0.9 - 1 / 400)])
    assert report_changes.regressions_between(first, second, 0.0, {("other", 8): ONE}) == []
    # What was not paired is not held beside each other at all.
    assert report_changes.regressions_between(first, (RUN, [BASE, row(accuracy=0.1)]), 0.0) == []


def test_of_invalid_rows_nothing_is_a_regression_but_that():
    worse = row(**SLOWER, **asdict(LOST))
    [only] = report_changes.regressions([BASE, replace(worse, **NAN)], 0.0)
    assert only.sentence == "Other is invalid: NaN"
    [base] = report_changes.regressions([replace(BASE, **NAN), worse], 0.0)
    assert base.sentence == "Base is invalid: NaN"
    answers = {("other", 8): LOST}
    good, bad = (RUN, [BASE, row(**FASTER)]), (RUN, [BASE, replace(worse, **NAN)])
    [became] = report_changes.regressions_between(good, bad, 0.0, answers)
    assert became.sentence == "Other became invalid: NaN"
    # What was invalid before is no measure of what is now.
    now = (RUN, [BASE, worse])
    broken = (RUN, [BASE, replace(row(**FASTER), **NAN)])
    assert report_changes.regressions_between(broken, now, 0.0, answers) == []
    # Beside an invalid baseline there is no speed-up; the variant's own answers are what they are.
    found = report_changes.regressions_between((RUN, [replace(BASE, **NAN), row(**FASTER)]), now, 0.0, answers)
    assert [item.sentence.partition(" by")[0] for item in found] == ["Other: its accuracy fell"]
    found = report_changes.regressions_between(good, (RUN, [replace(BASE, **NAN), row(**SLOWER)]), 0.0)
    assert [item.sentence for item in found] == ["Base became invalid: NaN"]


def test_of_invalid_rows_no_difference_is_told_but_that():
    heavy = replace(row(**SLOWER, ram_peak_bytes=5_000_000_000), **NAN)
    answers = {("other", 8): LOST}
    first = (RUN, [BASE, row(**FASTER)])
    words = "and nothing is concluded from it: NaN"
    assert report_changes.differences(first, (RUN, [BASE, heavy]), answers=answers) == [
        f"Other: is invalid in B, {words}"
    ]
    assert report_changes.differences((RUN, [BASE, heavy]), first, answers=answers) == [
        f"Other: is invalid in A, {words}"
    ]
    # Of a speed-up over an invalid baseline nothing is.
    second = (RUN, [replace(BASE, **NAN), row(**SLOWER)])
    assert report_changes.differences(first, second) == [f"Base: is invalid in B, {words}"]


@settings(deadline=None)
@given(st.floats(0.01, 100), st.floats(1.0, 3.0), st.floats(0, 0.5))
def test_no_regression_without_an_interval_beyond_it(speedup: float, width: float, threshold: float):
    changed = row(speedup=speedup, speedup_low=speedup / width, speedup_high=speedup * width)
    found = report_changes.regressions([BASE, changed], threshold)
    assert bool(found) == (speedup * width < 1 - threshold)


def test_a_p_value_in_a_sentence_and_in_a_table() -> None:
    assert [takeaways.p_words(p) for p in (None, 0.0123, 0.0004)] == ["unknown", "= 0.012", "< 0.001"]
    assert [takeaways.p_figure(p) for p in (0.0123, 0.0004)] == ["0.012", "< 0.001"]
