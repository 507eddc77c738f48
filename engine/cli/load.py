"""A quick look at one variant under load, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import paths
from engine.artefacts.preparer import Preparer
from engine.errors import RequestError, UnavailableError
from engine.machine import devices, host, locks
from engine.machine.holders import Holder, Kind
from engine.measurement import arrivals
from engine.run.load import LoadResult, start, under_load
from engine.suite import corpus
from engine.suite.spec import Suite, Variant
from engine.units import milliseconds, significant
from engine.worker import handle
from engine.worker.handle import Worker

if TYPE_CHECKING:
    from engine.run.state import Listener


def look(
    suite: Suite,
    variant: Variant,
    device_request: str,
    offline: bool = False,
    listener: Listener = lambda progress: None,
) -> LoadResult:
    """Put `variant` under the load that the suite asks for, with the workload's texts; nothing is stored.

    The device is held from before anything is made until the end. Raises RequestError where the variant cannot run
    here, BuildError where what it needs could not be made, WorkerError where its worker failed.
    """
    from engine.run.state import Progress

    device = devices.resolve_device(device_request)
    threads = suite.protocol.threads or host.usable_cores()
    texts = corpus.load(suite, suite.workload, offline=offline).texts
    report = lambda text, share: listener(Progress("preparing", text, share))  # noqa: E731
    with locks.device_lock(device, Holder(Kind.LOAD, variant.name), timeout_s=5):
        with Preparer(suite, device.spec, threads, offline, report) as preparer:
            source = preparer.model(variant)[0]
            if reason := handle.refusal(variant, device, source, variant.padding or suite.workload.padding):
                raise RequestError(f"variant {variant.name!r} cannot run here: {reason}")
            prepared = preparer.prepare(variant)
        log = paths.local_folder("logs") / f"load-{variant.name}.log"
        with Worker(variant, device, threads, log) as worker:
            listener(Progress("loading", f"{variant.shown}: loading", None, None, variant.name))
            try:
                start(worker, prepared, suite)
            except UnavailableError as error:
                raise RequestError(f"variant {variant.name!r} cannot run here: {error}") from error
            tell = lambda text, done: listener(Progress("serving", text, done, None, variant.name))  # noqa: E731
            return under_load(worker, suite, texts, tell)


def show(found: LoadResult) -> list[str]:
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
    beyond = arrivals.failed_twice((trial.rate_per_s, trial.holds) for trial in found.trials)
    if beyond:
        said.append(f"the lowest rate that failed twice: {significant(beyond)} texts/s")
    return said
