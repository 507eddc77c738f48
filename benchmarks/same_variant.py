"""How far do workers of one and the same variant differ, and how often is a difference claimed?

Runs a suite's baseline several times over as if the copies were different variants (an A/A test), and
from the stored rounds takes every pair of copies: how far its speed-up is from 1, and whether its interval
excludes 1. Prints what `stats.BETWEEN_PROCESS_SD` should be on this machine.

    python -m benchmarks.same_variant ../shared/suites/agnews-local.toml --variant student --runs 4
"""

from __future__ import annotations

import itertools
from typing import Annotated

import numpy as np
import typer

from engine.measurement import stats
from engine.run import runner
from engine.store import measurements, open_store
from engine.suite.reading import load_suite
from engine.suite.spec import Suite


def copies_of(suite: Suite, variant: str, copies: int) -> Suite:
    """`suite` with nothing but `copies` of one of its variants."""
    chosen = suite.variants[variant]
    renamed = [chosen.model_copy(update={"name": f"copy-{i}", "title": f"copy {i}"}) for i in range(copies)]
    return suite.model_copy(update={"variant": renamed, "baseline": "copy-0", "name": f"{suite.name}-same"})


def rates_of(run_id: str) -> list[list[np.ndarray]]:
    """For each copy, one float64 [rounds] array of samples/s a process."""
    with open_store() as store, store.session() as session:
        found = []
        for row in measurements.measurements(session, run_id):
            blocks = measurements.blocks(session, row.id)
            processes = sorted({b.process for b in blocks})
            found.append(
                [
                    np.array([b.samples / b.latencies_s.sum() for b in blocks if b.process == process])
                    for process in processes
                ]
            )
        return found


def main(
    suite: Annotated[str, typer.Argument(help="A name from data/suites, or a path.")] = "demo",
    variant: Annotated[str | None, typer.Option(help="By default the suite's baseline.")] = None,
    copies: int = 5,
    runs: int = 4,
    settings: Annotated[list[str] | None, typer.Option("--set")] = None,
    device: str = "auto",
) -> None:
    asked = load_suite(suite, settings or [])
    asked = copies_of(asked, variant or asked.baseline, copies)
    deviations, excluded, distances, ratios = [], [], [], []
    for index in range(runs):
        run_id = runner.run(asked, device, listener=lambda progress: None)
        rates = rates_of(run_id)
        calm = stats.calm_rounds(rates)
        # A copy's own level: its log rate beside the mean of all copies in the same calm rounds of its first process.
        logs = np.log([copy[0] for copy in rates])[:, calm[0]]
        levels = np.median(logs - logs.mean(axis=0), axis=1)
        deviations.append(float(np.std(levels, ddof=1)))
        for a, b in itertools.combinations(rates, 2):
            interval = stats.speed_up(a, b, calm)
            assert interval is not None
            excluded.append(not interval.low <= 1 <= interval.high)
            distances.append(abs(np.log(interval.estimate)))
            ratios.append(np.log(interval.high / interval.low) / 2)
        print(
            f"run {index + 1} of {runs}: SD between copies {deviations[-1]:.2%}, "
            f"{sum(excluded)} of {len(excluded)} pairs exclude 1 so far",
            flush=True,
        )
    spread = float(np.sqrt(np.mean(np.square(deviations))))
    print(f"SD of one worker's log rate over {runs} runs of {copies} copies: {spread:.2%}")
    print(f"speed-ups were off 1 by {np.median(distances):.2%} (median), {np.max(distances):.2%} (largest)")
    print(f"intervals reach {np.median(ratios):.2%} to each side (median)")
    print(f"{sum(excluded)} of {len(excluded)} pairs excluded 1: {np.mean(excluded):.1%} (nominal 5%)")


if __name__ == "__main__":
    typer.run(main)
