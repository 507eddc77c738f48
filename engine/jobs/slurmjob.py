"""The program of a Slurm job: measure one run into a database of its own, and write the run as one file.

`python -m engine.jobs.slurmjob FOLDER`; `engine.jobs.slurm` describes the folder. A child process measures, so that its
measurements are kept whatever ends it. The database is on the node, because SQLite is unsafe on a network file system:
only files come back.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import paths
from engine.errors import RequestError, one_line
from engine.jobs import queue, slurm, slurm_commands
from engine.suite.reading import parse_suite

if TYPE_CHECKING:
    from engine.store import Store

LOOK_SECONDS = 2.0
"""Time between two looks at the run's row, each of which takes milliseconds of CPU time."""
AFTER_THE_ROUND, AT_ONCE, BY_SLURM = signal.SIGUSR1, signal.SIGINT, signal.SIGTERM
"""The two signals that `engine.jobs.slurm_commands.cancel` sends, and the one that Slurm sends at a time limit."""
HEARD = {AFTER_THE_ROUND, AT_ONCE, BY_SLURM, signal.SIGCHLD}


def work(folder: Path) -> int:
    """Measure what the request in `folder` describes. Return the exit code."""
    asked = json.loads((folder / slurm.REQUEST).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="inference-bench-") as scratch:
        database = Path(scratch) / "bench.sqlite"
        os.environ["BENCH_DATABASE_URL"] = f"sqlite:///{database}"
        from engine.store import open_store
        from engine.store.runfile import writing

        with open_store() as store:
            _queue(store, asked)
            code, heard = _measure(store, asked, folder)
            _close(store, asked, heard)
        try:
            writing.write(asked["run"], folder / slurm.RESULT)
        except RequestError as error:
            kept = shutil.copy(database, folder.parent)
            print(f"error: {one_line(error)}; the job's database is kept: {kept}", file=sys.stderr)
            return 1
    return code


def _queue(store: Store, asked: dict[str, Any]) -> None:
    """Store the row of a queued run, which `engine.jobs` expects."""
    import socket

    suite = parse_suite(asked["suite"], f"run {asked['run']}", Path(asked["folder"]))
    since = datetime.fromisoformat(asked["created_at"])
    device = asked["device"], asked["device_name"]
    row = queue.queued(asked["run"], suite, asked["suite_path"], *device, socket.gethostname(), since)
    with store.session() as session:
        session.add(row)


def _measure(store: Store, asked: dict[str, Any], folder: Path) -> tuple[int, set[int]]:
    """Start the measuring process, report its progress and pass signals on. Return its exit code and the signals.

    This process waits for signals instead of polling, so that it does not use the CPU beside timed calls.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    arguments = [asked["run"], asked["folder"], *(["--offline"] if asked["offline"] else [])]
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.jobs", *arguments],
        cwd=paths.REPOSITORY,
        stdin=subprocess.DEVNULL,
        # The child would inherit the blocked signals.
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD),
    )
    heard: set[int] = set()
    told = ""
    while child.poll() is None:
        got = signal.sigtimedwait(HEARD, LOOK_SECONDS)
        if got is not None:
            heard.add(got.si_signo)
            if got.si_signo == AFTER_THE_ROUND:
                _ask_to_cancel(store, asked["run"])
            elif got.si_signo in (AT_ONCE, BY_SLURM):
                child.terminate()
        told = _tell(store, asked["run"], folder, told)
    return child.returncode, heard


def _ask_to_cancel(store: Store, run_id: str) -> None:
    from engine.store import models

    with store.session() as session:
        session.get_one(models.Run, run_id).cancel_requested = True


def _tell(store: Store, run_id: str, folder: Path, told: str) -> str:
    """Write the run's progress for the submitting side, unless it is the same as `told`. Return what was written."""
    from engine.store import models

    with store.session() as session:
        run = session.get_one(models.Run, run_id)
        if run.status not in models.LIVE:
            return told
        columns = ("status", "progress", "device", "device_name")
        values = {name: getattr(run, name) for name in columns}
        now = json.dumps(values | {"started_at": run.started_at and run.started_at.isoformat()})
    if now != told:
        partial = folder / f".{slurm.PROGRESS}.partial"
        try:
            partial.write_text(now, encoding="utf-8")
            partial.replace(folder / slurm.PROGRESS)
        except OSError as error:
            print(f"cannot tell how it goes: {one_line(error)}", file=sys.stderr, flush=True)
    return now


def _close(store: Store, asked: dict[str, Any], heard: set[int]) -> None:
    """Store how the run ended, and on which node it was measured."""
    from engine.store import interrupted, models

    with store.session() as session:
        interrupted.mark_interrupted(session, 0.0)
        run = session.get_one(models.Run, asked["run"])
        job = os.environ.get("SLURM_JOB_ID", "")
        stopped = run.status in ("cancelled", "interrupted")
        if stopped and AT_ONCE in heard:
            run.status, run.status_reason = "cancelled", "cancelled by the user"
        elif stopped and BY_SLURM in heard:
            word = (slurm_commands.words() or {}).get(job)
            why = f": {word.reason}" if word and word.reason not in ("", "None") else ""
            run.status, run.status_reason = "interrupted", f"Slurm ended job {job} early{why}"
        where = {"job": job, "node": os.environ.get("SLURMD_NODENAME")}
        run.environment = run.environment | {"slurm": where | asked["slurm"]}


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
