"""Statistics of answers against scipy, statsmodels, scikit-learn, arithmetic written out, and simulated experiments."""

from __future__ import annotations

import math
from functools import cache
from timeit import repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics
from sklearn.calibration import calibration_curve
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from engine.measurement import stats
from engine.measurement.gate import CONSTANT_SHARE, label_gate, study_fault
from engine.measurement.labels import align
from engine.measurement.quality import (
    BINS,
    LEVEL,
    Paired,
    calibration,
    compare,
    confusion,
    flips,
    holm,
    label_scores,
    mcnemar,
    nll,
    paired_interval,
    smallest_detectable,
    verdict,
)

NEWS = ["World", "Sports", "Business", "Sci/Tech"]
quick = settings(deadline=None, max_examples=60)
interval_of = cache(paired_interval)
answer_pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300)
few = st.integers(0, 40)
counts = st.tuples(few, few, st.integers(1, 4000)).map(lambda case: (case[0], case[1], sum(case)))


def columns(answers: list[tuple[bool, bool]]) -> tuple[np.ndarray, np.ndarray]:
    mine, theirs = (np.array(column) for column in zip(*answers, strict=True))
    return mine, theirs


def shows(gained: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Where exact McNemar shows a difference at 5%, as bool: the doubled binomial tail."""
    return 2 * scipy_stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5) < 0.05


# Two variants on the same examples


@quick
@given(answer_pairs)
def test_a_pair_holds_what_the_answers_say(answers):
    mine, theirs = columns(answers)
    found = compare(mine, theirs)
    assert found.difference == pytest.approx(mine.mean() - theirs.mean())
    assert found.gained == sum(a and not b for a, b in answers) and found.lost == sum(b and not a for a, b in answers)
    assert -1 <= found.low <= found.difference <= found.high <= 1 and found.low < found.high
    assert (found.low, found.high) == paired_interval(found.gained, found.lost, len(answers))


@quick
@given(answer_pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(answers, random):
    assert compare(*columns(answers)) == compare(*columns(random.sample(answers, len(answers))))


@quick
@given(answer_pairs)
def test_swapping_the_two_turns_the_difference_round(answers):
    mine, theirs = columns(answers)
    there, back = compare(mine, theirs), compare(theirs, mine)
    assert back == Paired(-there.difference, -there.high, -there.low, there.lost, there.gained, there.p)


@pytest.mark.parametrize(("mine", "theirs"), [(0, 0), (3, 2), (0, 1)])
def test_answers_that_cannot_be_paired(mine, theirs):
    with pytest.raises(ValueError, match=f"{mine} and {theirs} answers cannot be paired"):
        compare(np.ones(mine, bool), np.ones(theirs, bool))


@quick
@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_statsmodels(gained, lost):
    expected = statsmodels_mcnemar([[50, lost], [gained, 7]], exact=True).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_known_cases():
    assert mcnemar(0, 0) == mcnemar(1, 0) == mcnemar(4, 4) == 1
    assert mcnemar(5, 0) == 0.0625 and mcnemar(0, 6) == 0.03125
    # Ten to the power of -100 and below: still a number.
    assert 0 <= mcnemar(4000, 1000) < 1e-100


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_statsmodels(p):
    found = holm({str(i): value for i, value in enumerate(p)})
    assert list(found) == [str(i) for i in np.argsort(p, kind="stable")]
    assert [found[str(i)] for i in range(len(p))] == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}


def test_verdicts():
    def of(gained: int, lost: int, corrected: float) -> str:
        return verdict(gained, lost, corrected)

    assert of(9, 1, 0.049) == "better" and of(1, 9, 0.049) == "worse"
    assert of(9, 1, LEVEL) == of(1, 9, 0.2) == of(4, 4, 0.0) == "no_difference"


def test_the_distribution_is_that_of_drawn_resamples():
    random = np.random.default_rng(0)
    for gained, lost, n in [(3, 12, 400), (0, 0, 80), (1, 0, 80), (60, 20, 1000), (400, 0, 400), (5, 7, 12)]:
        steps = np.array([gained + 1, lost + 1, n - gained - lost]) / (n + 2)
        drawn = random.multinomial(n, steps, 200_000) @ [1, -1, 0]
        low, high = (value * n for value in paired_interval(gained, lost, n))
        # Of a step to either side: quantiles of what was drawn carry noise of their own.
        assert np.mean(drawn < low) < 0.026 and np.mean(drawn <= low) > 0.024
        assert np.mean(drawn > high) < 0.026 and np.mean(drawn >= high) > 0.024


@quick
@given(counts)
def test_limits_are_shares_that_n_examples_can_differ_by(case):
    gained, lost, n = case
    low, high = paired_interval(gained, lost, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1 and low < high
    assert (low * n, high * n) == pytest.approx((round(low * n), round(high * n)))
    assert paired_interval(lost, gained, n) == (-high, -low)


def test_no_discordant_pair_is_no_certainty():
    # The rule of three excludes more than 3 / n one way; the interval is as wide.
    for n in (80, 400, 3800):
        low, high = paired_interval(0, 0, n)
        assert low == -high and 2.5 / n < high <= 3.7 / n
    assert paired_interval(0, 0, 1) == (-1, 1)


def experiments(n: int, discordant: float, direction: float, count: int) -> np.ndarray:
    """Gained and lost of simulated comparisons: int64 [count, 2]; the true difference is direction * discordant."""
    random = np.random.default_rng(round(n * discordant * 1000 + 10 * direction))
    up = discordant * (1 + direction) / 2
    return random.multinomial(n, [up, discordant - up, 1 - discordant], count)[:, :2]


@pytest.mark.parametrize("direction", [0.0, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("discordant", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("n", [80, 400, 3800])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(n, discordant, direction):
    found = experiments(n, discordant, direction, 2000)
    limits = np.array([interval_of(gained, lost, n) for gained, lost in found.tolist()])
    true = direction * discordant
    covered = np.mean((limits[:, 0] <= true + 1e-9) & (true - 1e-9 <= limits[:, 1]))
    # Few pairs can differ in few ways, each of which is covered or not: that alone makes steps of some points.
    many = n * discordant >= 19
    assert 0.94 <= covered <= 0.98 if many else covered >= 0.93
    excludes = (limits[:, 0] > 0) | (limits[:, 1] < 0)
    shown = shows(found[:, 0], found[:, 1])
    # McNemar never shows what the interval leaves open; the other way round it happens at the margin.
    assert not np.any(shown & ~excludes)
    assert np.mean(excludes & ~shown) <= 0.03


def test_the_plain_bootstrap_would_not_do():
    """What the pair more each way is for: resampling what was seen misses a difference that few pairs show."""
    random = np.random.default_rng(0)

    def plain(gained: int, lost: int, n: int) -> np.ndarray:
        steps = np.array([gained, lost, n - gained - lost]) / n
        return np.quantile(random.multinomial(n, steps, 5000) @ [1, -1, 0], [0.025, 0.975]) / n

    assert plain(0, 0, 80).tolist() == [0, 0]
    for n, discordant in [(80, 0.02), (400, 0.005)]:
        found = experiments(n, discordant, 0.6, 1000)
        limits = {pair: plain(*pair, n) for pair in {tuple(row) for row in found.tolist()}}
        low, high = np.array([limits[tuple(row)] for row in found.tolist()]).T
        assert np.mean((low <= 0.6 * discordant) & (0.6 * discordant <= high)) < 0.85


@pytest.mark.parametrize("concordant", [1, 3, 100, 7000])
def test_the_interval_excludes_0_where_mcnemar_shows_a_difference(concordant):
    for pairs in range(6, 90):
        # The least lopsided split that McNemar calls a difference, and its neighbour.
        lost = int(scipy_stats.binom.ppf(0.025, pairs, 0.5)) - 1
        assert mcnemar(pairs - lost, lost) < 0.05 <= mcnemar(pairs - lost - 1, lost + 1)
        assert paired_interval(pairs - lost, lost, pairs + concordant)[0] > 0
        # The other way round the two part at the margin alone.
        if concordant >= 100 and mcnemar(pairs - lost - 1, lost + 1) > 0.06:
            assert paired_interval(pairs - lost - 1, lost + 1, pairs + concordant)[0] <= 0


def test_variants_that_are_the_same_are_seldom_called_different():
    """Five variants, each with its own chance flips: any verdict at all is an error."""
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        found = random.multinomial(1000, [0.03, 0.03, 0.94], 5)[:, :2].tolist()
        pairs = {str(i): Paired(0, 0, 0, *row, mcnemar(*row)) for i, row in enumerate(found)}
        corrected = holm({name: pair.p for name, pair in pairs.items()})
        verdicts = [verdict(pair.gained, pair.lost, corrected[name]) for name, pair in pairs.items()]
        wrong += any(found != "no_difference" for found in verdicts)
    assert 0 < wrong / 400 <= 0.06


# What could have been seen


def power(n: int, discordant: float, difference: float, family: int = 1) -> float:
    """How often n examples show `difference`: of `family` comparisons, all others of which show nothing."""
    random = np.random.default_rng(round(1e6 * difference) + n)
    up = max(0.0, (discordant + difference) / 2)
    drawn = random.multinomial(n, [up, max(0.0, discordant - up), 1 - max(discordant, difference)], 40_000)
    if family == 1:
        return float(shows(drawn[:, 0], drawn[:, 1]).mean())
    tails = 2 * scipy_stats.binom.cdf(drawn[:, :2].min(axis=1), drawn[:, :2].sum(axis=1), 0.5)
    others = {f"other {index}": 1.0 for index in range(family - 1)}
    values, counts = np.unique(np.minimum(tails, 1.0), return_counts=True)
    shown = [holm({"this": float(p), **others})["this"] < 0.05 for p in values]
    return float(counts @ np.array(shown) / counts.sum())


@pytest.mark.parametrize(
    ("discordant", "n"),
    [(9, 80), (30, 80), (80, 80), (12, 400), (40, 400), (38, 3800), (380, 3800), (60, 7600), (7600, 7600)],
)
def test_four_in_five_such_differences_would_have_been_shown(discordant, n):
    found = smallest_detectable(discordant, n)
    assert 0 < found <= discordant / n
    # Standard error of 40,000 draws: 0.002.
    assert power(n, discordant / n, found) == pytest.approx(0.8, abs=0.008)
    assert power(n, discordant / n, 0.9 * found) < 0.74
    assert power(n, discordant / n, min(1.1 * found, discordant / n)) > 0.8


@pytest.mark.parametrize("family", [2, 4, 11])
@pytest.mark.parametrize(("discordant", "n"), [(30, 80), (40, 400), (380, 3800)])
def test_beside_other_variants_a_difference_must_pass_holm(discordant, n, family):
    found = smallest_detectable(discordant, n, family)
    assert found > smallest_detectable(discordant, n)
    assert power(n, discordant / n, found, family) == pytest.approx(0.8, abs=0.008)
    assert power(n, discordant / n, smallest_detectable(discordant, n), family) < 0.75


def test_of_four_variants_eight_pairs_one_way_are_the_fewest():
    assert scipy_stats.binom.sf(7, 400, smallest_detectable(0, 400, 4)) == pytest.approx(0.8)
    assert smallest_detectable(7, 7, 4) is None and smallest_detectable(8, 8, 4) is not None
    with pytest.raises(ValueError, match="a family of 0"):
        smallest_detectable(0, 80, 0)


@pytest.mark.parametrize("n", [6, 80, 400, 7600])
def test_few_discordant_pairs_leave_what_so_many_examples_could_show_at_all(n):
    """Six pairs one way are the fewest that McNemar calls a difference: they must occur four times in five."""
    found = smallest_detectable(0, n)
    assert scipy_stats.binom.sf(5, n, found) == pytest.approx(0.8)
    assert power(n, found, found) == pytest.approx(0.8, abs=0.008)
    assert power(n, 0.9 * found, 0.9 * found) < 0.74
    # The upper limit of no discordant pair at all is too small to matter, and so are a few that were seen.
    if n > 6:
        assert found > 1 - 0.05 ** (1 / n) and smallest_detectable(5, n) == found
    assert smallest_detectable(5, 6) >= smallest_detectable(0, 6)


def test_more_noise_hides_more_and_more_examples_show_more():
    for n in (80, 3800):
        found = [smallest_detectable(discordant, n) for discordant in range(0, n + 1, n // 20)]
        assert found == sorted(found) and found[-1] > 2 * found[0]
    found = [smallest_detectable(n // 20, n) for n in (40, 80, 400, 3800, 7600)]
    assert found == sorted(found, reverse=True)


def test_five_examples_can_show_nothing():
    assert [smallest_detectable(n, n) for n in (0, 1, 5)] == [None, None, None]
    for discordant, n in [(-1, 80), (81, 80)]:
        with pytest.raises(ValueError, match=f"{discordant} of {n} examples cannot be discordant"):
            smallest_detectable(discordant, n)


def test_the_smallest_difference_is_found_at_once():
    assert min(repeat(lambda: smallest_detectable.__wrapped__(700, 7600), number=1, repeat=5)) < 0.02


# Flips

three = st.integers(0, 2)
answered = st.lists(st.tuples(three, three, three), min_size=1, max_size=80).map(lambda rows: np.array(rows).T)


def test_flips_by_hand():
    labels, baseline = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 0, 1, 2, 0])
    found = flips(np.array([0, 1, 1, 1, 0, 2, 0]), baseline, labels, 3)
    assert (found.changed, found.right_to_wrong, found.wrong_to_right, found.wrong_to_wrong) == (3, 1, 1, 1)
    assert found.index.tolist() == [1, 3, 4] and found.index.dtype == np.int64
    # Row: the baseline's answer; column: its own.
    assert found.matrix.tolist() == [[2, 2, 0], [1, 1, 0], [0, 0, 1]]


@quick
@given(answered)
def test_flips_are_what_differs_and_what_accuracy_pairs(case):
    labels, baseline, answers = case
    found = flips(answers, baseline, labels, 3)
    assert found.right_to_wrong + found.wrong_to_right + found.wrong_to_wrong == found.changed == len(found.index)
    assert found.matrix.sum() == len(labels) and found.matrix.sum() - np.trace(found.matrix) == found.changed
    assert all((answers[i] != baseline[i]) == (i in found.index) for i in range(len(labels)))
    pair = compare(answers == labels, baseline == labels)
    assert (pair.gained, pair.lost) == (found.wrong_to_right, found.right_to_wrong)
    back = flips(baseline, answers, labels, 3)
    assert (back.right_to_wrong, back.wrong_to_right) == (found.wrong_to_right, found.right_to_wrong)
    assert (back.matrix == found.matrix.T).all()


def test_flips_of_unlabelled_text_are_neither_right_nor_wrong():
    found = flips(np.array([0, 1]), np.array([1, 1]), None, 2)
    assert (found.changed, found.right_to_wrong, found.wrong_to_right, found.wrong_to_wrong) == (1, None, None, None)
    assert found.matrix.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(("answers", "baseline", "labels"), [(0, 0, 0), (2, 3, 3), (3, 3, 2)])
def test_flips_need_as_many_of_each(answers, baseline, labels):
    with pytest.raises(ValueError):
        flips(*(np.zeros(n, dtype=np.int64) for n in (answers, baseline, labels)), 2)


# Label by label


@quick
@given(answered)
def test_confusion_counts_label_by_answer(case):
    labels, predicted, _ = case
    expected = np.zeros((4, 4), dtype=np.int64)
    np.add.at(expected, (labels, predicted), 1)
    found = confusion(labels, predicted, 4)
    assert found.dtype == np.int64 and (found == expected).all()


@pytest.mark.parametrize(("labels", "predicted"), [([], []), ([0, 4], [0, 1]), ([0, 1], [0, -1]), ([0, 1], [0])])
def test_what_no_matrix_holds_is_refused(labels, predicted):
    """scikit-learn would leave such answers out without a word."""
    with pytest.raises(ValueError):
        confusion(np.array(labels, dtype=np.int64), np.array(predicted, dtype=np.int64), 4)


@quick
@given(answered)
def test_scores_are_shares_of_rows_and_columns(case):
    labels, predicted, _ = case
    matrix = confusion(labels, predicted, 4)
    found = label_scores(labels, predicted, 4)
    for i, score in enumerate(found):
        hit, answers, examples = matrix[i, i], matrix[:, i].sum(), matrix[i].sum()
        assert score.precision == (pytest.approx(hit / answers) if answers else None)
        assert score.recall == (pytest.approx(hit / examples) if examples else None)
        assert score.f1 == (pytest.approx(2 * hit / (answers + examples)) if answers + examples else 0)
        assert score.support == examples
    assert np.mean([score.f1 for score in found]) == pytest.approx(stats.macro_f1(labels, predicted, 4))
    expected = metrics.precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    assert [score.f1 for score in found] == pytest.approx(expected[2])


# Probabilities


def model(n: int, outputs: int, scale: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (n, outputs)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits.astype(np.float64))
    return odds / odds.sum(axis=1, keepdims=True)


def drawn_labels(probabilities: np.ndarray, seed: int) -> np.ndarray:
    """Labels that come true as often as `probabilities` [n, labels] say."""
    random = np.random.default_rng(seed)
    return (probabilities.cumsum(axis=1) > random.random((len(probabilities), 1))).argmax(axis=1)


@quick
@given(st.integers(1, 60), st.permutations(range(4)), st.floats(0.1, 5), st.integers(0, 1000))
def test_nll_is_log_loss(n, mapping, scale, seed):
    logits = model(n, 4, scale, seed)
    labels = np.random.default_rng(seed).integers(0, 4, n)
    by_label = softmax(logits)[:, np.argsort(mapping)]
    expected = metrics.log_loss(labels, by_label, labels=range(4))
    assert nll(logits, mapping, labels) == pytest.approx(expected)
    # A constant added to all outputs changes no probability, the order of the examples no mean.
    order = np.random.default_rng(seed).permutation(n)
    assert nll(logits + 3, mapping, labels) == pytest.approx(expected, rel=1e-4)
    assert nll(logits[order], mapping, labels[order]) == pytest.approx(expected)


def test_outputs_that_mean_one_label_add_up():
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.1, 0.2, 0.7]], dtype=np.float32))
    found = nll(logits, [1, 0, 1], np.array([1, 0]))
    assert found == pytest.approx(-(math.log(0.7) + math.log(0.2)) / 2, rel=1e-6)


def test_nll_of_extreme_logits_is_a_number():
    logits = np.array([[0, 10_000], [3e38, -3e38]], dtype=np.float32)
    assert nll(logits, [0, 1], np.array([1, 0])) == 0
    assert nll(logits[:1], [0, 1], np.array([0])) == 10_000
    assert nll(np.zeros((5, 4), np.float32), [0, 1, 2, 3], np.zeros(5, np.int64)) == pytest.approx(math.log(4))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_have_no_likelihood(bad):
    logits = np.array([[0, 1], [bad, 1]], dtype=np.float32)
    assert nll(logits, [0, 1], np.array([0, 1])) is None
    assert calibration(logits, [0, 1], np.array([0, 1])) is None


@pytest.mark.filterwarnings("error")
def test_a_label_that_no_output_means_has_no_likelihood():
    assert nll(np.zeros((2, 2), np.float32), [0, 1], np.array([0, 2])) is None
    assert nll(np.zeros((2, 2), np.float32), [0, 1], np.array([0, 1])) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("shape", "labels"), [((0, 2), 0), ((3, 2), 2), ((3, 3), 3)])
def test_logits_of_another_shape_are_refused(shape, labels):
    for function in (nll, calibration):
        with pytest.raises(ValueError, match="do not fit"):
            function(np.zeros(shape, np.float32), [0, 1], np.zeros(labels, np.int64))


def ece_by_hand(confidence: np.ndarray, right: np.ndarray) -> float:
    found = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            found += inside.sum() / len(right) * abs(confidence[inside].mean() - right[inside].mean())
    return found


@quick
@given(st.integers(1, 200), st.permutations(range(3)), st.floats(0.1, 5), st.integers(0, 1000))
def test_ece_is_the_mean_distance_of_the_bins(n, mapping, scale, seed):
    logits = model(n, 3, scale, seed)
    labels = np.random.default_rng(seed).integers(0, 3, n)
    found = calibration(logits, mapping, labels)
    confidence = softmax(logits).max(axis=1)
    right = np.array(mapping)[logits.argmax(axis=1)] == labels
    assert found.ece == pytest.approx(ece_by_hand(confidence, right)) and 0 <= found.ece <= 1
    full = [part for part in found.bins if part.count]
    assert len(found.bins) == BINS == 15 and sum(part.count for part in full) == n
    accuracy, sure = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    assert [part.accuracy for part in full] == pytest.approx(accuracy)
    assert [part.confidence for part in full] == pytest.approx(sure)
    assert all(part.accuracy is part.confidence is None for part in found.bins if not part.count)


def test_ece_of_a_model_that_is_too_sure():
    logits = np.tile(np.log(np.array([0.9, 0.1], dtype=np.float32)), (100, 1))
    found = calibration(logits, [1, 0], np.array([1] * 60 + [0] * 40))
    assert found.ece == pytest.approx(0.3, abs=1e-6)
    assert found.bins[13].count == 100 and found.bins[13].accuracy == 0.6
    # Certainty lies in the last bin, and is right.
    sure = calibration(np.array([[90, 0], [0, 90]], dtype=np.float32), [0, 1], np.array([0, 1]))
    assert sure.ece == pytest.approx(0) and sure.bins[14].count == 2


def test_confidence_is_that_of_the_answer_that_accuracy_counts():
    # The largest output means label 0, though label 1's two outputs together are likelier.
    logits = np.log(np.array([[0.4, 0.3, 0.3]], dtype=np.float32))
    found = calibration(logits, [0, 1, 1], np.array([0]))
    assert found.ece == pytest.approx(0.6, abs=1e-6)
    # Where the largest output has a twin, its label is as likely as both.
    assert calibration(logits, [1, 1, 0], np.array([1])).ece == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(("n", "shown"), [(80, 0.105), (400, 0.048), (3800, 0.015)])
def test_a_calibrated_model_shows_the_ece_that_the_docstring_warns_of(n, shown):
    found = []
    for seed in range(60):
        logits = model(n, 4, 3, seed)
        found.append(calibration(logits, [0, 1, 2, 3], drawn_labels(softmax(logits), seed)).ece)
    assert np.mean(found) == pytest.approx(shown, rel=0.08)


# Whether the labels can be right


def kinds(labels: np.ndarray, predicted: np.ndarray, count: int) -> list[str]:
    return [flag.kind for flag in label_gate(labels, predicted, [f"label {i}" for i in range(count)])]


def answers_of(labels: np.ndarray, count: int, accuracy: float, random: np.random.Generator) -> np.ndarray:
    """Answers that are right with `accuracy`, else any other label."""
    other = (labels + random.integers(1, count, len(labels))) % count
    return np.where(random.random(len(labels)) < accuracy, labels, other)


def flagged(count: int, n: int, kind: str, share: list[float], answer, times: int = 150) -> float:
    """How often `answer(labels, random)` is flagged as `kind`, with labels in these shares."""
    random = np.random.default_rng(count * n)
    found = 0
    for _ in range(times):
        labels = random.choice(count, n, p=share)
        found += kind in kinds(labels, answer(labels, random), count)
    return found / times


SIZES = [(2, 80), (2, 400), (4, 80), (4, 400)]


@pytest.mark.parametrize(("count", "n"), SIZES)
def test_random_answers_are_called_chance_and_nothing_worse(count, n):
    even = [1 / count] * count

    def guess(labels, random):
        return random.integers(0, count, len(labels))

    assert flagged(count, n, "chance", even, guess) >= 0.94
    assert flagged(count, n, "permuted", even, guess) == flagged(count, n, "constant", even, guess) == 0


@pytest.mark.parametrize(("count", "n"), SIZES)
def test_honest_answers_are_not_flagged(count, n):
    even, uneven = [1 / count] * count, [0.6] + [0.4 / (count - 1)] * (count - 1)
    random = np.random.default_rng(n)
    for share in (even, uneven):
        for _ in range(100):
            labels = random.choice(count, n, p=share)
            assert kinds(labels, answers_of(labels, count, 0.9, random), count) == []


@pytest.mark.parametrize(("count", "n"), SIZES)
@pytest.mark.parametrize("weakness", ["often wrong", "favours a label", "knows one label", "nearly constant"])
@pytest.mark.parametrize("even", [True, False])
def test_a_weak_model_is_not_called_permuted(count, n, weakness, even):
    share = [1 / count] * count if even else [0.6] + [0.4 / (count - 1)] * (count - 1)

    def weak(labels, random):
        right = answers_of(labels, count, 1 / count + 0.15, random)
        if weakness == "favours a label":
            return np.where(random.random(len(labels)) < 0.3, labels, count - 1)
        if weakness == "knows one label":
            return np.where(labels == 0, 0, random.integers(0, count, len(labels)))
        if weakness == "nearly constant":
            return np.where(random.random(len(labels)) < 0.96, count - 1, right)
        return right

    assert flagged(count, n, "permuted", share, weak, times=60) == 0


@pytest.mark.parametrize(("count", "n"), SIZES)
def test_permuted_labels_are_found(count, n):
    def permuted(labels, random):
        return (answers_of(labels, count, 0.9, random) + 1) % count

    assert flagged(count, n, "permuted", [1 / count] * count, permuted, times=60) >= 0.95


@pytest.mark.parametrize("count", [2, 4])
def test_truly_rare_labels_need_not_be_answered_often(count):
    """A label of one example in 150, found half the time: few answers, and no constant."""
    random = np.random.default_rng(0)
    labels = np.where(random.random(6000) < 1 / 150, random.integers(1, count, 6000), 0)
    predicted = np.where(random.random(6000) < 0.5, labels, 0)
    assert np.mean(predicted == 0) > CONSTANT_SHARE
    assert "constant" not in kinds(labels, predicted, count)
    assert "constant" in kinds(labels, np.where(np.arange(6000) < 2, 1, 0), count)


def test_the_sentence_of_chance_names_both_rates():
    labels = np.repeat([0, 1, 2, 3], [23, 19, 19, 19])
    predicted = np.where(np.arange(80) % 3 == 0, labels, (labels + 1) % 4)
    (flag,) = label_gate(labels, predicted, NEWS)[-1:]
    assert flag.kind == "chance"
    assert flag.sentence == (
        "33.8% right (27 of 80) is not shown to be above always answering 'World', which is right in 28.7% (23 of 80)"
    )
    assert flag.figures["p"] == pytest.approx(scipy_stats.binomtest(27, 80, 23 / 80, alternative="greater").pvalue)
    assert flag.figures["p"] >= 0.05
    # With more of the same it is shown.
    assert "chance" not in [flag.kind for flag in label_gate(np.tile(labels, 20), np.tile(predicted, 20), NEWS)]


def test_the_sentence_of_permuted_labels_names_them():
    labels = np.tile([0, 1, 2, 3], 100)
    right = np.where(np.arange(400) % 10 == 0, (labels + 1) % 4, labels)
    (flag,) = label_gate(labels, np.array([0, 2, 1, 3])[right], NEWS)
    assert flag.kind == "permuted"
    assert flag.sentence == (
        "the labels look permuted: its 'Sports' looks like 'Business', its 'Business' looks like 'Sports'; renamed so, "
        "90.0% of 400 answers would be right instead of 45.0%; if that is so, declare `labels` on the variant"
    )
    # A cycle of three: the direction is that of the answers.
    (flag, *_) = label_gate(labels, np.array([1, 2, 0, 3])[labels], NEWS)
    assert "'Sports' looks like 'World', its 'Business' looks like 'Sports', its 'World'" not in flag.sentence
    assert "its 'World' looks like 'Business', its 'Sports' looks like 'World', its 'Business' looks" in flag.sentence
    assert flag.figures["accuracy"] == 0.25 and flag.figures["accuracy_renamed"] == 1


def test_renaming_must_gain_ten_points_and_be_beyond_doubt():
    # 6 points of 4,000 are certain, and no permutation; 45 points of 20 are one that chance alone could make.
    labels = np.tile([0, 1], 2000)
    slightly_below = np.where(np.arange(4000) % 100 < 53, 1 - labels, labels)
    assert mcnemar(2120, 1880) < 0.001 and kinds(labels, slightly_below, 2) == ["chance"]
    labels = np.tile([0, 1], 10)
    assert kinds(labels, np.where(np.arange(20) < 15, 1 - labels, labels), 2) == ["chance"]
    # Far above chance under either naming: 26 of 40 examples are no proof that two of four names are swapped.
    labels = np.tile([0, 1, 2, 3], 20)
    swapped = np.where(np.isin(np.arange(80) // 4, np.arange(13)), np.array([0, 1, 3, 2])[labels], labels)
    assert mcnemar(26, 14) > 0.05 and kinds(labels, swapped, 4) == []
    assert kinds(np.tile(labels, 50), np.tile(swapped, 50), 4) == ["permuted"]


def test_labels_that_are_never_answered_are_not_renamed():
    labels = np.repeat([0, 1, 2, 3], 50)
    # It never says Sci/Tech, and calls World Sports and Sports World.
    (flag,) = [flag for flag in label_gate(labels, np.array([1, 0, 2, 2])[labels], NEWS) if flag.kind == "permuted"]
    assert "Sci/Tech" not in flag.sentence and "Business" not in flag.sentence
    assert flag.figures["accuracy_renamed"] == 0.75
    # It never says Business, whose place another took: nothing is known of what its Business looks like.
    (flag, *_) = label_gate(labels, np.array([3, 0, 1, 3])[labels], NEWS)
    assert "its 'World' looks like 'Sports', its 'Sports' looks like 'Business'; renamed so" in flag.sentence


def test_as_few_names_as_possible_are_called_permuted():
    # World and Sci/Tech trade places at no gain: such an assignment is as good, and says too much.
    matrix = 4 * np.array([[20, 20, 20, 20], [0, 40, 40, 0], [0, 40, 0, 40], [40, 0, 0, 40]])
    labels, predicted = (np.repeat(index.ravel(), matrix.ravel()) for index in np.indices((4, 4)))
    (flag,) = label_gate(labels, predicted, NEWS)
    assert "its 'Sports' looks like 'Business', its 'Business' looks like 'Sports'; renamed so" in flag.sentence
    assert "'World'" not in flag.sentence and "'Sci/Tech'" not in flag.sentence


def test_many_labels_neither_overflow_nor_fill_the_page():
    """170! is the last factorial that fits a float."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 300, 6000)
    assert kinds(labels, answers_of(labels, 300, 0.9, random), 300) == []
    (flag, *_) = label_gate(labels, (labels + 1) % 300, [f"label {i}" for i in range(300)])
    assert flag.kind == "permuted" and flag.sentence.count("looks like") == 6
    assert "and so on for 294 more" in flag.sentence and math.isfinite(flag.figures["log_p"])


def test_the_p_of_a_permutation_is_mcnemars():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 100)
    predicted = 1 - answers_of(labels, 2, 0.85, random)
    (flag,) = [flag for flag in label_gate(labels, predicted, ["a", "b"]) if flag.kind == "permuted"]
    wrong = int((predicted != labels).sum())
    commonest = np.bincount(labels).max() / 100
    above = scipy_stats.binomtest(wrong, 100, commonest, alternative="greater").pvalue
    expected = 2 * max(mcnemar(wrong, 100 - wrong), above)
    assert math.exp(flag.figures["log_p"]) == pytest.approx(expected)


