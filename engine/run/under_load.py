"""Puts every measured variant of a run under load, one after another and alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from engine.errors import UnavailableError
from engine.machine.conditions import disturbances
from engine.measurement.doubts import Code, doubt, in_words
from engine.run import load
from engine.run.context import RunState
from engine.run.state import Entry
from engine.worker.handle import Worker, WorkerError


def measure_load(state: RunState) -> list[str]:
    """Put every measured variant under load, unless its load is stored already.

    Return the names of those that failed under it; their measurements stay what they are.
    """
    suite = state.plan.suite
    if suite.load is None:
        return []
    stored = state.recorder.under_load(state.id)
    waiting = [entry for entry in state.alive() if entry.kept and entry.variant.name not in stored]
    failed = []
    for index, entry in enumerate(waiting):
        requested = load.requested(suite, entry.variant, state.plan.device.spec)
        values = {name: getattr(requested, name) for name in ("p99_limit_s", "max_batch", "max_wait_s", "padding")}
        try:
            values |= _measure(state, entry, index, len(waiting))
        except (UnavailableError, WorkerError) as error:
            values |= {"status": "failed", "status_reason": str(error), "trials": []}
            failed.append(entry.variant.name)
        finally:
            entry.worker = None
        state.recorder.load(state.id, entry.variant.name, values)
    return failed


def _measure(state: RunState, entry: Entry, index: int, count: int) -> dict[str, Any]:
    """The columns of what one variant gives under load; it is number `index` of `count`."""
    assert entry.prepared is not None
    name, suite = entry.variant.name, state.plan.suite

    def tell(text: str, done: float) -> None:
        state.tell("serving", text, (index + done) / count, None, name)

    tell(f"{entry.variant.shown}: loading", 0.0)
    log = state.logs / f"{name}-load.log"
    deadline_s = suite.protocol.deadline_seconds
    with Worker(entry.variant, state.plan.device, state.plan.threads, log, deadline_s) as worker:
        entry.worker = worker
        load.start(worker, entry.prepared, suite)
        watch = state.watch()
        result = load.under_load(worker, suite, state.plan.corpus.texts, tell)
        conditions = watch.stop()
    doubts = disturbances(conditions, state.plan.device.kind)
    doubts += [doubt(Code.SLOWER_MACHINE, factor=state.slowdown)] if state.slowdown > 1 else []
    return {
        **{name: getattr(result, name) for name in load.FIGURES},
        "trials": [asdict(trial) for trial in result.trials],
        "conditions": conditions.to_json(),
        "status": "measured",
        "validity": "unstable" if doubts else "valid",
        "validity_reason": "; ".join(in_words(doubts)) or None,
    }
