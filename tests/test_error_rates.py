"""How often the rules err: false alarms on steady noise, faults that are missed, limits that leave the truth out.

By simulation of known truth, with seeds; docs/method.md has the rates that are held here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.measurement import stats, summary
from engine.measurement.stats import BETWEEN_PROCESS_SD, BETWEEN_PROCESS_WEIGHT, PERCENTILE_CALLS, instability
from engine.measurement.summary import Block, Raw
from engine.report import changes

pytestmark = pytest.mark.second_tier

SERIES = 400


def resembling(random: np.random.Generator, shape: tuple[int, ...], sd: float, resemblance: float) -> np.ndarray:
    """Normal noise of deviation `sd`, whose neighbours along the last axis resemble each other (AR(1))."""
    series = random.normal(0, sd, shape)
    for at in range(1, shape[-1]):
        series[..., at] *= math.sqrt(1 - resemblance**2)
        series[..., at] += resemblance * series[..., at - 1]
    return series


def rates(series: np.ndarray) -> dict[str, float]:
    """The share of series that are called unstable, by the doubt's code, and of all."""
    codes = [doubt.code if (doubt := instability(blocks)) else None for blocks in series]
    shares = {name: float(np.mean([code == name for code in codes])) for name in ("warming", "spread", "drift")}
    return shares | {"any": float(np.mean([code is not None for code in codes]))}


# A steady machine


@pytest.mark.parametrize("rounds", [6, 8, 12, 30, 60])
@pytest.mark.parametrize(
    ("sd", "resemblance", "most"),
    [(0.03, 0.0, 0.0), (0.03, 0.6, 0.01), (0.05, 0.0, 0.01), (0.05, 0.6, 0.03), (0.08, 0.0, 0.13)],
)
def test_a_steady_machine_is_seldom_called_unstable(rounds, sd, resemblance, most):
    noise = resembling(np.random.default_rng(rounds), (SERIES, rounds), sd, resemblance)
    found = rates(0.01 * np.exp(noise))
    print(sd, resemblance, rounds, found)
    assert found["any"] <= most


@pytest.mark.parametrize("rounds", [6, 8, 12, 30])
@pytest.mark.parametrize("sd", [0.08, 0.1, 0.15])
def test_noise_alone_is_seldom_called_a_drift(rounds, sd):
    """However wide it is. Of six rounds a third is two, which differ by more than 15% by chance."""
    found = rates(0.01 * np.exp(np.random.default_rng(1).normal(0, sd, (SERIES, rounds))))
    print(sd, rounds, found)
    assert found["drift"] <= 0.08 and found["warming"] <= 0.005


# Faults


def ramp(rounds: int, by: float) -> np.ndarray:
    """From 1 to 1 + `by`, in the middles of the first third and of the last."""
    return np.exp(math.log1p(by) * 1.5 * np.arange(rounds) / (rounds - 1))


def step(rounds: int, by: float) -> np.ndarray:
    return np.where(np.arange(rounds) < rounds // 2, 1.0, 1 + by)


FAULTS: list[tuple[Callable[[int, float], np.ndarray], float, float, int, float]] = [
    # shape, size, noise of a round, rounds, share that is found at least
    (ramp, 0.3, 0.03, 6, 0.99),
    (ramp, 0.3, 0.05, 8, 0.97),
    (ramp, 0.3, 0.08, 30, 0.97),
    (ramp, -0.25, 0.05, 30, 0.97),
    (ramp, 0.2, 0.05, 30, 0.93),
    (step, 0.3, 0.03, 6, 0.97),
    (step, 0.3, 0.05, 12, 0.97),
    (step, 0.3, 0.08, 30, 0.97),
    (step, 0.2, 0.05, 30, 0.9),
]


@pytest.mark.parametrize(("shape", "by", "sd", "rounds", "least"), FAULTS)
def test_a_drift_or_a_step_is_found(shape, by, sd, rounds, least):
    noise = np.exp(np.random.default_rng(3).normal(0, sd, (SERIES, rounds)))
    found = rates(0.01 * noise * shape(rounds, by))
    print(shape.__name__, by, sd, rounds, found)
    assert found["any"] >= least


@pytest.mark.parametrize("slow", [1, 2])
@pytest.mark.parametrize("shape", [ramp, step])
def test_a_disturbed_round_hides_no_drift(shape, slow):
    """One or two rounds of thirty that take three times as long are nothing by themselves, and hide nothing."""
    random = np.random.default_rng(9)
    steady = 0.01 * np.exp(random.normal(0, 0.03, (SERIES, 30)))
    for blocks in steady:
        blocks[random.choice(30, slow, replace=False)] *= 3
    assert rates(steady)["any"] <= 0.02
    found = rates(steady * shape(30, 0.2))
    print(shape.__name__, slow, found)
    assert found["any"] >= 0.9


@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.02, 0, 0.03), (0.05, 0, 0.2), (0.15, 0.6, 1), (0.25, 0.95, 1), (0.4, 0.99, 1)]
)
def test_rounds_that_others_slow_down_are_found_where_they_are_many(share, least, most):
    """Each round takes, by itself, 1.5 to 3 times as long with this probability: from a tenth of them on it counts."""
    random = np.random.default_rng(4)
    series = 0.01 * np.exp(random.normal(0, 0.03, (SERIES, 30)))
    series *= np.where(random.random(series.shape) < share, random.uniform(1.5, 3, series.shape), 1)
    found = rates(series)
    print(share, found)
    assert least <= found["any"] <= most