def test_a_constant_is_named():
    labels = np.repeat([0, 1, 2, 3], [10, 50, 10, 10])
    found = label_gate(labels, np.zeros(80, np.int64), NEWS)
    # Calling it Sports would gain fifty points: that is no permutation.
    assert [flag.kind for flag in found] == ["constant", "chance"]
    assert found[0].sentence == "all 80 answers are 'World', although 70 examples (87.5%) have another label"
    labels = np.tile(labels, 10)
    predicted = np.where(np.arange(800) < 8, 1, 0)
    assert label_gate(labels, predicted, NEWS)[0].sentence == (
        "792 of 800 answers (99.0%) are 'World', although 700 examples (87.5%) have another label"
    )
    assert "constant" not in kinds(labels, np.where(np.arange(800) < 9, 1, 0), 4)


def test_labels_that_do_not_vary_may_be_answered_alike():
    assert kinds(np.zeros(80, np.int64), np.zeros(80, np.int64), 2) == ["chance"]


def test_there_is_no_gate_without_answers():
    with pytest.raises(ValueError):
        label_gate(np.empty(0, np.int64), np.empty(0, np.int64), NEWS)


@quick
@given(answered, st.randoms(use_true_random=False))
def test_flags_do_not_depend_on_the_order_of_the_examples(case, random):
    labels, predicted, _ = case
    order = random.sample(range(len(labels)), len(labels))
    assert label_gate(labels, predicted, NEWS) == label_gate(labels[order], predicted[order], NEWS)


