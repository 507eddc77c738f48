"""Does a run come to the same conclusions when it is repeated?

Runs a suite several times over, and reports for each variant how far its speed-up moved from its median over
the runs, and how often a run's interval held the value pooled over the other runs. With --apart the same
suite is also timed one variant after another, each alone for its share of the time, as most comparisons are
made: the figure to hold the interleaved rounds against. Ends with a simulation of runs with the noise that was seen.

    python -m benchmarks.repeatability demo --runs 5 --apart
    python -m benchmarks.repeatability demo --runs 40 --set protocol.max_seconds=15 --set protocol.rounds=12

Point BENCH_DATA_DIR at a folder of its own to keep these runs out of the dashboard's history.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from engine.measurement import stats, summary
from engine.measurement.blocks import Block
from engine.run import runner
from engine.store import measurements, open_store
from engine.store.rows import row_of
from engine.suite.reading import load_suite
from engine.suite.spec import Suite

SIMULATED = 2000


@dataclass(frozen=True)
class Noise:
    """What disturbs the speed-ups of a suite's runs, as seen in them: standard deviations of logarithms."""

    within: float
    """Of one calm round's ratio around its run's median."""
    resemblance: float
    """Correlation of neighbouring rounds."""
    between: float
    """Of runs' speed-ups around their pooled value, beyond what `within` explains."""
    rounds: int
    processes: int


def measured(suite: Suite, device: str) -> dict[str, dict[str, Any]]:
    """One run: variant -> its flat measurement, with `ratios`, float64 [calm rounds] of each process beside it."""
    run_id = runner.run(suite, device, offline=True)
    with open_store() as store, store.session() as session:
        rows = {row.variant: row for row in measurements.measurements(session, run_id)}
        rates = {name: rates_of(measurements.blocks(session, row.id)) for name, row in rows.items()}
        found = {name: row_of(row).to_json() for name, row in rows.items()}
    calm = stats.calm_rounds(list(rates.values()))
    for name, row in found.items():
        pairs = zip(rates[name], rates[suite.baseline], calm, strict=False)
        row["ratios"] = [(mine[: len(base)] / base[: len(mine)])[kept[: len(mine)]] for mine, base, kept in pairs]
    return found


def rates_of(blocks: list[Block]) -> list[np.ndarray]:
    """Samples/s: one float64 [rounds] array a process."""
    processes = sorted({block.process for block in blocks})
    return [np.array([b.samples / b.latencies_s.sum() for b in blocks if b.process == p]) for p in processes]


def alone(suite: Suite, device: str) -> dict[str, float]:
    """The suite one variant after another, each in a run of its own: variant -> ratio of samples/s."""
    share_s = suite.protocol.max_seconds / len(suite.variant)
    protocol = suite.protocol.model_copy(update={"max_seconds": share_s, "rounds": 10**6, "min_calls": 1})
    rates = {}
    for variant in suite.variant:
        single = suite.model_copy(
            update={
                "variant": [variant],
                "baseline": variant.name,
                "name": f"{suite.name}-apart",
                "protocol": protocol,
            }
        )
        run_id = runner.run(single, device, offline=True)
        with open_store() as store, store.session() as session:
            rates[variant.name] = measurements.measurements(session, run_id)[0].throughput_samples_per_s
    return {name: rate / rates[suite.baseline] for name, rate in rates.items() if name != suite.baseline and rate}


def moved(values: list[float]) -> np.ndarray:
    """How far each of `values` lies from their median, as a share of it: float64 [values]."""
    return np.abs(np.array(values) / np.median(values) - 1)


