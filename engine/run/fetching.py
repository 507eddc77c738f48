"""Prepares everything that a suite needs, for a node that is offline."""

from __future__ import annotations

from contextlib import suppress

from engine.artefacts.builder import BuildError
from engine.artefacts.preparer import Preparer
from engine.errors import one_line
from engine.machine import devices, host, locks
from engine.machine.holders import Holder, Kind
from engine.run.state import Listener, Progress
from engine.run.turn import EVICTION_SECONDS
from engine.suite import corpus
from engine.suite.spec import Suite
from engine.worker import handle


def fetch(suite: Suite, device_request: str, listener: Listener) -> tuple[list[str], list[str]]:
    """Data, weights, checkpoints and artefacts of `suite`; returns a line each for what is there and what failed.

    Raises RequestError where the suite itself cannot be served.
    """
    device = devices.resolve_device(device_request)
    listener(Progress("preparing", f"data set {suite.workload.dataset}"))
    examples = corpus.load(suite, suite.workload)
    done = [f"data set {suite.workload.dataset}: {len(examples)} examples"]
    failed: list[str] = []
    threads = suite.protocol.threads or host.usable_cores()

    def evicting(count: int) -> None:
        listener(Progress("queued", f"waiting until {count} warm workers of Classify have left {device.name}"))

    with (
        locks.device_lock(device, Holder(Kind.FETCH, suite.name)),
        Preparer(
            suite,
            device.spec,
            threads,
            report=lambda text, share: listener(Progress("preparing", text, share)),
        ) as preparer,
    ):
        # Training needs the memory that they hold.
        locks.await_eviction(device, EVICTION_SECONDS, evicting)
        found = {variant.name: prepared for variant, prepared in preparer.prepare_all(suite.variant)}
        for variant in suite.variant:
            prepared, reason = found[variant.name], None
            # Where its model could not be made there is none to ask about.
            with suppress(BuildError):
                reason = handle.refusal(variant, device, preparer.model(variant)[0])
            if isinstance(prepared, BuildError):
                # What builds a variant may be missing here, too. Another device may still need the variant.
                told = f"not prepared: {reason}" if reason else one_line(prepared)
                (done if reason else failed).append(f"{variant.name}: {told}")
                continue
            done.append(
                f"{variant.name}: ready in {prepared.folder}"
                + (f" (though on {device.spec}: {reason})" if reason else "")
            )
    return done, failed
