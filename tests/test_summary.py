"""Figures derived from raw calls and logits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.measurement import quality, stats
from engine.measurement.blocks import Block
from engine.measurement.doubts import Code, Doubt, doubt, in_words, of_json, slowdown_of
from engine.measurement.labels import align
from engine.measurement.summary import (
    Difference,
    Raw,
    agreement,
    answers,
    batch_flip_rate,
    changed,
    comparable,
    comparison,
    corrected,
    limits_row,
    paired,
    predicted_names,
    slowdown,
    speed,
    validity,
)
from engine.store.past import RANDOM_WEIGHTS, fact_columns

NEWS = ["World", "Sports", "Business", "Sci/Tech"]
GOOD = {"settings": {}, "wrong": [], "deviations": []}
quick = settings(deadline=None)


def block(round: int, *latencies_s: float, process: int = 0, kind: str = "timed", padded: int = 64) -> Block:
    """A block of calls of 4 examples, 30 tokens, `padded` tokens each."""
    calls = len(latencies_s)
    if kind == "warmup":
        return Block(process, round, float(round), np.array(latencies_s), 0, 0, 0, kind)
    started_s = process * 1000.0 + round
    return Block(process, round, started_s, np.array(latencies_s), 4 * calls, 30 * calls, padded * calls, kind)


def steady(rounds: int = 20, latency_s: float = 0.01, calls: int = 5) -> list[Block]:
    return [block(index, *[latency_s] * calls) for index in range(rounds)]


# Speed


def test_speed_sums_what_was_timed():
    raw = Raw([block(-1, 9.0, 9.0, kind="warmup"), block(0, 0.1, 0.3), block(1, 0.2)])
    found = speed(raw)
    # The interval is wider than the estimate in proportion, the same for both.
    low, high = found.pop("latency_p50_low_s"), found.pop("latency_p50_high_s")
    assert low < 0.2 < high and low * high == pytest.approx(0.2**2)
    low, high = found.pop("throughput_samples_per_s_low"), found.pop("throughput_samples_per_s_high")
    assert low < 12 / 0.6 < high
    assert found == {
        "calls": 3,
        "latency_mean_s": pytest.approx(0.2),
        "latency_p50_s": pytest.approx(0.2),
        "latency_p95_s": None,
        "latency_p99_s": None,
        "throughput_samples_per_s": pytest.approx(12 / 0.6),
        "throughput_tokens_per_s": pytest.approx(90 / 0.6),
        "throughput_padded_tokens_per_s": pytest.approx(192 / 0.6),
    }


def test_samples_and_tokens_are_the_units_that_they_say():
    """The study's mistake: 8 samples of 128 tokens in 44 ms are 182 samples/s, not 23,135."""
    raw = Raw([Block(0, 0, 0.0, np.array([0.044]), 8, 600, 1024)])
    found = speed(raw)
    assert found["throughput_samples_per_s"] == pytest.approx(181.8, abs=0.1)
    assert found["throughput_padded_tokens_per_s"] == pytest.approx(23_273, abs=1)
    assert found["throughput_tokens_per_s"] == pytest.approx(13_636, abs=1)


def test_percentiles_appear_where_the_calls_carry_them():
    found = speed(Raw(steady(rounds=12)))
    assert found["calls"] == 60 and found["latency_p95_s"] == 0.01 and found["latency_p99_s"] is None
    assert speed(Raw(steady(rounds=60)))["latency_p99_s"] == 0.01


@pytest.mark.parametrize("blocks", [[], [block(-1, 1.0, kind="warmup")]])
def test_nothing_timed_gives_no_figure(blocks):
    """Not 0: what was not measured is null in the row."""
    assert speed(Raw(blocks)) == {"calls": 0}


def test_rates_are_by_process_and_round_with_gaps():
    raw = Raw(
        [
            block(-1, 1.0, kind="warmup"),
            block(-1, 1.0, process=1, kind="warmup"),
            block(0, 0.5),
            block(2, 0.25, 0.25),
            block(1, 2.0, process=1),
        ]
    )
    first, second = raw.rates()
    nan = math.nan
    assert first.tolist() == pytest.approx([8, nan, 16], nan_ok=True)
    assert second.tolist() == pytest.approx([nan, 2, nan], nan_ok=True)
    assert Raw().rates() == [] and len(Raw().latencies_s()) == 0


# Comparison