# The study's fault

SENTIMENT = align(["NEGATIVE", "POSITIVE"], NEWS)


def logits_for(answers: np.ndarray, outputs: int) -> np.ndarray:
    return np.eye(outputs, dtype=np.float32)[answers]


def test_the_studys_own_number_is_its_fault():
    labels = np.repeat([0, 1, 2, 3], 20)
    # 26 of 80 answers have the label's index: 13 of World's 20 examples, 13 of Sports'.
    answers = np.concatenate([np.arange(20) >= 13, np.arange(20) < 13, np.ones(20), np.zeros(20)]).astype(np.int64)
    assert study_fault(logits_for(answers, 2), labels, SENTIMENT, 4) == (
        "comparing index with index (2 outputs of the model, 4 labels of the data set) would have reported 32.5% "
        "(26 of 80), which is within chance (25.0%): this is the case study's fault, where two labels were compared "
        "with four"
    )


@pytest.mark.parametrize(("right", "match"), [(40, "50.0% (40 of 80)"), (0, "0.0% (0 of 80)")])
def test_two_outputs_against_four_labels_are_the_fault_whatever_they_match_in(right, match):
    """A model that tells World from Sports, and one that takes each for the other."""
    labels = np.repeat([0, 1, 2, 3], 20)
    answers = np.where(labels < 2, labels if right else 1 - labels, labels % 2)
    assert study_fault(logits_for(answers, 2), labels, SENTIMENT, 4) == (
        f"comparing index with index (2 outputs of the model, 4 labels of the data set) would have reported {match}, "
        "where chance would give 25.0%: this is the case study's fault, where two labels were compared with four"
    )