@pytest.mark.parametrize(("by", "rounds", "least"), [(0.2, 30, 0.9), (0.4, 20, 0.99), (0.2, 60, 0.98)])
def test_a_warm_up_that_was_too_short_is_found(by, rounds, least):
    noise = np.exp(np.random.default_rng(5).normal(0, 0.05, (SERIES, rounds)))
    noise[:, : max(3, rounds // 10)] *= 1 + by
    found = rates(0.01 * noise)
    print(by, rounds, found)
    assert found["warming"] >= least


# A machine beside what it was


def slowdowns(random: np.random.Generator, earlier: int, variants: int, truly: float) -> np.ndarray:
    """The factors that runs say: all runs differ by 1.5% as a whole, and each worker by its luck."""
    found = []
    for _ in range(SERIES):
        run = random.normal(0, 0.015, (earlier + 1, 1)) + random.normal(0, BETWEEN_PROCESS_SD, (earlier + 1, variants))
        seconds = 0.01 * np.exp(run)
        fastest = {(f"v{i}", 8): float(s) for i, s in enumerate(seconds[:-1].min(axis=0))}
        now = {(f"v{i}", 8): float(s) * truly for i, s in enumerate(seconds[-1])}
        found.append(summary.slowdown(now, fastest))
    return np.array(found)


@pytest.mark.parametrize(("variants", "most"), [(1, 0.15), (3, 0.05), (5, 0.05)])
@pytest.mark.parametrize("earlier", [1, 5, 50])
def test_a_machine_as_fast_as_ever_is_seldom_called_slower(earlier, variants, most):
    """Though it is held against the fastest of many."""
    said = np.mean(slowdowns(np.random.default_rng(6), earlier, variants, 1.0) > 1)
    print(earlier, variants, said)
    assert said <= most


@pytest.mark.parametrize("earlier", [1, 5, 50])
def test_a_machine_slower_by_a_fifth_is_noticed(earlier):
    said = np.mean(slowdowns(np.random.default_rng(7), earlier, 4, 1.2) > 1)
    print(earlier, said)
    assert said >= 0.98


# Latency


def experiment(
    random: np.random.Generator,
    processes: int,
    rounds: int,
    noise: float,
    resemblance: float,
    calls: Callable[[np.random.Generator, int], np.ndarray],
    known: bool = True,
) -> Raw:
    """Rounds of ten calls of 10 ms by workers that each have their luck, as uncertain as the figure's weight says."""
    luck = random.normal(0, BETWEEN_PROCESS_SD, processes)
    if not known:
        luck *= math.sqrt(BETWEEN_PROCESS_WEIGHT / random.chisquare(BETWEEN_PROCESS_WEIGHT))
    blocks = []
    for process in range(processes):
        for at, level in enumerate(resembling(random, (rounds,), noise, resemblance)):
            latencies_s = 0.01 * np.exp(luck[process] + level) * calls(random, 10)
            blocks.append(Block(process, at, 0.0, latencies_s, 80, 800, 800))
    return Raw(blocks)


def lognormal(random: np.random.Generator, n: int) -> np.ndarray:
    return np.exp(random.normal(0, 0.05, n))


def in_a_row(random: np.random.Generator, n: int) -> np.ndarray:
    """Calls that resemble the one before, by 0.8."""
    return np.exp(resembling(random, (n,), 0.05, 0.8))


def heavy(random: np.random.Generator, n: int) -> np.ndarray:
    """A tenth of the calls takes two to six times as long."""
    return lognormal(random, n) * np.where(random.random(n) < 0.1, random.uniform(2, 6, n), 1)


LATENCIES = [
    # processes, rounds, noise of a round, resemblance of rounds, calls, share covered at least
    (1, 30, 0.0, 0.0, lognormal, 0.93),
    (1, 30, 0.03, 0.0, lognormal, 0.93),
    (1, 30, 0.1, 0.0, lognormal, 0.93),
    (1, 30, 0.03, 0.0, in_a_row, 0.93),
    (1, 30, 0.03, 0.0, heavy, 0.93),
    (1, 8, 0.05, 0.0, lognormal, 0.93),
    (1, 30, 0.05, 0.6, lognormal, 0.93),
    (1, 60, 0.05, 0.9, lognormal, 0.89),
    (1, 8, 0.05, 0.6, lognormal, 0.88),
    (3, 10, 0.05, 0.0, lognormal, 0.93),
    (5, 6, 0.05, 0.4, in_a_row, 0.93),
]


@pytest.mark.parametrize(("processes", "rounds", "noise", "resemblance", "calls", "least"), LATENCIES)
def test_the_interval_of_the_median_latency_covers_as_often_as_it_says(
    processes, rounds, noise, resemblance, calls, least
):
    """A worker's luck as uncertain as the figure's weight says; the truth is the median call of a worker without."""
    random = np.random.default_rng(8)
    truth_s = 0.01 * np.median(np.exp(random.normal(0, noise, 400_000)) * calls(random, 400_000))
    covered = []
    for _ in range(SERIES):
        found = summary.speed(experiment(random, processes, rounds, noise, resemblance, calls, known=False))
        covered.append(found["latency_p50_low_s"] <= truth_s <= found["latency_p50_high_s"])
    print(processes, rounds, noise, resemblance, calls.__name__, np.mean(covered))
    assert np.mean(covered) >= least
    assert np.mean(covered) <= 0.99


@pytest.mark.parametrize(("q", "beyond"), [(0.95, 0.05), (0.99, 0.05)])
def test_the_largest_of_as_many_calls_as_a_percentile_needs_is_beyond_it(q, beyond):
    """Calls that resemble each other are worth fewer: then it is missed oftener, which nothing in a row tells."""
    random, calls = np.random.default_rng(9), PERCENTILE_CALLS[q]
    truth = math.exp(0.05 * {0.95: 1.6449, 0.99: 2.3263}[q])
    missed = {}
    for resemblance in (0.0, 0.5, 0.8):
        series = np.exp(resembling(random, (4000, calls), 0.05, resemblance))
        missed[resemblance] = float(np.mean(series.max(axis=1) < truth))
    print(q, missed)
    assert missed[0.0] <= beyond + 0.01
    assert missed[0.5] < 0.12 and missed[0.8] < 0.32


# Two runs


def compared(random: np.random.Generator, ratio: float, known: bool, **of: Any) -> dict[str, Any]:
    """The speed-up columns of a variant `ratio` times as fast as its baseline, of one run."""
    settings = {"processes": 1, "rounds": 20, "noise": 0.03, "resemblance": 0.0, "calls": lognormal} | of
    mine, base = (experiment(random, **settings, known=known) for _ in range(2))
    faster = Raw([Block(b.process, b.round, 0.0, b.latencies_s / ratio, 80, 800, 800) for b in mine.blocks])
    calm = stats.calm_rounds([faster.rates(), base.rates()])
    return summary.comparison(faster, base, False, calm)


@pytest.mark.parametrize(
    "of", [{}, {"noise": 0.1}, {"noise": 0.06, "resemblance": 0.6}, {"processes": 3, "rounds": 8}, {"calls": heavy}]
)
@pytest.mark.parametrize("known", [True, False])
def test_two_runs_of_the_same_are_seldom_said_to_differ(of, known):
    random = np.random.default_rng(10)
    found = [
        changes.change(compared(random, 2.0, known, **of), compared(random, 2.0, known, **of)) for _ in range(SERIES)
    ]
    alarms = np.mean([not low <= 1 <= high for _, low, high in found])
    print(of, known, alarms)
    assert alarms <= 0.08
    # Neither direction is favoured.
    logs = np.log([estimate for estimate, _, _ in found])
    assert abs(logs.mean()) < 3.5 * logs.std() / math.sqrt(SERIES)


@pytest.mark.parametrize(("by", "processes", "least"), [(0.2, 1, 0.7), (0.15, 1, 0.4), (0.1, 3, 0.7), (-0.2, 1, 0.93)])
def test_a_change_between_two_runs_is_found(by, processes, least):
    random = np.random.default_rng(11)
    of = {"processes": processes, "rounds": 20 // processes}
    found = [
        changes.change(compared(random, 2.0, True, **of), compared(random, 2.0 * (1 + by), True, **of))
        for _ in range(SERIES)
    ]
    right = np.mean([low > 1 if by > 0 else high < 1 for _, low, high in found])
    print(by, processes, right)
    assert right >= least
