"""A variant under a service's load: single stream, offline, and server, as MLPerf Inference names them.

Texts go in and answers come out: tokenising counts. The server scenario finds the highest rate of Poisson arrivals at
which the 99th percentile of the time from a text's intended arrival to its answer is shown to be within a limit.
A run stores what its variants give (`engine.run.runner`); `look` asks one of them and stores nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.artefacts.preparer import Prepared
from engine.backends.pytorch import ROWS
from engine.measurement import arrivals
from engine.measurement.arrivals import Served
from engine.suite.spec import Suite, Variant
from engine.units import duration, significant
from engine.worker.handle import Worker
from engine.worker.messages import AnswerTexts, Meet

if TYPE_CHECKING:
    pass

P99, P90 = 0.99, 0.9
LATE = 1
"""A trial has at least as many texts as show a percentile within a limit where so many are late: 662 for p99."""


@dataclass(frozen=True)
class Effort:
    """How long the scenarios are measured. What it takes to say that a rate holds is the same for every effort."""

    offline_s: float
    """The length of the offline scenario, and the least length of the single stream."""
    trial_s: float
    """A trial lasts at least so long, as a queue takes time to grow."""
    trials: int
    """At most: fewer leave the highest rate less narrowly bounded."""
    search_s: float
    """Once a rate has held, no trial begins that would end later than this after the first began, and before that none
    that would take longer than PATIENCE times this: 662 texts take a variant of two texts a second over five minutes.
    """

    def serving_s(self, rate_per_s: float) -> float:
        """How long all three scenarios may take around a rate, about."""
        trial_s = self.longest_s(rate_per_s)
        return 2 * self.offline_s + min(self.trials * trial_s, self.search_s + trial_s)

    def longest_s(self, rate_per_s: float) -> float:
        """How long a trial at a rate lasts, unless it ends early."""
        return trial_texts(rate_per_s, self.trial_s) / rate_per_s


WHOLE, QUICK = Effort(5.0, 15.0, 12, 240.0), Effort(2.0, 5.0, 8, 90.0)
PATIENCE = 4
FAILS_AFTER_SHARE = 1 / 3
"""The share of a trial's length before which it cannot fail: a short disturbance says nothing about a rate."""


@dataclass(frozen=True)
class Trial:
    """The server scenario at one rate."""

    rate_per_s: float
    texts: int
    late: int
    """How many of them were answered later than the limit."""
    answered: int
    """All of them, unless too many were late before the end."""
    p99_s: float
    """Over the texts that were answered."""
    mean_batch: float
    holds: bool


@dataclass
class LoadResult:
    """The results of one variant under load."""

    variant: str
    title: str
    device: str
    p99_limit_s: float
    max_batch: int
    max_wait_s: float
    padding: str
    single_texts: int = 0
    single_p90_s: float = 0.0
    offline_texts_per_s: float = 0.0
    server_texts_per_s: float | None = None
    """The highest rate that held; None where none did."""
    trials: list[Trial] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


FIGURES = ("single_texts", "single_p90_s", "offline_texts_per_s", "server_texts_per_s")
"""The measured figures, without the trials."""
Tell = Callable[[str, float], None]
"""Called with the current step, and the share of all possible steps that is done."""


def start(worker: Worker, prepared: Prepared, suite: Suite) -> None:
    """Have a fresh worker ready to answer. Raises WorkerError, and UnavailableError where the technique cannot run."""
    worker.start()
    worker.finish()
    worker.load(prepared, suite.workload.max_length)


def requested(suite: Suite, variant: Variant, device: str) -> LoadResult:
    """The load for `variant`, with nothing measured yet. It uses the variant's own batch size and padding if set."""
    wanted = suite.load
    assert wanted is not None
    padding = variant.padding or suite.workload.padding
    most = variant.batch_size or wanted.max_batch
    return LoadResult(variant.name, variant.shown, device, wanted.p99_ms / 1e3, most, wanted.max_wait_ms / 1e3, padding)


def under_load(worker: Worker, suite: Suite, texts: Sequence[str], tell: Tell) -> LoadResult:
    """Measure a loaded worker with `texts`, repeated as needed. Passes on the errors of its requests and of `tell`."""
    found = requested(suite, worker.variant, worker.device.spec)

    def answer(numbers: range) -> None:
        worker.ask(AnswerTexts([texts[i % len(texts)] for i in numbers], found.padding))

    sizes = sizes_to_meet(found.max_batch)
    tell(f"{found.title}: preparing for batches of up to {found.max_batch}", 0.0)
    worker.ask(Meet(list(texts), sizes, found.padding))
    measure(found, answer, suite.workload.seed, tell, QUICK if suite.protocol.quick else WHOLE)
    return found


