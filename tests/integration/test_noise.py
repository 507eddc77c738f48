"""A checkpoint beside copies of it with noise in their weights: what is shown, and what could have been."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from engine.artefacts.preparer import Preparer
from engine.suite.reading import load_suite

pytestmark = pytest.mark.second_tier

TRAIN = Path(__file__).resolve().parents[2] / "data" / "news" / "train.csv"
TINY = {"model_type": "distilbert", "dim": 64, "hidden_dim": 128, "n_layers": 1, "n_heads": 2}
EXAMPLES = 400
NOISE = {"slight": 0.01, "spoilt": 1.5}
"""Standard deviation of what is added to a weight, in those of its tensor."""


def noisy(source: Path, target: Path, deviations: float) -> Path:
    shutil.copytree(source, target)
    random = np.random.default_rng(0)
    tensors = {
        name: (values + random.normal(0, deviations * values.std(), values.shape)).astype(values.dtype)
        for name, values in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def runs(write_suite, measure, tmp_path_factory):
    """Two runs: of the checkpoint and both copies, and of the checkpoint and the spoilt one in place of the other."""
    folder = tmp_path_factory.mktemp("noise")
    checkpoint = {
        "name": "taught",
        "architecture": TINY,
        "dataset": TRAIN,
        "examples": 512,
        "max_length": 32,
        "batch_size": 16,
        "tokenizer": {"vocab_size": 600},
        "epochs": 12,
        "learning_rate": 2e-3,
    }
    # The very texts that it learnt, so that it is often right.
    workload = {"dataset": TRAIN, "examples": EXAMPLES, "batch_size": 8, "max_length": 32}
    source = load_suite(
        str(write_suite(folder, [{"model": "checkpoint:taught"}], workload=workload, checkpoints=[checkpoint]))
    )
    with Preparer(source) as preparer:
        taught = preparer.checkpoint(source.checkpoints["taught"])
    copies = {name: noisy(taught, folder / name, deviations) for name, deviations in NOISE.items()}
    known = {"workload": workload, "protocol": {"threads": 1}}
    variants = [{"name": "taught", "model": taught}, *({"name": n, "model": path} for n, path in copies.items())]
    swapped = [*variants[:1], {"name": "slight", "model": copies["spoilt"]}]
    first = measure(write_suite(folder / "first", variants, **known))
    second = measure(write_suite(folder / "second", swapped, **known))
    assert first.exit_code == second.exit_code == 0, first.stderr + second.stderr
    return SimpleNamespace(first=first, second=second)


def right(run, variant: str) -> np.ndarray:
    return np.array([example["predicted"] == example["label"] for example in run.of(variant)])


def exchanged(mine: np.ndarray, base: np.ndarray) -> tuple[int, int]:
    return int((mine & ~base).sum()), int((base & ~mine).sum())


def exact(gained: int, lost: int) -> float:
    return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)


def test_accuracies_and_their_intervals_are_those_of_the_stored_answers(runs):
    assert right(runs.first, "taught").mean() > 0.6
    for row in runs.first.measurements:
        answers = right(runs.first, row["variant"])
        assert (row["examples"], row["correct"]) == (EXAMPLES, answers.sum())
        expected = proportion_confint(int(answers.sum()), EXAMPLES, method="wilson")
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(expected)


def test_noise_that_spoils_a_model_is_shown_and_noise_that_does_not_is_not(runs):
    base = right(runs.first, "taught")
    counts = {name: exchanged(right(runs.first, name), base) for name in NOISE}
    corrected = multipletests([exact(*counts[name]) for name in NOISE], method="holm")[1]
    for (name, (gained, lost)), p in zip(counts.items(), corrected, strict=True):
        row = runs.first.row(name)
        assert (row["accuracy_gained"], row["accuracy_lost"]) == (gained, lost)
        assert row["accuracy_difference"] == pytest.approx((gained - lost) / EXAMPLES)
        assert row["accuracy_p"] == pytest.approx(min(p, 1.0))
        verdict = "no_difference" if p >= 0.05 else "worse" if lost > gained else "better"
        assert row["accuracy_comparison"] == verdict
    assert runs.first.row("spoilt")["accuracy_comparison"] == "worse"
    assert runs.first.row("spoilt")["accuracy_difference_high"] < 0
    assert runs.first.row("slight")["accuracy_comparison"] == "no_difference"


def test_what_it_would_have_shown_is_shown_four_times_in_five(runs, bench):
    """400 examples drawn anew and again, which truly differ by as much, beside one other variant."""
    row = runs.first.row("slight")
    wanted = row["detectable_difference"]
    assert 0 < wanted < abs(runs.first.row("spoilt")["accuracy_difference"])
    share = max(wanted, sum(exchanged(right(runs.first, "slight"), right(runs.first, "taught"))) / EXAMPLES)
    drawn = np.random.default_rng(0).multinomial(
        EXAMPLES, [(share + wanted) / 2, (share - wanted) / 2, 1 - share], 20_000
    )
    # The first of Holm's two steps, by the doubled tail of the binomial.
    p = 2 * stats.binom.cdf(drawn[:, :2].min(axis=1), drawn[:, :2].sum(axis=1), 0.5)
    assert np.mean(p < 0.05 / 2) == pytest.approx(0.8, abs=0.012)
    said = bench("compare", runs.first.run["id"]).stdout
    assert f"this n would have shown {wanted * 100:.1f} points in four of five such cases" in said


def test_compare_says_so_within_a_run_and_between_two(runs, bench):
    first, second = runs.first.run["id"], runs.second.run["id"]
    within = bench("compare", first, "--threshold", "5")
    assert within.returncode == 1
    assert re.search(r"^spoilt loses \d+\.\d points of accuracy against taught", within.stdout, re.M)
    assert "spoilt loses more than 5.0 points of accuracy" in within.stderr
    assert "slight loses" not in within.stdout + within.stderr

    gained, lost = exchanged(right(runs.second, "slight"), right(runs.first, "slight"))
    points = (lost - gained) / EXAMPLES * 100
    between = bench("compare", first, second, "--threshold", "5")
    assert between.returncode == 1
    assert f"slight: the accuracy fell by {points:.1f} points from A to B (" in between.stdout
    assert f"{lost} of the same {EXAMPLES} examples lost, {gained} gained" in between.stdout
    assert "slight: its accuracy fell by more than 5.0 points on the same examples" in between.stderr
    # The same the other way round is no loss; nor is the model that stayed what it was.
    turned = bench("compare", second, first, "--threshold", "0")
    assert "accuracy" not in turned.stderr and "slight: the accuracy rose by" in turned.stdout
    assert "taught: the accuracy" not in turned.stdout + between.stdout
