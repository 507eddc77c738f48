"""Limits against figures made by hand: what remains, what is shown, what each limit costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dashboard_fill import FULL, SIZES, UNLABELLED
from row_builder import shown_row

from dashboard import figures, run_rows, style
from dashboard.data import reads
from dashboard.findings import deciding, decision_words
from dashboard.findings.deciding import Limits, decide
from dashboard.tables import decision
from engine.measurement.stats import Interval


def row(name: str, speed: float, spread: float = 0.05, **more: Any) -> run_rows.Row:
    """A measured row: `speed` times the baseline, its interval that share to both sides."""
    figures = {
        "id": sum(map(ord, name)),
        "variant": name,
        "name": name,
        "title": name,
        "model": "m",
        "backend": "pytorch",
        "precision": "fp32",
        "baseline": name == "base",
        "batch_size": 8,
        "status": "measured",
        "status_reason": None,
        "validity": "valid",
        "validity_reason": None,
        "calls": 100,
        "examples": 1000,
        "accuracy": 0.9,
        "accuracy_reason": None,
        "memory_kind": "ram",
        "memory_bytes": 500e6,
        "memory_ratio": None,
        "latency_p50_s": 0.010 / speed,
        "latency_p95_s": 0.012 / speed,
        "throughput_samples_per_s": 800.0 * speed,
        "throughput_samples_per_s_low": 780.0 * speed,
        "throughput_samples_per_s_high": 820.0 * speed,
        "speedup": speed,
        "speedup_low": speed * (1 - spread),
        "speedup_high": speed * (1 + spread),
        "comparison": None if name == "base" else "better" if speed * (1 - spread) > 1 else "no_difference",
        "accuracy_difference": None if name == "base" else -0.002,
        "accuracy_difference_low": None if name == "base" else -0.006,
        "accuracy_difference_high": None if name == "base" else 0.001,
        "accuracy_comparison": None if name == "base" else "no_difference",
        "energy_j_per_1000_examples": None,
    }
    return shown_row(**figures | more)


BASE = row("base", 1.0, 0.0)
FAST = row("fast", 4.0, memory_bytes=900e6)
MIDDLE = row("middle", 2.0, memory_bytes=300e6)
ROWS = [BASE, FAST, MIDDLE]


def names(rows: list[run_rows.Row]) -> list[str]:
    return [row.name for row in rows]


def states(found: deciding.Decision, name: str) -> dict[str, str]:
    (judged,) = [judged for judged in found.judged if judged.row.name == name]
    return {key: judgement.state for key, judgement in judged.judgements.items()}


def test_without_a_limit_the_fastest_of_all_is_named_and_not_recommended() -> None:
    found = decide(ROWS, Limits())
    assert names(found.remaining) == ["base", "fast", "middle"] and found.fastest is FAST
    said, _ = decision_words.answer(found)
    assert said == "Without a limit fast is the fastest of 3 variants: 4.00× (3.80 to 4.20) the samples/s of base."


def test_a_limit_keeps_out_what_is_beyond_it_and_says_what_that_costs() -> None:
    found = decide(ROWS, Limits(memory_bytes=500e6))
    assert names(found.remaining) == ["base", "middle"] and found.fastest is MIDDLE
    assert decision_words.answer(found)[0].startswith("Ship middle: 2.00× (1.90 to 2.10) the samples/s of base")
    (cost,) = found.costs
    assert names(cost.kept_out) == ["fast"] and cost.without is FAST
    assert cost.given_up is not None and cost.given_up.estimate == pytest.approx(2)
    assert decision_words.cost_words(cost, found.fastest) == "2.00× (1.86 to 2.15) the speed: fast instead"


def test_a_value_at_the_limit_is_within_it_in_whatever_unit_the_limit_came() -> None:
    exact = row("exact", 2.0, memory_bytes=500e6, accuracy_difference_low=-0.007)
    assert states(decide([BASE, exact], Limits(memory_bytes=500e6)), "exact") == {"memory_bytes": "within"}
    assert 0.7 / 100 < 0.007, "floating point would refuse it"
    assert states(decide([BASE, exact], Limits(accuracy_lost=0.7 / 100)), "exact") == {"accuracy_lost": "within"}


@pytest.mark.parametrize(
    ("allowed", "state", "strict", "lenient"),
    [
        (0.010, "within", True, True),
        (0.003, "not shown", False, True),
        (0.001, "not shown", False, False),
        (0.0, "not shown", False, False),
    ],
)
def test_the_interval_decides_on_accuracy_or_the_estimate_where_that_is_asked(
    allowed: float, state: str, strict: bool, lenient: bool
) -> None:
    # Lost: 0.2 points, from 0.1 gained to 0.6 lost.
    for mode, remains in ((True, strict), (False, lenient)):
        found = decide([BASE, MIDDLE], Limits(accuracy_lost=allowed), mode)
        assert states(found, "middle")["accuracy_lost"] == state
        assert ("middle" in names(found.remaining)) == remains
    assert states(found, "base")["accuracy_lost"] == "within", "the baseline loses nothing"


def test_a_loss_that_is_shown_is_beyond() -> None:
    worse = row("worse", 2.0, accuracy_difference=-0.05, accuracy_difference_high=-0.03, accuracy_difference_low=-0.07)
    found = decide([BASE, worse], Limits(accuracy_lost=0.01), strict=False)
    assert states(found, "worse")["accuracy_lost"] == "beyond"


def test_what_is_kept_though_not_shown_is_said() -> None:
    said = " ".join(decision_words.answer(decide(ROWS, Limits(accuracy_lost=0.003), strict=False)))
    assert "Kept by its estimate, not shown to be within: fast (accuracy lost) and middle (accuracy lost)." in said


def test_a_loss_or_gain_that_is_shown_is_said_without_signs() -> None:
    worse = row(
        "worse", 2.0, accuracy_difference=-0.05, accuracy_difference_high=-0.03, accuracy_difference_low=-0.07,
        accuracy_comparison="worse",
    )  # fmt: skip
    assert (
        "It loses 5.0 points of accuracy (3.0 to 7.0, n = 1,000)."
        in decision_words.answer(decide([BASE, worse], Limits()))[1]
    )
    better = row(
        "better", 2.0, accuracy_difference=0.05, accuracy_difference_high=0.07, accuracy_difference_low=0.03,
        accuracy_comparison="better",
    )  # fmt: skip
    found = decision_words.answer(decide([BASE, better], Limits()))[1]
    assert "It gains 5.0 points of accuracy (3.0 to 7.0, n = 1,000)." in found


def test_what_was_not_measured_is_not_within_and_is_said() -> None:
    few = row("few", 8.0, latency_p95_s=None, calls=12)
    found = decide([*ROWS, few], Limits(latency_p95_s=1.0))
    assert states(found, "few") == {"latency_p95_s": "unknown"} and "few" not in names(found.remaining)
    assert (
        "Left out because a figure is missing, latency, p95 (12 calls, 59 needed): few."
        in decision_words.answer(found)[1]
    )


def test_invalid_and_failed_rows_never_remain_and_unstable_ones_do_with_a_sign() -> None:
    wrong = row("wrong", 9.0, validity="invalid", validity_reason="float32")
    gone = row("gone", 9.0, status="failed", status_reason="no such folder")
    shaky = row("shaky", 6.0, validity="unstable")
    found = decide([*ROWS, wrong, gone, shaky], Limits())
    assert names(found.remaining) == ["base", "fast", "middle", "shaky"]
    assert "~ shaky was not in a steady state." in decision_words.answer(found)[1]
    assert "~ unstable" in decision.verdicts(found, style.LIGHT)


def test_no_winner_where_the_comparison_of_two_includes_one() -> None:
    near = row("near", 3.9)
    found = decide([BASE, FAST, near], Limits(), versus=lambda a, b: Interval(1.03, 0.98, 1.08))
    said, detail = decision_words.answer(found)
    assert "none of them is shown to be the fastest" in said and "Ship" not in said
    assert "fast has the highest estimate, 4.00×" in detail and "1.03× (0.980 to 1.08) that of near" in detail
    found = decide([BASE, FAST, near], Limits(memory_bytes=1e9), versus=lambda a, b: Interval(1.03, 1.01, 1.05))
    assert decision_words.answer(found)[0].startswith("Ship fast"), "shown by the rounds, though the intervals overlap"


def test_the_baseline_is_a_rival_too() -> None:
    found = decide([BASE, row("same", 1.01)], Limits())
    assert decision_words.answer(found)[0] == "same or base: neither is shown to be the fastest."


@pytest.mark.parametrize(("share", "said"), [(0.01, "1 point"), (0.005, "0.5 points"), (0.02, "2 points")])
def test_one_point_is_a_point(share: float, said: str) -> None:
    assert deciding.QUANTITIES["accuracy_lost"].amount(share) == said.replace(" ", "\u00a0")


def test_nothing_remains_names_the_limit_to_loosen_and_by_how_much() -> None:
    limits = Limits(memory_bytes=100e6, latency_p95_s=0.007)
    found = decide(ROWS, limits)
    assert found.fastest is None and names(found.remaining) == []
    (loosening,) = found.loosenings
    assert (loosening.quantity.key, loosening.shown, loosening.row.name) == ("memory_bytes", 300.0, "middle")
    assert "peak RAM of 300\u00a0MB lets middle in" in decision_words.answer(found)[1]
    again = decide(ROWS, Limits(memory_bytes=loosening.shown * 1e6, latency_p95_s=0.007))
    assert names(again.remaining) == ["middle"], "what it says is enough"


def test_a_loosening_of_accuracy_reaches_to_the_end_of_the_interval() -> None:
    only = row("only", 2.0, accuracy_difference_low=-0.00612345)
    found = decide([row("base", 1.0, 0.0, memory_bytes=2e9), only], Limits(memory_bytes=1e9, accuracy_lost=0.001))
    memory, loosening = found.loosenings
    assert memory.shown == 2000 and memory.row.name == "base", "twice as much is the smaller step"
    assert loosening.shown == 0.613
    assert names(decide([only], Limits(accuracy_lost=loosening.shown / 100)).remaining) == ["only"]


def test_where_no_single_limit_helps_the_nearest_is_named() -> None:
    found = decide(ROWS, Limits(memory_bytes=1e6, latency_p95_s=1e-6))
    assert not found.loosenings
    assert "base comes nearest and misses peak RAM and latency, p95" in decision_words.answer(found)[1]


@pytest.mark.parametrize(
    ("value", "up"), [(6.38180005, 6.39), (0.4545454, 0.455), (300.0, 300.0), (1234.0, 1240.0), (0.0, 0.0)]
)
def test_upwards(value: float, up: float) -> None:
    assert deciding.upwards(value) == pytest.approx(up, abs=1e-12) and deciding.upwards(value) >= value


def test_rows_without_a_baseline_are_held_against_each_other_by_throughput() -> None:
    alone = [
        row(name, speed, speedup=None, speedup_low=None, speedup_high=None, comparison=None)
        for name, speed in (("a", 1.0), ("b", 2.0))
    ]
    found = decide(alone, Limits())
    assert names([found.fastest]) == ["b"] and not found.rivals
    assert "1,600 samples/s (1,560 to 1,640)" in decision_words.answer(found)[0]


def test_two_variants_are_compared_over_the_rounds_that_they_share() -> None:
    rows = [BASE, replace(FAST, speedup_low=3.0, speedup_high=5.0), row("near", 3.6, 0.25)]
    generator = np.random.default_rng(0)
    common = np.exp(generator.normal(0, 0.3, 60))  # the machine's state, which both suffer
    rates = {
        each.id: [100 * speed * common * np.exp(generator.normal(0, 0.005, 60))]
        for each, speed in zip(rows, (1.0, 4.0, 3.6), strict=True)
    }
    apart = deciding.from_intervals(rows[1], rows[2])
    assert apart is not None and apart.low < 1
    versus = deciding.from_rounds([replace(r, speedup_high=None) for r in rows], rates)
    paired = versus(rows[1], rows[2])
    assert paired is not None and paired.estimate == pytest.approx(4 / 3.6, rel=0.01) and paired.low > 1
    assert versus(rows[1], BASE) == Interval(4.0, 3.0, 5.0), "against the baseline the run's own figure stands"
    widened = deciding.from_rounds(rows, rates)(rows[1], rows[2])
    assert widened is not None and widened.low < paired.low, "as the run widened its own"


def test_the_rounds_of_a_stored_run_give_its_own_figures_again(database: str) -> None:
    for run in (FULL, SIZES):
        summary = reads.run(run)
        rows = run_rows.at_batch(reads.measurements(summary), 8 if run == SIZES else None)
        rates = reads.rates(summary, rows)
        base = run_rows.baseline_of(rows)
        assert base is not None and all(run_rows.usable(r) == (r.id in rates) for r in rows)
        # The fixture takes all rounds, a run the calm ones: the same within the interval.
        versus = deciding.from_rounds([replace(r, baseline=False, speedup_high=None) for r in rows], rates)
        for r in rows:
            if r.id in rates and r is not base:
                found = versus(r, replace(base, baseline=False))
                assert found is not None and r.speedup_low < found.estimate < r.speedup_high


# As it is shown


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK], ids=lambda look: look.name)
@pytest.mark.parametrize("against", ["accuracy_lost", "memory_bytes", "energy_j_per_1000_examples"])
@pytest.mark.parametrize("limits", [Limits(), Limits(400e6, 0.03, 0.01)], ids=["none", "set"])
def test_the_chart_draws_what_remains_solid_and_what_is_out_hollow(
    limits: Limits, against: str, look: style.Theme, full: list[run_rows.Row]
) -> None:
    found = decide(full, limits)
    figure = figures.decision(found, look, against)
    assert figure.layout.template.layout.paper_bgcolor == look.background and figure.layout.title.text
    drawn = {trace.name: trace for trace in figure.data}
    for judged in found.judged:
        if judged.row.name in drawn:
            hollow = drawn[judged.row.name].marker.color == look.background
            assert hollow != judged.remains, judged.row.name
            assert drawn[judged.row.name].x[0] == pytest.approx(1e3 * judged.row.latency_p95_s)
    assert bool(figure.layout.shapes) == bool(limits.given) or not drawn
    assert "SST-2 head" not in drawn or against != "accuracy_lost"


def test_the_chart_shades_beyond_the_limits_and_names_who_is_there(full: list[run_rows.Row]) -> None:
    found = decide(full, Limits(latency_p95_s=0.03, memory_bytes=300e6))
    figure = figures.decision(found, style.LIGHT, "memory_bytes")
    boxes = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert {box.x0 for box in boxes} == {30.0, 0} and {box.y0 for box in boxes} == {0, 300.0}
    title = figure.layout.title.text.replace("<br>", " ")
    assert "300\u00a0MB: DistilBERT FP32" in title and "30\u00a0ms" in title


def test_what_takes_many_times_less_does_not_all_lie_on_the_axis(full: list[run_rows.Row]) -> None:
    spent = iter([161.0, 22.4, 20.6, 23.0, 10.3, 29.6])
    rows = [
        replace(row, energy_j_per_1000_examples=next(spent, None) if run_rows.usable(row) else None) for row in full
    ]
    found = decide(rows, Limits(energy_j_per_1000_examples=50.0))
    figure = figures.decision(found, style.LIGHT, "energy_j_per_1000_examples")
    assert figure.layout.yaxis.type == "log" and "log scale" in figure.layout.yaxis.title.text
    (limit,) = [note for note in figure.layout.annotations if note.text == "50"]
    assert 10**limit.y == pytest.approx(50.0)
    ys = {10**note.y for note in figure.layout.annotations if note is not limit}
    assert max(ys) == pytest.approx(161.0) and min(ys) == pytest.approx(10.3)


def test_the_table_says_sign_word_and_value_and_no_markup_of_others(full: list[run_rows.Row]) -> None:
    found = decide(full, Limits(memory_bytes=200e6, accuracy_lost=0.01))
    html = decision.verdicts(found, style.LIGHT)
    assert "✓ 160" in html and "✗ 660" in html and "at most 200\u00a0MB" in html
    assert "not shown to be within" in html and "A &lt;b&gt;model&lt;/b&gt; that fails" in html
    assert "✗ invalid" in html and "✗ failed" in html and "○ unavailable" in html
    assert "Energy" not in html, "no column where nothing has that figure"
    assert "Peak RAM" in decision.costs(found)


def test_unlabelled_text_has_no_accuracy_to_lose(database: str) -> None:
    rows = reads.measurements(reads.run(UNLABELLED))
    found = decide(rows, Limits(accuracy_lost=0.01))
    assert names(found.remaining) == ["DistilBERT FP32"]
    assert "the workload is unlabelled" in decision_words.answer(found)[1]