def measure(found: LoadResult, answer: Callable[[range], None], seed: int, tell: Tell, effort: Effort = WHOLE) -> None:
    """The three scenarios of a server that answers texts by number, written to `found`."""
    steps = 2 + effort.trials
    tell(f"{found.title}: offline, in batches of {found.max_batch}", 0.0)
    for size in warm_up_sizes(found.max_batch):
        answer(range(size))
    backlog = _until(answer, found.max_batch, effort.offline_s, least=1)
    found.offline_texts_per_s = sum(backlog.batches) / backlog.seconds
    tell(f"{found.title}: single stream", 1 / steps)
    single = _until(answer, 1, effort.offline_s, least=arrivals.least_count(LATE, P90))
    # The time of each text's own call: no text waits for another.
    found.single_texts, found.single_p90_s = len(single.calls_s), float(np.quantile(single.calls_s, P90))

    search_began_s = time.perf_counter()

    def has_time(rate_per_s: float, held: bool) -> bool:
        longest_s = effort.longest_s(rate_per_s)
        if not held:
            return longest_s <= PATIENCE * effort.search_s
        return time.perf_counter() - search_began_s + longest_s <= effort.search_s

    def holds_at(rate_per_s: float) -> bool:
        length = duration(effort.longest_s(rate_per_s))
        said = f"{found.title}: server, {significant(rate_per_s)} texts/s for up to {length}"
        tell(said, (2 + len(found.trials)) / steps)
        trial = server(answer, rate_per_s, found, seed + len(found.trials), effort.trial_s)
        found.trials.append(trial)
        return trial.holds

    found.server_texts_per_s = arrivals.highest(holds_at, found.offline_texts_per_s, effort.trials, has_time)


def warm_up_sizes(max_batch: int) -> list[int]:
    """The batches of a warm-up: every power of two, and full ones."""
    return [1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch] + [max_batch] * 2


def sizes_to_meet(max_batch: int) -> list[int]:
    """The batches that a library which prepares for each shape is shown: `bucketed` makes all others one of these."""
    return sorted({*warm_up_sizes(max_batch), *range(ROWS, max_batch, ROWS)})


def trial_texts(rate_per_s: float, trial_s: float) -> int:
    """How many texts a trial has, unless it ends early."""
    return max(arrivals.least_count(LATE, P99), math.ceil(rate_per_s * trial_s))


def server(
    answer: Callable[[range], None], rate_per_s: float, found: LoadResult, seed: int, trial_s: float = WHOLE.trial_s
) -> Trial:
    """One trial of the server scenario; it ends early, after FAILS_AFTER_SHARE of `trial_s`, where it cannot hold."""
    count = trial_texts(rate_per_s, trial_s)
    allowed = arrivals.most_late(count, P99)
    limit_s = found.p99_limit_s
    schedule = arrivals.poisson(rate_per_s, count, seed)
    least = int(np.searchsorted(schedule, FAILS_AFTER_SHARE * trial_s))
    served = arrivals.serve(
        schedule,
        answer,
        found.max_batch,
        found.max_wait_s,
        lambda latencies_s: len(latencies_s) >= least and int((latencies_s > limit_s).sum()) > allowed,
    )
    late = int((served.latencies_s > limit_s).sum())
    return Trial(
        rate_per_s,
        count,
        late,
        len(served.latencies_s),
        float(np.quantile(served.latencies_s, P99)),
        float(np.mean(served.batches)),
        late <= allowed,
    )


def _until(answer: Callable[[range], None], batch: int, seconds: float, least: int) -> Served:
    """Batches one after another for `seconds`, at least `least` of them, as if all texts had been there before."""
    began_s = time.perf_counter()
    calls_s: list[float] = []
    while len(calls_s) < least or time.perf_counter() - began_s < seconds:
        before_s = time.perf_counter()
        answer(range(len(calls_s) * batch, (len(calls_s) + 1) * batch))
        calls_s.append(time.perf_counter() - before_s)
    return Served(np.empty(0), [batch] * len(calls_s), np.array(calls_s), time.perf_counter() - began_s)