def test_the_speed_up_is_taken_round_by_round():
    """The machine slows down tenfold in the middle, and the variant misses a round: the ratio stays."""
    pace = [1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 10.0]
    base = Raw([block(index, 0.02 * factor) for index, factor in enumerate(pace)])
    mine = Raw([block(index, 0.01 * factor) for index, factor in enumerate(pace) if index != 2])
    found = comparison(mine, base, is_baseline=False)
    assert found["speedup"] == pytest.approx(2) and found["comparison"] == "better"
    assert found["speedup_low"] < 2 < found["speedup_high"]
    back = comparison(base, mine, is_baseline=False)
    assert back["speedup"] == pytest.approx(0.5) and back["comparison"] == "worse"
    # One division of two sums would have said something else.
    assert speed(mine)["throughput_samples_per_s"] / speed(base)["throughput_samples_per_s"] < 1.95


def test_it_is_a_ratio_of_samples_at_each_ones_own_batching():
    mine = Raw([Block(0, index, index, np.array([0.04]), 32, 300, 300) for index in range(8)])
    base = Raw([Block(0, index, index, np.array([0.01]), 4, 40, 40) for index in range(8)])
    assert comparison(mine, base, is_baseline=False)["speedup"] == pytest.approx(2)


def test_the_same_variant_twice_is_no_difference():
    random = np.random.default_rng(0)
    one, two = (Raw([block(index, *0.01 * np.exp(random.normal(0, 0.02, 5))) for index in range(20)]) for _ in range(2))
    assert comparison(one, two, is_baseline=False)["comparison"] == "no_difference"


def test_the_baseline_is_1_and_nothing_to_compare_is_null():
    assert comparison(Raw(steady()), None, is_baseline=True) == {
        "speedup": 1.0,
        "speedup_low": 1.0,
        "speedup_high": 1.0,
        "comparison": None,
    }
    nothing = dict.fromkeys(("speedup", "speedup_low", "speedup_high", "comparison"))
    assert comparison(Raw(steady()), None, is_baseline=False) == nothing
    assert comparison(Raw(steady()), Raw(), is_baseline=False) == nothing
    assert comparison(Raw(), Raw(steady()), is_baseline=False) == nothing


# Answers


def logits_of(answered: list[int], outputs: int = 4) -> np.ndarray:
    found = np.zeros((len(answered), outputs), dtype=np.float32)
    found[np.arange(len(answered)), answered] = 1
    return found


def test_accuracy_with_its_interval():
    labels = np.array([0, 1, 2, 3, 0, 1])
    found = answers(logits_of([0, 1, 2, 3, 1, 0]), align(NEWS, NEWS), labels, NEWS, random_weights=False)
    interval = stats.wilson(4, 6)
    assert (found["examples"], found["correct"], found["accuracy"]) == (6, 4, 4 / 6)
    assert (found["accuracy_low"], found["accuracy_high"]) == (interval.low, interval.high)
    assert found["macro_f1"] == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    assert found.get("accuracy_reason") is None and found.get("index_match_rate") is None


@quick
@given(st.permutations(range(4)), st.integers(0, 100))
def test_accuracy_does_not_depend_on_the_order_of_the_outputs(order, seed):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(30, 4)).astype(np.float32), random.integers(0, 4, 30)
    plain = answers(logits, align(NEWS, NEWS), labels, NEWS, random_weights=False)
    permuted = answers(
        logits[:, list(order)], align([NEWS[index] for index in order], NEWS), labels, NEWS, random_weights=False
    )
    for key in ("correct", "accuracy", "accuracy_low", "accuracy_high", "macro_f1"):
        assert permuted[key] == plain[key]


def test_labels_that_do_not_fit_give_a_reason_and_what_indices_would_have_said():
    """The study's mistake: negative and positive against four topics."""
    labels = np.array([0, 1, 2, 3])
    alignment = align(["NEGATIVE", "POSITIVE"], NEWS)
    found = answers(logits_of([0, 1, 1, 0], 2), alignment, labels, NEWS, random_weights=False)
    assert "accuracy" not in found and "correct" not in found and "macro_f1" not in found
    assert found["accuracy_reason"].startswith("the model's labels (NEGATIVE, POSITIVE) do not fit")
    assert found["index_match_rate"] == 0.5 and found["examples"] == 4


def test_random_weights_and_unlabelled_workloads_have_no_accuracy():
    logits, labels = logits_of([0, 1]), np.array([0, 1])
    made = answers(logits, align(NEWS, NEWS), labels, NEWS, random_weights=True)
    assert "accuracy" not in made and "random" in made["accuracy_reason"]
    unlabelled = answers(logits, align(NEWS, None), None, None, random_weights=False)
    assert "accuracy" not in unlabelled and unlabelled["accuracy_reason"] == "the workload is unlabelled"
    assert unlabelled["examples"] == 2


