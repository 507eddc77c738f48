"""How long a run takes, estimated before it starts: from its protocol and from an earlier run of its suite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.measurement.stats import SETTLING_CALLS
from engine.run import load
from engine.run.rounds import UNTIMED_SECONDS, WARM_UP_MAX_SECONDS, WARM_UP_SECONDS
from engine.suite import plan
from engine.suite.spec import Suite
from engine.units import duration
from engine.worker.timing import SLOW

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

BLOCK_OVERHEAD_S = 0.01
"""The cost of a block beside its calls: a request, and the wait until the other workers are silent."""
BRIEF_S = 5.0
"""Building for less than this is not worth a sentence."""


@dataclass(frozen=True)
class Earlier:
    """The newest finished run of a suite on a device."""

    id: str
    seconds: float
    """From its beginning to its end."""
    timing_s: float
    """The part of those seconds spent in rounds."""
    preparing_s: float
    """The part spent finding, training and exporting models, which are kept. 0 if an old run did not record it."""
    variants: int
    latencies_s: dict[tuple[str, int], float]
    """(variant, batch size) -> median of a call."""
    serving_s: float = 0.0
    """The part spent under a service's load."""
    rates_per_s: dict[str, float] = field(default_factory=dict)
    """Variant -> texts a second around which its load was tried."""


def earlier(session: Session, suite_name: str, device_name: str) -> Earlier | None:
    """The newest finished run of the suite on the device that was not another's file; None where there is none."""
    from sqlalchemy import select

    from engine.store import measurements, models, runs

    finished = select(models.Run).where(
        models.Run.suite_name == suite_name,
        models.Run.device_name == device_name,
        models.Run.status == "finished",
        runs.asked_here(),
    )
    run = session.scalars(finished.order_by(models.Run.created_at.desc()).limit(1)).first()
    if run is None or run.started_at is None or run.finished_at is None:
        return None
    rows = measurements.measurements(session, run.id)
    loads = measurements.loads(session, run.id)
    ids = [row.id for row in rows]
    starts = session.scalars(
        select(models.Block.started_s).where(models.Block.measurement_id.in_(ids), models.Block.kind == "timed")
    ).all()
    return Earlier(
        run.id,
        max(0.0, (run.finished_at - run.started_at).total_seconds()),
        max(starts) - min(starts) if starts else 0.0,
        float(run.environment.get("preparing_s") or 0.0),
        len({row.variant for row in rows}),
        {(row.variant, row.batch_size): row.latency_p50_s for row in rows if row.latency_p50_s},
        sum((load.conditions or {}).get("seconds") or 0.0 for load in loads),
        {load.variant: min(trial["rate_per_s"] for trial in load.trials) for load in loads if load.trials},
    )


def timing_seconds(suite: Suite, latencies_s: dict[tuple[str, int], float]) -> float | None:
    """How long the rounds take, from medians of calls; None where one is not known."""
    protocol = suite.protocol
    experiments: dict[int, list[float]] = {size: [] for size in suite.workload.batch_size}
    for cell in plan.cells_of(suite):
        call_s = latencies_s.get((cell.variant.name, cell.batching.batch_size))
        if call_s is None:
            return None
        experiments[cell.experiment].append(call_s)
    total_s = 0.0
    for calls_s in filter(None, experiments.values()):
        block_calls = [max(1, math.ceil(protocol.block_seconds / call_s)) for call_s in calls_s]
        rounds = max(protocol.rounds, *(math.ceil(protocol.min_calls / n) for n in block_calls))
        round_s = sum(
            n * call_s + max(call_s, UNTIMED_SECONDS) + BLOCK_OVERHEAD_S
            for n, call_s in zip(block_calls, calls_s, strict=True)
        )
        warm_up_s = sum(
            max(WARM_UP_SECONDS, call_s, min(2 * SETTLING_CALLS * call_s, SLOW * WARM_UP_MAX_SECONDS))
            for call_s in calls_s
        )
        warm_up_s *= protocol.processes
        total_s += min(rounds * round_s, protocol.max_seconds) + warm_up_s
    return total_s


def serving_seconds(suite: Suite, before: Earlier) -> float | None:
    """How long the service's load takes that the suite asks for, at most; None where a variant's speed is not known."""
    effort = load.QUICK if suite.protocol.quick else load.WHOLE
    total_s = 0.0
    for variant in suite.variant:
        rates = [size / call_s for (name, size), call_s in before.latencies_s.items() if name == variant.name]
        rate_per_s = before.rates_per_s.get(variant.name, max(rates, default=0.0))
        if not rate_per_s:
            return None
        total_s += effort.serving_s(rate_per_s)
    return total_s


def _load_words(suite: Suite, before: Earlier | None) -> str:
    """The estimated time under load as a sentence; empty if the suite has no load."""
    if suite.load is None:
        return ""
    total_s = None if before is None else serving_seconds(suite, before)
    if total_s is not None:
        return f" A service's load takes up to about {duration(total_s)} more."
    effort = load.QUICK if suite.protocol.quick else load.WHOLE
    slow = load.trial_texts(0.0, 0.0) / effort.trial_s
    each_s = effort.serving_s(slow)
    return (
        f" A service's load takes up to about {duration(each_s)} more a variant, longer where one answers fewer than "
        f"{slow:.0f} texts/s."
    )


def words(suite: Suite, before: Earlier | None) -> str:
    """The estimated length of a run, in one to four sentences that say what the estimate rests on."""
    sizes = len(suite.workload.batch_size)
    limit = f"Timing ends after at most {duration(suite.protocol.max_seconds)}{' a batch size' if sizes > 1 else ''}"
    if before is None:
        said = f"{limit}; how long preparing, loading and answering take, no earlier run of this suite here says."
        return said + _load_words(suite, before)
    name = f"run …{before.id[-6:]}"
    rest_s = duration(max(before.seconds - before.timing_s - before.preparing_s - before.serving_s, 0))
    variants = f"its {before.variants} variants" if before.variants > 1 else "its one variant"
    timing_s = timing_seconds(suite, before.latencies_s)
    if timing_s is None:
        said = f"{limit}; loading, answering and the rest took {name} {rest_s} for {variants}."
    else:
        said = (
            f"Timing takes about {duration(timing_s)} at the speeds of {name}; "
            f"loading, answering and the rest took that run {rest_s} for {variants}."
        )
    if before.preparing_s > BRIEF_S:
        said += f" It prepared models for {duration(before.preparing_s)} before: what is built is kept."
    return said + _load_words(suite, before)
