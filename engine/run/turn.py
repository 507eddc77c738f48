"""Wait for the device of a run and lock it."""

from __future__ import annotations

import time
from contextlib import ExitStack

from engine.machine import locks
from engine.machine.devices import Device
from engine.machine.holders import Holder, Kind
from engine.run.recorder import Recorder
from engine.run.state import Cancelled, Listener, Progress

QUEUE_SECONDS = 1.0
"""Time between two tries for a busy device."""
CLASSIFY_SECONDS = 600.0
"""A run waits at least this long for a brief holder, such as Classify with one call or one build, or doctor."""
CLASSIFY_STEP_SECONDS, CLASSIFY_SOON_SECONDS = 0.1, 5.0
"""For the first CLASSIFY_SOON_SECONDS the device is tried every CLASSIFY_STEP_SECONDS, because most calls end soon."""
EVICTION_SECONDS = 15.0
"""Time limit for warm workers to leave the device."""


def take_device(
    stack: ExitStack,
    device: Device,
    run_id: str,
    wait_seconds: float,
    recorder: Recorder,
    listener: Listener,
    queued: bool,
) -> None:
    """Lock the device until `stack` ends.

    Raises RequestError where it stays busy for `wait_seconds`, and Cancelled where the user cancels the queued run.
    """

    def evicting(count: int) -> None:
        waiting = Progress("queued", f"waiting until {count} warm workers of Classify have left {device.name}")
        listener(waiting)
        if queued:
            recorder.progress(run_id, waiting)

    began_s = time.monotonic()
    own, own_turn = Holder(Kind.RUN, run_id), False
    with ExitStack() as turn:
        while True:
            try:
                if not own_turn:
                    if first := recorder.ahead(device.spec, run_id if queued else None):
                        earlier = Holder(Kind.RUN, first)
                        raise locks.DeviceBusy(f"run {first} was queued for {device.name} before", earlier)
                    turn.enter_context(locks.turn(device, own))
                    own_turn = True
                stack.enter_context(locks.device_lock(device, own, in_turn=True))
                break
            except locks.DeviceBusy as error:
                briefly = error.holder is not None and error.holder.is_brief
                if time.monotonic() - began_s >= max(wait_seconds, CLASSIFY_SECONDS if briefly else 0.0):
                    raise
                waiting = Progress("queued", f"waiting: {error}")
                listener(waiting)
                if queued and recorder.progress(run_id, waiting):
                    recorder.end(run_id, "cancelled", "cancelled by the user while it was queued")
                    raise Cancelled from error
                soon = briefly and time.monotonic() - began_s < CLASSIFY_SOON_SECONDS
                time.sleep(CLASSIFY_STEP_SECONDS if soon else QUEUE_SECONDS)
    if left := locks.await_eviction(device, EVICTION_SECONDS, evicting):
        listener(Progress("queued", f"going on although {left} warm workers of Classify are still there"))