def test_the_alignment_is_kept_as_json():
    for alignment in (align(NEWS, NEWS), align(["x", "y"], NEWS)):
        logits = logits_of([0], len(alignment.model_labels))
        found = answers(logits, alignment, np.array([0]), NEWS, random_weights=False)
        assert json.loads(json.dumps(found["labels"])) == alignment.to_json()


def test_what_answers_carry_beyond_accuracy():
    labels = np.array([0, 1, 2, 3] * 20)
    answered = [0, 1, 2, 2] * 20
    found = answers(logits_of(answered) * 3, align(NEWS, NEWS), labels, NEWS, random_weights=False)
    assert found["nll"] > 0 and 0 <= found["ece"] <= 1
    carried = found["quality"]
    assert carried["names"] == NEWS and carried["flags"] == []
    assert carried["confusion"][3] == [0, 0, 20, 0]
    assert [score["support"] for score in carried["labels"]] == [20] * 4
    assert sum(part["count"] for part in carried["calibration"]) == 80
    assert json.loads(json.dumps(carried)) == carried


def test_labels_that_cannot_be_right_are_flagged():
    labels = np.array([0, 1, 2, 3] * 50)
    turned = answers(logits_of([1, 2, 3, 0] * 50), align(NEWS, NEWS), labels, NEWS, random_weights=False)
    assert [flag["kind"] for flag in turned["quality"]["flags"]] == ["permuted", "chance"]
    # The study's own case: two outputs against four labels.
    sentiment = logits_of([0, 1, 1, 0] * 25 + [1, 0, 0, 1] * 25, 2)
    study = answers(sentiment, align(["NEGATIVE", "POSITIVE"], NEWS), labels, NEWS, random_weights=False)
    [flag] = study["quality"]["flags"]
    assert flag["kind"] == "study" and "case study's fault" in flag["sentence"]


def test_accuracy_beside_the_baselines_on_the_same_examples():
    labels = np.array([0, 1, 2, 3] * 25)
    base, mine = labels.copy(), labels.copy()
    base[:5], mine[:20] = (labels[:5] + 1) % 4, (labels[:20] + 1) % 4
    mine[0] = labels[0]
    pair = paired(logits_of(mine.tolist()), align(NEWS, NEWS), logits_of(base.tolist()), align(NEWS, NEWS), labels)
    assert pair is not None
    found, kinds = pair
    assert found.accuracy_difference == pytest.approx(-0.14)
    assert (found.examples, found.accuracy_gained, found.accuracy_lost) == (100, 1, 15)
    assert found.accuracy_difference_low < -0.14 < found.accuracy_difference_high < 0
    assert kinds == {"right_to_wrong": 15, "wrong_to_right": 1, "wrong_to_wrong": 0}
    (made,) = corrected([found])
    assert made.detectable_difference == quality.smallest_detectable(16, 100)
    other = align(["NEGATIVE", "POSITIVE"], NEWS)
    assert paired(logits_of([0], 2), other, logits_of([0]), align(NEWS, NEWS), np.array([0])) is None
    alone = align(NEWS, None)
    assert paired(logits_of([0]), alone, logits_of([0]), alone, np.array([0])) is None


def test_holm_counts_the_variants_of_an_experiment():
    def row(p: float | None, gained: int = 0, lost: int = 9) -> Difference:
        return Difference(400, 0.0, 0.0, 0.0, gained, lost, p)

    rows = corrected([row(None), row(0.01), row(0.03), row(0.04, 9, 0), row(None)])
    assert [r.accuracy_p for r in rows] == [None, 0.03, 0.06, 0.06, None]
    assert [r.accuracy_comparison for r in rows] == [None, "worse", "no_difference", "no_difference", None]
    # What would have been shown, too, is what three variants beside each other show.
    assert [r.detectable_difference for r in rows] == [
        None,
        *[pytest.approx(quality.smallest_detectable(9, 400, 3))] * 3,
        None,
    ]
    (alone,) = corrected([row(0.001, 9, 0)])
    assert alone.accuracy_comparison == "better"
    assert alone.detectable_difference == quality.smallest_detectable(9, 400)


def test_answers_that_change_with_the_batch_are_counted():
    logits = logits_of([0, 1, 2, 3])
    again = logits.copy()
    again[3] = [5, 0, 0, 0]
    found = changed(logits, again)
    assert found == {"examples": 4, "changed": 1, "largest_logit_change": 5.0}
    same = changed(logits, logits)
    assert batch_flip_rate({"batch 1": found, "padding longest": same}) == 0.25
    assert batch_flip_rate({"padding longest": same}) == 0 and batch_flip_rate(None) is None


