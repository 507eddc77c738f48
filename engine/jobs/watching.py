"""Follow a run that a Slurm job measures until it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.jobs import ending, queue
from engine.jobs.slurm import catch_up

if TYPE_CHECKING:
    from engine.run.state import Listener


def watch(run_id: str, listener: Listener) -> str:
    """Wait until a submitted run ends, and report its progress to `listener`. Return the run's id.

    The first Ctrl-C cancels the run, the second one stops waiting. Raises Cancelled where the run was cancelled.
    """
    from engine.run.state import Cancelled, Progress
    from engine.store import open_store, runs

    stopping = False
    with open_store(create=False) as store:
        while True:
            try:
                catch_up(store)
                with store.session() as session:
                    run = runs.get_run(session, run_id)
                if run.status == "cancelled":
                    raise Cancelled
                if run.status in queue.ENDED:
                    return run_id
                listener(Progress.from_json(run.progress or {"phase": "queued", "text": "submitted"}))
                time.sleep(1.0)
            except KeyboardInterrupt:
                if stopping:
                    raise
                stopping = True
                ending.cancel(run_id, at_once=True)
