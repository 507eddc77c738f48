"""Cancel a run, after its present round or at once."""

from __future__ import annotations

import os
from contextlib import suppress

from engine.errors import RequestError
from engine.jobs.queue import ENDED
from engine.machine.processes import lives


def cancel(reference: str, at_once: bool = False) -> bool:
    """Ask a run to end after its present round, or at once. Return False where it had already ended.

    What was measured until then is kept in both cases. Raises RequestError where the run should end at once but its
    process is not on this machine.
    """
    from engine.jobs import slurm, slurm_commands
    from engine.store import open_store, runs

    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, reference)
        if run.status in ENDED:
            return False
        run.cancel_requested = True
        run_id, host, pid, process, job = run.id, run.host, run.pid, run.process, slurm.job_of(run)
    if job is not None:
        slurm_commands.cancel(job, at_once)
    elif at_once:
        _interrupt(run_id, host, pid, process)
    return True


def _interrupt(run_id: str, host: str, pid: int | None, process: str | None) -> None:
    """Send SIGTERM to a run's process, which then stores how the run ended."""
    import signal
    import socket

    if host != socket.gethostname():
        raise RequestError(f"run {run_id} is measured on {host}: it can end at once only from there")
    # Another process may have its process id by now.
    if pid is not None and process and lives(pid, process):
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
            return
    raise RequestError(f"run {run_id}: its process {pid} is not there any more, or is another user's")