def test_a_row_beside_its_devices_limits_takes_the_mean_shape():
    blocks = [block(0, 0.01, 0.01), block(1, 0.03)]
    found = limits_row(blocks, {"latency_p50_s": 1.0, "latency_mean_s": 2.0, "weights_bytes": 7}, "fp32", "cpu")
    assert (found.rows, found.tokens) == (4.0, 64.0) and found.latency_s == 1.0 and found.weights_bytes == 7
    mixed = [Block(0, 0, 0.0, np.array([0.01]), 8, 100, 1024), Block(0, 1, 0.0, np.array([0.01]), 8, 100, 512)]
    found = limits_row(mixed, {"latency_p50_s": 1.0, "latency_mean_s": 2.0}, "fp32", "cpu")
    assert (found.tokens, found.latency_s) == (768.0, 2.0)


# Agreement


def test_answers_have_names():
    logits = logits_of([0, 3])
    permuted = align(["Sports", "World", "Sci/Tech", "Business"], NEWS)
    assert predicted_names(logits, permuted, NEWS) == ["Sports", "Business"]
    # In the data set's own spelling, and in the model's where it is not aligned.
    assert predicted_names(logits, align(["world", "sports", "business", "sci tech"], NEWS), NEWS) == [
        "World",
        "Sci/Tech",
    ]
    assert predicted_names(logits, align(["a", "b", "c", "d"], NEWS), NEWS) == ["a", "d"]
    assert predicted_names(logits, align(NEWS, None), None) == ["World", "Sci/Tech"]


def test_only_answers_about_the_same_labels_are_compared():
    aligned, other = align(NEWS, NEWS), align(["NEGATIVE", "POSITIVE"], NEWS)
    assert comparable(aligned, align(NEWS[::-1], NEWS)) and comparable(other, other)
    assert not comparable(aligned, other) and not comparable(other, aligned)
    assert not comparable(other, align(["a", "b"], NEWS))
    assert comparable(align(NEWS, None), align(NEWS, None))
    # Answers are compared by name, so the order of the names is nothing; that of numbers is all there is.
    assert comparable(align(NEWS[::-1], None), align(NEWS, None))
    assert not comparable(align(["LABEL_1", "LABEL_0"], None), align(["LABEL_0", "LABEL_1"], None))
    assert not comparable(align(NEWS, None), align(["NEGATIVE", "POSITIVE"], None))


def test_agreement_counts_what_flipped():
    assert agreement(list("aabb"), list("aaab")) == {"agreement": 0.75, "flips": 1}
    assert agreement(list("ab"), list("ab")) == {"agreement": 1.0, "flips": 0}
    assert agreement(list("ab"), None) == {"agreement": None, "flips": None}
    with pytest.raises(ValueError):
        agreement(list("ab"), list("abc"))


# Validity


def judged(
    raw: Raw, audit: dict | None = GOOD, min_calls: int = 60, disturbed: int = 0, doubts: tuple[Doubt, ...] = ()
) -> tuple[str, str | None]:
    found = validity(raw, audit, min_calls, disturbed, doubts)
    assert set(found) == {"validity", "validity_reason", "doubts"}
    assert bool(found["doubts"]) == (found["validity"] == "unstable")
    return found["validity"], found["validity_reason"]


def test_a_steady_series_of_the_right_weights_is_valid():
    assert judged(Raw(steady(), logits_of([0, 1]))) == ("valid", None)


def test_a_deviation_is_told_without_a_doubt():
    audit = GOOD | {"deviations": ["1 threads instead of 2", "3 of 9 nodes ran on the CPU"]}
    assert judged(Raw(steady()), audit) == ("valid", "1 threads instead of 2; 3 of 9 nodes ran on the CPU")


def test_wrong_weights_make_a_row_invalid_whatever_else():
    audit = GOOD | {"wrong": ["weights in float16 where float32 was asked for"]}
    assert judged(Raw(steady(rounds=2)), audit) == ("invalid", "weights in float16 where float32 was asked for")


def test_a_configuration_that_was_not_read_back_is_invalid():
    assert judged(Raw(steady()), None) == ("invalid", "its configuration could not be read back")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_invalid(value):
    logits = logits_of([0, 1, 2])
    logits[1, 2] = value
    assert judged(Raw(steady(), logits)) == ("invalid", "1 examples gave logits that are not finite")


def test_too_few_calls_and_too_few_rounds_are_doubts():
    state, reason = judged(Raw(steady(rounds=4)))
    assert state == "unstable"
    assert reason == (
        "only 20 of 60 calls were timed before max_seconds; "
        "only 4 rounds were timed, too few to see whether it was steady"
    )
    assert judged(Raw())[0] == "unstable"