def test_labels_that_are_aligned_have_no_such_fault():
    labels = np.repeat([0, 1, 2, 3], 20)
    logits = logits_for(np.zeros(80, np.int64), 4)
    assert study_fault(logits, labels, align(NEWS, NEWS), 4) is None
    assert study_fault(logits, labels, align(["a", "b", "c", "d"], NEWS), 4) is not None


@pytest.mark.parametrize("n", [80, 400])
def test_indices_that_do_match_are_not_called_chance(n):
    labels = np.random.default_rng(0).integers(0, 4, n)
    unnamed = align(["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"], NEWS)
    assert unnamed.mapping is None
    for answers in (labels, (labels + 1) % 4):
        assert study_fault(logits_for(answers, 4), labels, unnamed, 4) is None


@pytest.mark.parametrize("n", [80, 400])
@pytest.mark.parametrize("tilt", [0.5, 0.9])
def test_unrelated_answers_match_as_chance_has_it(n, tilt):
    """Chance is that of these answers and these labels, not one in four."""
    random = np.random.default_rng(n)
    found = 0
    for _ in range(200):
        labels = random.choice(4, n, p=[0.7, 0.1, 0.1, 0.1])
        answers = (random.random(n) > tilt).astype(np.int64)
        found += "within chance" not in study_fault(logits_for(answers, 2), labels, SENTIMENT, 4)
    assert found / 200 <= 0.06
