"""A run: plan the suite, prepare the variants, interleave rounds over their workers, derive and store the figures.

The parts are modules of their own: `preparing`, `loading`, `answers`, `rounds`, `observing`, `deriving`, `under_load`,
`ending`. They share one `context.RunState`.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

from ulid import ULID

from engine.artefacts.preparer import Preparer
from engine.errors import RequestError, one_line
from engine.machine import devices, energy
from engine.machine.host import usable_cores
from engine.run import answers, deriving, ending, loading, observing, preparing, resuming, rounds, under_load
from engine.run.checks import check_batch_sizes, check_models, check_published
from engine.run.context import RunState
from engine.run.recorder import Recorder
from engine.run.resuming import Resumable
from engine.run.state import Cancelled, Entry, Listener, Pairs, Progress
from engine.run.turn import take_device
from engine.suite import corpus
from engine.suite.plan import Plan, cells_of
from engine.suite.spec import CHECKPOINT, Suite
from engine.worker import handle


def run(
    suite: Suite,
    device_request: str,
    url: str | None = None,
    offline: bool = False,
    listener: Listener = lambda progress: None,
    suite_path: str | None = None,
    run_id: str | None = None,
    wait_seconds: float = 0.0,
    resume: Resumable | None = None,
) -> str:
    """Measure `suite`, store the run, and return its id.

    `run_id` names a run that is queued in the store already; without one a row is made. `resume` is a run that has
    ended: what it lacks is measured. A device in use is waited for, `wait_seconds` at most. Raises RequestError where
    the request itself is wrong. A variant that cannot run or fails becomes a measurement that says so. On
    KeyboardInterrupt or Cancelled the run is stored as cancelled.
    """
    from engine.store import journal

    plan = _plan(suite, device_request, offline)
    if resume and resume.begun and resume.example_set_id != plan.corpus.digest:
        raise RequestError(f"run {resume.id} was begun over other examples: {suite.workload.dataset} has changed")
    queued = run_id is not None
    run_id = run_id or (resume.id if resume else str(ULID()))
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(url))
        preparer = stack.enter_context(Preparer(suite, plan.device.spec, plan.threads, offline))
        for variant in suite.variant:
            if not variant.model.startswith(CHECKPOINT):
                preparer.source(variant.model, variant.revision, f"variant {variant.name!r}: model")
        check_published(suite, recorder.published())
        if (mode := journal(url)) and mode[1]:
            listener(Progress("preparing", f"the database: {mode[0]}"))
        take_device(stack, plan.device, run_id, wait_seconds, recorder, listener, queued)
        handle.remove_scratch()
        check_models(suite, preparer, plan.corpus)
        begun = resume if resume and resume.begun else None
        state = RunState(run_id, plan, preparer, recorder, listener, begun)
        state.begin(suite_path)
        preparer.report = lambda text, share: state.tell("preparing", text, share)
        # The store is left with a truthful state, whatever happens.
        with recorder.beating(run_id):
            _measure_all(state)
    return run_id


def _plan(suite: Suite, device_request: str, offline: bool) -> Plan:
    """Resolve a suite into the cells, texts and device of a run. Raises RequestError where it cannot be."""
    device = devices.resolve_device(device_request)
    texts = corpus.load(suite, suite.workload, offline=offline)
    check_batch_sizes(suite, len(texts))
    return Plan(suite, cells_of(suite), texts, device, suite.protocol.threads or usable_cores())


def _measure_all(state: RunState) -> None:
    """Everything from preparing to the load."""
    try:
        preparing.prepare(state)
        preparing.measure_ceilings(state)
        state.schedule = preparing.choose_schedule(state)
        state.recorder.state(state.id, "running")
        # A resumed run may lack its load alone.
        if not all(entry.kept for entry in state.alive()):
            try:
                _measure(state)
            except ending.DoesNotFit:
                _start_over_sequentially(state)
                _measure(state)
            # Before the load, so that a run which ends under load keeps its measurements.
            deriving.derive(state)
        overloaded = under_load.measure_load(state)
    except (KeyboardInterrupt, Cancelled) as stop:
        ending.close(state, "cancelled", "the run was cancelled", stop)
        raise
    except BaseException as error:
        ending.close(state, "failed", f"the run ended early: {one_line(error)}", error)
        raise
    failed = [entry.variant.name for entry in state.entries if entry.ended == "failed" and not entry.kept]
    notes = [f"failed: {', '.join(failed)}"] if failed else []
    notes += [f"failed under load: {', '.join(overloaded)}"] if overloaded else []
    state.recorder.end(state.id, "finished", "; ".join(notes) or None)
    state.tell("finished", "finished", 1.0)


def _measure(state: RunState) -> None:
    """Every pass of the protocol that is missing, with fresh workers each time."""
    passes = _passes(state)
    done = 0
    if state.resumed:
        lacking = [cell.blocks for entry in state.alive() if not entry.kept for cell in entry.cells]
        done = resuming.whole_passes(lacking, state.plan.suite.protocol, len(passes))
    for index, groups in enumerate(passes[min(done, len(passes) - 1) :]):
        for group in groups:
            alive = [entry for entry in group if entry.ended is None]
            if not all(entry.kept for entry in alive):
                _measure_group(state, alive, state.earlier_processes + index, len(passes), first=index == 0)


def _passes(state: RunState) -> list[list[list[Entry]]]:
    """Passes of groups of variants; a group is loaded together."""
    count = state.plan.suite.protocol.processes
    # If the rest is measured already, only the baseline is timed again, because the others are compared with it.
    alive = [e for e in state.alive() if not e.kept or e.variant.name == state.plan.baseline]
    if state.schedule == "interleaved":
        return [[alive]] * count
    forward = [[entry] for entry in alive]
    return [forward, forward[::-1]] * count


def _measure_group(state: RunState, group: list[Entry], process: int, passes: int, first: bool) -> None:
    """One pass over `group`. In the `first` pass everything but latency is observed too."""
    with ExitStack() as stack:
        loading.load_group(state, group, process, stack, first)
        if first:
            state.idle_power_w = energy.idle_power_w(state.plan.device)
        for entry in group:
            if entry.ended is None and first and not entry.kept:
                ending.guarded(state, entry, answers.answer, state, entry)
        for experiment in state.plan.experiments:
            pairs = [
                (entry, cell)
                for entry in group
                if entry.ended is None
                for cell in entry.cells
                if cell.experiment == experiment
            ]
            if pairs:
                share = _share_left(state, pairs, passes) if first else 1.0
                rounds.time_experiment(state, pairs, process, passes, share)
        for entry in group:
            if entry.ended is None and first and not entry.kept:
                ending.guarded(state, entry, observing.observe, state, entry)
    for entry in group:
        entry.worker = None


def _share_left(state: RunState, pairs: Pairs, passes: int) -> float:
    """The share of a pass that `pairs` still lack; 1 unless the run is resumed."""
    if not state.resumed:
        return 1.0
    protocol = state.plan.suite.protocol
    lacking = [cell.blocks for entry, cell in pairs if not entry.kept]
    return resuming.share_left(lacking, math.ceil(protocol.rounds / passes), math.ceil(protocol.min_calls / passes))


def _start_over_sequentially(state: RunState) -> None:
    """The variants did not fit in memory together: drop what was timed, and measure one after another."""
    state.schedule = "sequential"
    state.recorder.forget_blocks([cell.id for cell in state.cells])
    for cell in state.cells:
        cell.blocks.clear()
        cell.doubts.clear()
        cell.conditions.clear()
        cell.disturbed = 0