def test_what_was_seen_around_the_rounds_makes_a_row_unstable():
    others = doubt(Code.STOLEN_TIME, share=0.1)
    words = "the hypervisor gave 10% of the CPUs' time to other machines"
    assert judged(Raw(steady()), doubts=(others, others)) == ("unstable", words)


def test_a_machine_slower_than_it_was_is_noticed():
    earlier = {("fp32", 8): 0.020, ("int8", 8): 0.005, ("tiny", 8): 0.002}
    assert slowdown({key: value * 1.05 for key, value in earlier.items()}, earlier) == 1
    # One slow variant is not the machine.
    assert slowdown(earlier | {("int8", 8): 0.009}, earlier) == 1
    slowed = {("fp32", 8): 0.023, ("int8", 8): 0.0072, ("tiny", 8): 0.0025, ("new", 8): 1.0}
    assert slowdown(slowed, earlier) == pytest.approx(1.25)
    assert slowdown(slowed, {}) == 1 and slowdown({}, earlier) == 1


def test_on_a_slower_machine_less_is_shown():
    base, mine = Raw(steady(latency_s=0.010)), Raw(steady(latency_s=0.009))
    found = comparison(mine, base, is_baseline=False)
    wider = comparison(mine, base, is_baseline=False, slower=1.25)
    assert found["comparison"] == "better" and wider["comparison"] == "no_difference"
    assert wider["speedup"] == found["speedup"] and wider["speedup_low"] == pytest.approx(found["speedup_low"] / 1.25)


def test_warm_up_calls_are_not_judged():
    slow = [block(-1, 1.0, 0.5, 0.2, kind="warmup", process=process) for process in range(2)]
    assert judged(Raw([*slow, *steady()])) == ("valid", None)
    assert judged(Raw([*slow, *steady(rounds=11)]))[1].startswith("only 55 of 60 calls")


def test_a_drift_is_seen_in_the_order_of_time():
    drifting = [block(index, *[0.01 * (1 + index / 60)] * 5) for index in range(20)]
    assert "drifted" in judged(Raw(drifting))[1]
    assert "drifted" in judged(Raw(drifting[::-1]))[1]
    # Interleaved in time, the same blocks are steady.
    mixed = [
        Block(0, index, float(when), item.latencies_s, item.samples, item.tokens, item.padded_tokens)
        for index, (item, when) in enumerate(zip(drifting, np.random.default_rng(3).permutation(20), strict=True))
    ]
    assert judged(Raw(mixed)) == ("valid", None)


def test_windows_of_longer_texts_are_no_unrest():
    """Sorted by length, calls differ by right: the time per token counts."""
    long_and_short = [
        block(index, *[0.0001 * (20 + 12 * (index % 9))] * 5, padded=20 + 12 * (index % 9)) for index in range(27)
    ]
    assert judged(Raw(long_and_short)) == ("valid", None)
    same_length = [block(index, *item.latencies_s) for index, item in enumerate(long_and_short)]
    assert "spread" in judged(Raw(same_length))[1]


def test_a_tenth_of_disturbed_blocks_is_borne():
    assert judged(Raw(steady()), disturbed=2) == ("valid", None)
    assert judged(Raw(steady()), disturbed=3) == (
        "unstable",
        "3 of 20 blocks began while another worker still used the CPU",
    )


def test_stored_doubts_give_the_slower_machines_factor_back():
    slower, drift = doubt(Code.SLOWER_MACHINE, factor=1.234), doubt(Code.DRIFT, share=0.2)
    stored = [None, [drift.to_json()], [drift.to_json(), slower.to_json()]]
    assert slowdown_of(stored) == 1.234
    assert slowdown_of(stored[:2]) == 1.0


def test_sentences_of_before_doubts_were_facts_are_read_once():
    slower = doubt(Code.SLOWER_MACHINE, factor=1.23)
    text = f"only 3 of 60 calls were timed; {slower.words}; and more"
    facts = fact_columns("unstable", text, None)
    assert slowdown_of([facts["doubts"]]) == 1.23
    assert in_words(of_json(facts["doubts"])) == [slower.words, "only 3 of 60 calls were timed; and more"]
    drifted = "latency drifted by +20% from the first third of the rounds to the last"
    assert in_words(of_json(fact_columns("unstable", drifted, None)["doubts"])) == [drifted]
    assert fact_columns("valid", "3 of 9 nodes ran on the CPU", None) == {"doubts": None, "random_weights": None}
    assert fact_columns("valid", None, RANDOM_WEIGHTS)["random_weights"] is True
