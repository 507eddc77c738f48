"""A variant under a service's load: single stream, offline, and server, as MLPerf Inference names them.

Texts go in and answers come out: tokenising counts. The server scenario finds the highest rate of Poisson arrivals at
which the 99th percentile of the time from a text's intended arrival to its answer is shown to be within a limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from engine import corpus, hardware, paths, pool
from engine.artefacts import Preparer
from engine.errors import RequestError, UnavailableError
from engine.measure import arrivals
from engine.measure.arrivals import Served
from engine.pool import Worker
from engine.runner import Listener, Progress
from engine.spec import Suite, Variant
from engine.units import milliseconds, significant

P99, P90 = 0.99, 0.9
OFFLINE_SECONDS = 5.0
LATE = 1
"""A trial has at least as many texts as show a percentile within a limit where so many are late: 662 for p99."""
TRIAL_SECONDS = 15.0
"""A trial lasts at least so long, as a queue takes time to grow."""
MAX_TRIALS = 8


@dataclass(frozen=True)
class Trial:
    """The server scenario at one rate."""

    rate_per_s: float
    texts: int
    late: int
    """Of them, answered later than the limit."""
    p99_s: float
    """Of the texts answered: of all of them, unless too many were late before the end."""
    mean_batch: float
    holds: bool


@dataclass
class Scenarios:
    """What one variant gave."""

    variant: str
    title: str
    device: str
    p99_limit_s: float
    max_batch: int
    max_wait_s: float
    single_texts: int = 0
    single_p90_s: float = 0.0
    offline_texts_per_s: float = 0.0
    server_texts_per_s: float | None = None
    """The highest rate that held; None where none did."""
    trials: list[Trial] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    suite: Suite,
    variant: Variant,
    device_request: str,
    p99_limit_s: float,
    max_batch: int,
    max_wait_s: float,
    offline: bool = False,
    listener: Listener = lambda progress: None,
) -> Scenarios:
    """Put `variant` under load with the workload's texts. Raises RequestError where it cannot run here."""
    device = hardware.resolve_device(device_request)
    threads = suite.protocol.threads or hardware.usable_cores()
    texts = corpus.load(suite, suite.workload, offline=offline).texts
    report = lambda text, share: listener(Progress("preparing", text, share))  # noqa: E731
    with Preparer(suite, device.spec, threads, offline, report) as preparer:
        prepared = preparer.prepare(variant)
    padding = variant.padding or suite.workload.padding
    if reason := pool.refusal(variant, device, prepared.source, padding):
        raise RequestError(f"variant {variant.name!r} cannot run here: {reason}")
    log = paths.local_folder("logs") / f"scenarios-{variant.name}.log"
    with pool.device_lock(device, "scenarios", timeout_s=5), Worker(variant, device, threads, log) as worker:
        listener(Progress("loading", f"{variant.shown}: loading", None, None, variant.name))
        try:
            worker.start()
            worker.finish()
            worker.load(prepared, suite.workload.max_length)
        except UnavailableError as error:
            raise RequestError(f"variant {variant.name!r} cannot run here: {error}") from error

        def answer(numbers: range) -> None:
            worker.ask("answer", texts=[texts[i % len(texts)] for i in numbers], padding=padding)

        found = Scenarios(variant.name, variant.shown, device.spec, p99_limit_s, max_batch, max_wait_s)
        measure(found, answer, suite.workload.seed, lambda text: listener(Progress("timing", text)))
        return found


def measure(found: Scenarios, answer: Callable[[range], None], seed: int, tell: Callable[[str], None]) -> None:
    """The three scenarios of a server that answers texts by number, written to `found`."""
    tell(f"{found.title}: offline, in batches of {found.max_batch}")
    arrivals.serve(np.zeros(2 * found.max_batch), answer, found.max_batch, 0.0)  # warms up, at full size
    backlog = _until(answer, found.max_batch, OFFLINE_SECONDS, least=1)
    found.offline_texts_per_s = sum(backlog.batches) / backlog.seconds
    tell(f"{found.title}: single stream")
    single = _until(answer, 1, OFFLINE_SECONDS, least=arrivals.least_count(LATE, P90))
    # Of each text's own call: nobody waits for another.
    found.single_texts, found.single_p90_s = len(single.calls_s), float(np.quantile(single.calls_s, P90))

    def holds_at(rate_per_s: float) -> bool:
        tell(f"{found.title}: server, {significant(rate_per_s)} texts/s")
        trial = server(answer, rate_per_s, found, seed + len(found.trials))
        found.trials.append(trial)
        return trial.holds

    found.server_texts_per_s = arrivals.highest(holds_at, found.offline_texts_per_s, most=MAX_TRIALS)


def server(answer: Callable[[range], None], rate_per_s: float, found: Scenarios, seed: int) -> Trial:
    """One trial of the server scenario; it ends early where it cannot hold any more."""
    count = max(arrivals.least_count(LATE, P99), math.ceil(rate_per_s * TRIAL_SECONDS))
    allowed = arrivals.most_late(count, P99)
    limit_s = found.p99_limit_s
    served = arrivals.serve(
        arrivals.poisson(rate_per_s, count, seed),
        answer,
        found.max_batch,
        found.max_wait_s,
        lambda latencies_s: int((latencies_s > limit_s).sum()) > allowed,
    )
    late = int((served.latencies_s > limit_s).sum())
    p99_s = float(np.quantile(served.latencies_s, P99))
    return Trial(rate_per_s, count, late, p99_s, float(np.mean(served.batches)), late <= allowed)


def _until(answer: Callable[[range], None], batch: int, seconds: float, least: int) -> Served:
    """Batches one after another for `seconds`, at least `least` of them, as if all texts had been there before."""
    began_s = time.perf_counter()
    calls_s: list[float] = []
    while len(calls_s) < least or time.perf_counter() - began_s < seconds:
        before_s = time.perf_counter()
        answer(range(len(calls_s) * batch, (len(calls_s) + 1) * batch))
        calls_s.append(time.perf_counter() - before_s)
    return Served(np.empty(0), [batch] * len(calls_s), np.array(calls_s), time.perf_counter() - began_s)


def show(found: Scenarios) -> list[str]:
    """The result in lines."""
    limit, most = milliseconds(found.p99_limit_s), found.max_batch
    said = [
        f"{found.title} on {found.device}, texts in, answers out:",
        f"single stream: p90 {milliseconds(found.single_p90_s)} ms ({found.single_texts} texts)",
        f"offline: {significant(found.offline_texts_per_s)} texts/s in batches of {most}",
    ]
    how = f"batches of at most {most}, waiting at most {milliseconds(found.max_wait_s)} ms"
    if found.server_texts_per_s is None:
        lowest = min(found.trials, key=lambda trial: trial.rate_per_s)
        said.append(
            f"server: no rate held p99 within {limit} ms; the lowest tried was "
            f"{significant(lowest.rate_per_s)} texts/s ({how})"
        )
        return said
    held = next(t for t in found.trials if t.rate_per_s == found.server_texts_per_s)
    said.append(
        f"server: {significant(held.rate_per_s)} texts/s hold p99 within {limit} ms "
        f"({held.late} of {held.texts} later, 99% confidence; {how}, {significant(held.mean_batch)} on average)"
    )
    beyond = [t.rate_per_s for t in found.trials if not t.holds]
    if beyond:
        said.append(f"the lowest rate that did not hold: {significant(min(beyond))} texts/s")
    return said
