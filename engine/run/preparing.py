"""Before anything is loaded: models found and built, ceilings measured, the schedule chosen."""

from __future__ import annotations

import time

import psutil

from engine.artefacts.builder import BuildError
from engine.errors import one_line
from engine.machine import ceilings, gpus
from engine.run import ending, resuming
from engine.run.context import RunState
from engine.worker import handle
from engine.worker.handle import TORCH_OVERHEAD_BYTES


def prepare(state: RunState) -> None:
    """Find or build what every variant's worker loads. A variant that cannot run here ends with its reason."""
    began_s = time.monotonic()
    # A resumed run keeps the digest that it knew of a variant which fails before its model is found again.
    digests = dict(state.resumed.models) if state.resumed else {}
    for entry in state.entries:
        try:
            source = state.preparer.model(entry.variant)[0]
        except BuildError as error:
            ending.end(state, entry, "failed", f"preparing: {one_line(error)}")
            continue
        digests[entry.variant.name] = source.digest
        if state.resumed:
            resuming.check_same(state.resumed, entry.variant.name, source.digest)
        # Said before anything is built: all that cannot run here.
        padding = entry.cells[0].batching.padding
        if reason := handle.refusal(entry.variant, state.plan.device, source, padding):
            text = f"{entry.variant.shown}: unavailable: {reason}"
            state.tell("preparing", text, None, None, entry.variant.name)
            ending.end(state, entry, "unavailable", reason)
    state.recorder.models(state.id, digests)
    waiting = {entry.variant.name: entry for entry in state.alive()}
    for variant, prepared in state.preparer.prepare_all([entry.variant for entry in waiting.values()]):
        entry = waiting[variant.name]
        if isinstance(prepared, BuildError):
            ending.end(state, entry, "failed", f"preparing: {one_line(prepared)}")
            continue
        state.tell("preparing", f"{variant.shown}: prepared", None, None, variant.name)
        entry.prepared = prepared
        # Raises for a declared mapping of labels that cannot be right.
        state.alignment(entry)
    state.recorder.prepared_s(state.id, time.monotonic() - began_s)


def measure_ceilings(state: RunState) -> None:
    """Measure what the device can reach, before any variant is loaded, unless a resumed run has it already."""
    if state.ceilings.get("products"):
        return
    if not state.plan.suite.protocol.ceilings:
        state.ceilings = {"reason": "the protocol says ceilings = false"}
    elif state.alive():
        state.tell("preparing", f"measuring what {state.plan.device.name} can do")
        state.ceilings = ceilings.measure(state.plan.device, state.plan.threads)
    state.recorder.ceilings(state.id, state.ceilings)


def choose_schedule(state: RunState) -> str:
    """Return "interleaved", or "sequential" where the variants cannot be loaded beside each other."""
    device = state.plan.device
    if device.kind == "cuda":
        gpu = next((g for g in gpus.visible_gpus() if g.uuid == device.uuid), None)
        exclusive = gpu is not None and gpu.compute_mode == "EXCLUSIVE_PROCESS"
        return "sequential" if exclusive else "interleaved"
    needed_bytes = [4 * e.prepared.parameters + TORCH_OVERHEAD_BYTES for e in state.alive() if e.prepared]
    return "interleaved" if sum(needed_bytes) < psutil.virtual_memory().available else "sequential"