def covered(estimates: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> int:
    """How many intervals hold the geometric mean of the other runs' estimates; all float64 [runs]."""
    logs = np.log(estimates)
    others = np.exp((logs.sum() - logs) / (len(logs) - 1))
    return int(((lows <= others) & (others <= highs)).sum())


def slowdowns(runs: list[dict[str, dict[str, Any]]]) -> np.ndarray:
    """How much longer each run's calls took than in the fastest run, the median over the variants: float64 [runs].

    A host that others share has states that last for minutes, and speed-ups differ between them.
    """
    latencies_s = np.array([[row["latency_p50_s"] for row in run.values()] for run in runs])
    return np.median(latencies_s / latencies_s.min(axis=0), axis=1)


def noise_of(ratios: list[list[np.ndarray]]) -> Noise:
    """The noise in some runs' round ratios, pooled over the runs; `ratios`: runs x processes x [rounds]."""
    centred = [np.log(p) - np.median(np.log(p)) for run in ratios for p in run]
    variance = float(np.mean([np.mean(c**2) for c in centred]))
    products = float(np.mean([np.mean(c[1:] * c[:-1]) for c in centred if len(c) > 1]))
    levels = np.array([np.mean([np.median(np.log(p)) for p in run]) for run in ratios])
    rounds, processes = int(np.median([len(p) for run in ratios for p in run])), len(ratios[0])
    resemblance = min(max(products / variance, 0.0), 0.9)
    explained = np.pi / 2 * variance / (rounds * processes) * (1 + resemblance) / (1 - resemblance)
    between = float(np.sqrt(max(0.0, np.var(levels, ddof=1) - explained) * processes))
    return Noise(np.sqrt(variance), resemblance, between, rounds, processes)


def simulated_coverage(noise: Noise, seed: int = 0) -> float:
    """The share of SIMULATED runs with this noise whose interval holds the true speed-up."""
    random = np.random.default_rng(seed)
    shape = (SIMULATED, noise.processes, noise.rounds)
    shocks = random.normal(0, noise.within, shape)
    series = np.empty(shape)
    series[..., 0] = shocks[..., 0]
    for at in range(1, noise.rounds):
        fresh = np.sqrt(1 - noise.resemblance**2) * shocks[..., at]
        series[..., at] = noise.resemblance * series[..., at - 1] + fresh
    series += random.normal(0, noise.between, (SIMULATED, noise.processes, 1))
    ones = [np.ones(noise.rounds)] * noise.processes
    intervals = [stats.speed_up(list(np.exp(run)), ones) for run in series]
    return float(np.mean([i is not None and i.low <= 1 <= i.high for i in intervals]))


def main(
    suite: Annotated[str, typer.Argument(help="A name from data/suites, or a path.")] = "demo",
    runs: Annotated[int, typer.Option(min=2)] = 5,
    apart: Annotated[bool, typer.Option("--apart", help="Also one variant after another.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set")] = None,
    device: str = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    console = Console(width=130)
    asked = load_suite(suite, settings or [])
    together: list[dict[str, dict[str, Any]]] = []
    one_by_one: list[dict[str, float]] = []
    for index in range(runs):
        before = time.monotonic()
        together.append(measured(asked, device))
        console.print(f"run {index + 1} of {runs}: {time.monotonic() - before:.0f} s", highlight=False)
        if apart:
            one_by_one.append(alone(asked, device))
    heads = ["Variant", "Speed-up", "Moved: mean", "largest", "Intervals that held the others' value", "Half-width"]
    table = Table(*heads, *(["One after another: mean", "largest"] if apart else []))
    slower = slowdowns(together)
    alike = slower <= 1 + summary.SLOWER_MACHINE
    report: dict[str, Any] = {"suite": asked.name, "runs": runs, "slowdowns": slower.tolist(), "variants": {}}
    for variant in asked.variant:
        rows = [run[variant.name] for run in together if run[variant.name]["speedup"] is not None]
        if variant.name == asked.baseline or len(rows) < 2:
            continue
        estimates, lows, highs = (np.array([r[k] for r in rows]) for k in ("speedup", "speedup_low", "speedup_high"))
        shifts = moved(list(estimates))
        held = covered(estimates, lows, highs)
        half = float(np.median(np.log(highs / lows) / 2))
        noise = noise_of([row["ratios"] for row in rows])
        entry: dict[str, Any] = {
            "speedups": estimates.tolist(),
            "moved_mean": float(shifts.mean()),
            "moved_largest": float(shifts.max()),
            "alike_moved": moved(estimates[alike].tolist()).tolist(),
            "alike_held": covered(estimates[alike], lows[alike], highs[alike]) if alike.sum() > 1 else None,
            "held": held,
            "half_width": half,
            "noise": noise.__dict__,
            "simulated_coverage": simulated_coverage(noise),
        }
        cells = [
            variant.shown,
            f"{np.median(estimates):.3g}",
            f"{shifts.mean():.2%}",
            f"{shifts.max():.2%}",
            f"{held} of {len(rows)} (simulated {entry['simulated_coverage']:.1%})",
            f"{half:.1%}",
        ]
        if apart:
            other = moved([run[variant.name] for run in one_by_one if variant.name in run])
            entry |= {"apart_moved_mean": float(other.mean()), "apart_moved_largest": float(other.max())}
            cells += [f"{other.mean():.2%}", f"{other.max():.2%}"]
        table.add_row(*cells)
        report["variants"][variant.name] = entry
    console.print(table)
    entries = report["variants"].values()
    report["moved_mean"] = float(np.mean([e["moved_mean"] for e in entries]))
    report["moved_largest"] = max(e["moved_largest"] for e in entries)
    report["held"], report["intervals"] = sum(e["held"] for e in entries), sum(len(e["speedups"]) for e in entries)
    console.print(
        f"{runs} runs of {asked.name}: speed-ups moved by {report['moved_mean']:.2%} on average, "
        f"{report['moved_largest']:.2%} at most; "
        f"{report['held']} of {report['intervals']} intervals ({report['held'] / report['intervals']:.1%}) held the "
        "value pooled over the other runs (nominal 95%).",
        highlight=False,
    )
    if not alike.all() and alike.sum() > 1:
        shifts = np.concatenate([entry["alike_moved"] for entry in entries])
        held = sum(entry["alike_held"] for entry in entries)
        share = f"{held} of {len(shifts)} intervals ({held / len(shifts):.1%})"
        console.print(
            f"In {(~alike).sum()} of the runs the machine was slower, by up to {slower.max():.2f} times. "
            f"Over the other {alike.sum()} speed-ups moved by {shifts.mean():.2%} on average, "
            f"{shifts.max():.2%} at most; {share} held the value pooled over the others.",
            highlight=False,
        )
    if apart:
        mean = np.mean([e["apart_moved_mean"] for e in entries])
        largest = max(e["apart_moved_largest"] for e in entries)
        console.print(
            f"One variant after another, for as long: {mean:.2%} on average, {largest:.2%} at most.", highlight=False
        )
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    typer.run(main)
