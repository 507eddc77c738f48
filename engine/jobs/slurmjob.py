"""What a Slurm job does: measures one run into a database of its own, and leaves it as one file.

`python -m engine.jobs.slurmjob FOLDER`, see `engine.jobs.slurm` for what the folder holds. A process of its own
measures, so that what it had measured is kept whatever ends it. Nothing but files comes back: the database lies on
the node, as SQLite over a network file system is unsafe.
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
"""How often the run's row is looked at, in milliseconds of CPU time."""
AFTER_THE_ROUND, AT_ONCE, BY_SLURM = signal.SIGUSR1, signal.SIGINT, signal.SIGTERM
"""The signals that `engine.jobs.slurm_commands.cancel` sends, and Slurm's own, as at a time limit."""
HEARD = {AFTER_THE_ROUND, AT_ONCE, BY_SLURM, signal.SIGCHLD}


def work(folder: Path) -> int:
    """Measures what the request in `folder` asks for; the exit code."""
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
    """The row that a queued run has, as `engine.jobs` expects it."""
    import socket

    suite = parse_suite(asked["suite"], f"run {asked['run']}", Path(asked["folder"]))
    since = datetime.fromisoformat(asked["created_at"])
    device = asked["device"], asked["device_name"]
    row = queue.queued(asked["run"], suite, asked["suite_path"], *device, socket.gethostname(), since)
    with store.session() as session:
        session.add(row)


def _measure(store: Store, asked: dict[str, Any], folder: Path) -> tuple[int, set[int]]:
    """Has a process measure, tells how it goes and passes on what the job is told; exit code, and what it was told.

    The signals are waited for, so that nothing of this process runs beside a timed call without need.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    arguments = [asked["run"], asked["folder"], *(["--offline"] if asked["offline"] else [])]
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.jobs", *arguments],
        cwd=paths.REPOSITORY,
        stdin=subprocess.DEVNULL,
        # What is blocked here would be in the child, too.
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
    """Writes where the run stands, for the submitting side, unless it was `told` the same; what was told."""
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
    """The run's row says truly how it ended, and where it was measured."""
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
