"""Finds what an ended run lacks, and whether this machine may resume it.

A resumed run keeps every measurement that is whole, and every timed call of the others. What is missing is measured by
fresh workers, as further processes beside the first ones; the baseline works again where it is what the rest is
compared with, as a speed-up is taken over rounds that both worked in. A measured variant whose load was not measured is
put under it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine import paths
from engine.errors import RequestError
from engine.machine import environment
from engine.suite.reading import parse_suite
from engine.suite.spec import Protocol, Suite

if TYPE_CHECKING:
    from engine.measurement.blocks import Block
    from engine.store.models import Measurement
    from engine.store.rows import LoadRow

LEAST_SHARE = 0.2
"""The smallest share of its rounds that a resumed pass is given: fewer would not show the speed of fresh workers."""


@dataclass(frozen=True)
class Resumable:
    """A run that can go on."""

    id: str
    suite: Suite
    device: str
    suite_path: str | None
    begun: bool
    """Its measurements are in the store; a run that ended in the queue has none yet."""
    example_set_id: str | None
    models: dict[str, str]
    """Variant -> digest of the model's files, as far as the run had prepared them."""


def resumable(reference: str) -> Resumable:
    """The run that `reference` means, where this machine may go on with it.

    Raises RequestError where the run is under way, came as a file, belongs to another machine, lacks nothing, or was
    begun with other versions of the libraries.
    """
    from engine.store import interrupted, measurements, open_store, runs
    from engine.store.models import LIVE

    found = stored(reference)
    with open_store(create=False) as store, store.session() as session:
        interrupted.mark_interrupted(session)
        run = runs.get_run(session, found.id)
        if run.status in LIVE:
            raise RequestError(f"run {run.id} is {run.status}: there is nothing to resume yet")
        if run.foreign:
            raise RequestError(
                f"run {run.id} came as a file, and its suite is what its sender says; measure a suite of your own"
            )
        if run.host != socket.gethostname():
            raise RequestError(f"run {run.id} was begun on {run.host}; resume it there")
        rows = measurements.measurements(session, run.id)
        whole = all(row.status in ("measured", "unavailable") for row in rows)
        if rows and whole and not lacking_load(found.suite, rows, measurements.loads(session, run.id)):
            raise RequestError(f"run {run.id} lacks nothing: every variant is measured, or unavailable here")
        before = run.environment.get("distributions") or {}
    now = environment.environment().get("distributions") or {}
    if found.begun and (changed := [name for name in before if before[name] != now.get(name)]):
        told = ", ".join(f"{name} {before[name]} then, {now.get(name) or 'none'} now" for name in changed[:3])
        raise RequestError(f"run {found.id} was begun with other versions ({told}); measure the suite anew")
    return found


def lacking_load(suite: Suite, rows: Sequence[Measurement], loads: Sequence[LoadRow]) -> list[str]:
    """The measured variants that a run was to put under load, and that have no result of it."""
    if suite.load is None:
        return []
    there = {row.variant for row in loads if row.status == "measured"}
    return [name for name in dict.fromkeys(r.variant for r in rows if r.status == "measured") if name not in there]


def stored(reference: str) -> Resumable:
    """A run as the store has it, whether it may go on or not. Raises RequestError where there is none."""
    from engine.store import measurements, open_store, runs

    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, reference)
        folder = Path(run.suite_path).parent if run.suite_path else paths.REPOSITORY
        return Resumable(
            run.id,
            parse_suite(run.suite, f"run {run.id}", folder),
            run.device,
            run.suite_path,
            bool(measurements.measurements(session, run.id)),
            run.example_set_id,
            run.environment.get("models") or {},
        )


def check_same(run: Resumable, variant: str, digest: str) -> None:
    """Raises RequestError where the model's files are not those that the run began with."""
    if run.models.get(variant, digest) != digest:
        raise RequestError(f"variant {variant!r}: its model has changed since run {run.id} began; measure it anew")


def whole_passes(cells: Sequence[Sequence[Block]], protocol: Protocol, passes: int) -> int:
    """How many passes every one of `cells`, the timed blocks of what is not whole, has completed."""
    wanted = -(-protocol.rounds // passes)
    counts = [[sum(b.process == process for b in blocks) for process in range(passes)] for blocks in cells]
    done = 0
    while done < passes and counts and all(count[done] >= wanted for count in counts):
        done += 1
    return done


def share_left(cells: Sequence[Sequence[Block]], rounds: int, min_calls: int) -> float:
    """The share of a pass that is still to be timed, by the last process that began it; 0 where nothing is."""
    shares = []
    for blocks in cells:
        last = max((block.process for block in blocks), default=0)
        found = [len(block.latencies_s) for block in blocks if block.process == last]
        shares.append(min(len(found) / rounds, sum(found) / min_calls, 1.0))
    left = 1 - min(shares, default=1.0)
    return max(left, LEAST_SHARE) if left else 0.0
