"""What preparing variants beside each other saves: the same suite's artefacts, built anew one at a time and in lanes.

Both are timed in turns, each into an empty cache of its own; models of the hub have to be there already.

    python -m benchmarks.preparation ../shared/suites/agnews-local.toml --rounds 3
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Annotated
from unittest import mock

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from engine.artefacts import lanes as build_lanes
from engine.artefacts.preparer import Prepared, Preparer
from engine.machine import host
from engine.suite.reading import load_suite


def seconds(suite: str, settings: list[str], lanes: int) -> float:
    """How long preparing all variants of `suite` takes with at most `lanes` build processes and nothing built."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, BENCH_DATA_DIR=folder),
        mock.patch.object(build_lanes, "LANES", lanes),
    ):
        read = load_suite(suite, settings)
        before = time.monotonic()
        with Preparer(read, threads=host.usable_cores()) as preparer:
            for variant, made in preparer.prepare_all(list(read.variant)):
                if not isinstance(made, Prepared):
                    raise SystemExit(f"{variant.name}: {made}")
        return time.monotonic() - before


def main(
    suite: Annotated[str, typer.Argument(help="A name from data/suites, or a path.")],
    rounds: int = 3,
    settings: Annotated[list[str] | None, typer.Option("--set")] = None,
) -> None:
    names = {1: "one at a time", build_lanes.LANES: f"up to {build_lanes.LANES} beside each other"}
    took: dict[int, list[float]] = {lanes: [] for lanes in names}
    for index in range(rounds):
        # Who goes first takes turns.
        for lanes in sorted(names, reverse=bool(index % 2)):
            took[lanes].append(seconds(suite, settings or [], lanes))
    table = Table("Build processes", "Seconds, median", "each round", title=f"Preparing {suite}, n = {rounds}")
    for lanes, name in names.items():
        table.add_row(name, f"{np.median(took[lanes]):.1f}", ", ".join(f"{s:.1f}" for s in took[lanes]))
    Console(width=120).print(table)
    ratios = np.array(took[1]) / np.array(took[build_lanes.LANES])
    print(f"{np.median(ratios):.2f} times as fast (round by round {ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    typer.run(main)
