"""Runs as jobs of a Slurm cluster: submitted with sbatch, followed by squeue and by files.

One run is one job, so that all its variants are measured on one node. The job measures into its own database
(`engine.jobs.slurmjob`). The two sides share only a folder beside the run's log, on a common file system:

    request.json     what to measure, written by the submitting side
    progress.json    the progress of the run, written by the job
    result.run.zip   the whole run, written by the job at its end (`engine.store.runfile.writing`)

Meanwhile the store has a row for the run, which the result replaces. `catch_up` brings these rows up to date. A process
of its own calls it until no run is under way; if that process is gone, commands and pages that list runs call it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from engine import paths
from engine.errors import RequestError, one_line
from engine.jobs import queue
from engine.jobs.slurm_commands import COMMAND_SECONDS, Word, accounted, ask, cancel, words
from engine.suite.reading import explain, read_toml
from engine.suite.spec import Spec, Suite, Text

if TYPE_CHECKING:
    from filelock import FileLock
    from sqlalchemy import ColumnElement

    from engine.store import Store
    from engine.store.models import Run

HOST = "Slurm"
"""How the host of a submitted run is shown; `Run.executor` is what code reads."""
REQUEST, PROGRESS, RESULT = "request.json", "progress.json", "result.run.zip"
FOLLOW_SECONDS = 3.0
FOLLOWER_SILENT_SECONDS = 30.0
"""Age of the last look at a job after which other processes than its follower look at it."""
LATE_SECONDS = 10.0
"""Time that a result may need to appear after its job has ended: a network file system shows new files late."""
FORGOTTEN = timedelta(days=1)
"""A run is given up when Slurm has not answered for this long."""
FAILED = ("FAILED", "COMPLETED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
ENDED = ("CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "REVOKED", *FAILED)
"""Slurm's states of jobs that have ended."""
ANY = "any"
"""The `gpu` of a profile that takes a GPU of any type."""


class Profile(Spec):
    """The resources that a job requests from the cluster. The cluster decides everything that is left out."""

    partition: Text | None = None
    gpu: Text | None = None
    """The type of its one GPU as the cluster names it, or "any"; None for a job without a GPU."""
    time: Text | None = None
    """The time limit as sbatch takes it, such as "2:00:00"."""
    account: Text | None = None
    options: list[Annotated[str, Field(pattern="^-")]] = []
    """More options of sbatch, such as "--cpus-per-task=8"."""
    setup: list[Text] = []
    """Lines of bash that run before the bench starts, such as "module load cuda"."""


def profile_file() -> Path:
    """The path of the optional profile file."""
    return paths.local_data() / "slurm.toml"


def profile(**given: str | None) -> Profile:
    """Return the profile file's values, overridden by `given`. Raises RequestError where one is wrong."""
    file = profile_file()
    raw = read_toml(file) if file.exists() else {}
    raw |= {key: value for key, value in given.items() if value}
    try:
        return Profile.model_validate(raw)
    except ValidationError as error:
        raise RequestError(f"{file if file.exists() else '--on slurm'}: {explain(error, raw, Profile)}") from error


def profiles(gpu: str | None = None, **given: str | None) -> list[Profile]:
    """Return a `profile` for each type of GPU in the comma-separated list `gpu`. Raises RequestError."""
    return [profile(gpu=kind.strip(), **given) for kind in (gpu or "").split(",")]


def unavailable() -> str | None:
    """Return why no job can be submitted from this machine; None where jobs can be submitted."""
    if shutil.which("sbatch"):
        return None
    return "there is no sbatch on this machine: start the bench on a login node of the cluster"


# Submitting


def submit(suite: Suite, asked: Profile, device_request: str, suite_path: str | None, offline: bool = False) -> str:
    """Submit a run as a job. Return the run's id at once. Raises RequestError with sbatch's message."""
    from ulid import ULID

    from engine.machine import devices
    from engine.store import models, open_store

    if why := unavailable():
        raise RequestError(f"--on slurm: {why}")
    if devices.parse_device(device_request)[0] == "auto" and asked.gpu:
        device_request = "cuda"
    run_id = str(ULID())
    row = queue.queued(run_id, suite, suite_path, device_request, _device_words(asked), HOST, datetime.now(UTC))
    resources = asked.model_dump(exclude_defaults=True)
    row.executor, row.environment = models.SLURM, {"slurm": resources}
    request = {
        "run": run_id,
        "suite": row.suite,
        "folder": str(suite.folder),
        "suite_path": suite_path,
        "device": device_request,
        "device_name": row.device_name,
        "offline": offline,
        "created_at": row.created_at.isoformat(),
        "slurm": resources,
    }
    folder = _folder(row)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder.parent, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
            (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        except OSError as error:
            raise RequestError(f"cannot write what the job is to do: {one_line(error)}") from error
        store = undo.enter_context(open_store())
        with store.session() as session:
            session.add(row)
        undo.callback(_forget, store, run_id)
        job = _sbatch(run_id, suite.name, folder, asked)
        with store.session() as session:
            row = session.get_one(models.Run, run_id)
            row.host, row.environment = f"{HOST} job {job}", {"slurm": {"job": job} | resources}
        undo.pop_all()
        store.close()
    follow()
    return run_id


def _forget(store: Store, run_id: str) -> None:
    from sqlalchemy import delete

    from engine.store.models import Run

    with store.session() as session:
        session.execute(delete(Run).where(Run.id == run_id))


def _device_words(asked: Profile) -> str:
    gpu = {None: "CPU", ANY: "GPU"}.get(asked.gpu, f"GPU {asked.gpu}")
    return f"{gpu}, partition {asked.partition}" if asked.partition else gpu


def _sbatch(run_id: str, suite_name: str, folder: Path, asked: Profile) -> str:
    """Submit the job to Slurm. Return its number."""
    given = {
        "partition": asked.partition,
        "account": asked.account,
        "time": asked.time,
        "gres": asked.gpu and ("gpu:1" if asked.gpu == ANY else f"gpu:{asked.gpu}:1"),
        "job-name": f"bench-{suite_name}-{run_id[-6:].lower()}",
        "output": str(folder.parent / "run.log").replace("%", "%%"),
    }
    options = [f"--{name}={value}" for name, value in given.items() if value]
    lines = [
        "#!/bin/bash",
        *asked.setup,
        f"export BENCH_DATA_DIR={shlex.quote(str(paths.local_data()))}",
        f"cd {shlex.quote(str(paths.REPOSITORY))} || exit",
        # With exec, the signals for the job reach the bench.
        f"exec {shlex.quote(sys.executable)} -m engine.jobs.slurmjob {shlex.quote(str(folder))}",
    ]
    # The job does not need this side's database, whose URL may hold a password.
    environment = {name: value for name, value in os.environ.items() if name != "BENCH_DATABASE_URL"}
    fixed = ["--parsable", "--nodes=1", "--ntasks=1", "--no-requeue", "--open-mode=append"]
    done = ask("sbatch", *fixed, *options, *asked.options, stdin="\n".join(lines) + "\n", env=environment)
    if done.returncode:
        raise RequestError(one_line(ValueError(done.stderr)))
    return done.stdout.strip().partition(";")[0]


# Following


def job_of(run: Run) -> str | None:
    """Return the number of the job that measures `run`; None where no job does, or its result is already stored."""
    from engine.store.models import SLURM

    return run.environment.get("slurm", {}).get("job") if run.executor == SLURM else None


def catch_up(store: Store, silent_s: float = FOLLOWER_SILENT_SECONDS) -> bool:
    """Update submitted runs from their jobs and from Slurm, and store results that have arrived.

    Only runs that this user submitted and whose folder this machine sees, and only those that no process has looked at
    for `silent_s` seconds. Return whether any such run is under way. Several processes may call this at once.
    """
    from sqlalchemy import select

    from engine.store.models import Run

    with store.session() as session:
        mine = [run for run in session.scalars(select(Run).where(*_awaited())) if _is_mine(run)]
    now, due = datetime.now(UTC), []
    for run in mine:
        age_s = (now - _sign(run)).total_seconds()
        if age_s < 0:
            # The clock was set back: count ages from now.
            run.heartbeat_at = now
            _update(store, run, heartbeat_at=now)
        if not 0 <= age_s < silent_s:
            due.append(run)
    found = words() if due else None
    for run in due:
        _look(store, run, found)
    return bool(mine)


def _awaited() -> tuple[ColumnElement[bool], ...]:
    """The condition of runs whose result may still come.

    Interrupted ones are among them: a process that could not see their job may have given them up.
    """
    from engine.store import models
    from engine.store.models import Run

    return Run.status.in_((*models.LIVE, "interrupted")), Run.executor == models.SLURM, Run.imported_at.is_(None)


def _folder(run: Run) -> Path:
    return Path(str(run.log_path)) / "slurm"


def _is_mine(run: Run) -> bool:
    """Whether this user submitted the run and still waits for it: its request is removed when the waiting ends."""
    with suppress(OSError):
        return (_folder(run) / REQUEST).stat().st_uid == os.getuid()
    return False


def _sign(run: Run) -> datetime:
    return run.heartbeat_at or run.created_at


def _look(store: Store, run: Run, words: dict[str, Word] | None) -> None:
    """Update one submitted run: store its result, its progress, or that it ended without a result."""
    from engine.store.runfile import reading

    folder, job = _folder(run), job_of(run)
    try:
        # List the folder instead of testing for the file: on a network file system a test may be a minute out of date.
        names = [file.name for file in folder.iterdir()]
        if RESULT in names:
            reading.load(folder / RESULT, awaited=run.id)
            shutil.rmtree(folder, ignore_errors=True)
            return
    except reading.BadFileError as error:
        _end(store, run, "failed", one_line(error))
        return
    except (OSError, RequestError) as error:
        # For example a full disk: the result stays where it is, for the next attempt.
        _update(store, run, progress={"phase": "finished", "text": f"its result is not stored yet: {one_line(error)}"})
        return
    now, progress = datetime.now(UTC), run.progress or {}
    word = None if words is None or job is None else words.get(job)
    if words is None:
        since = progress.get("silent_since") or now.isoformat()
        if datetime.fromisoformat(since) > now:
            since = now.isoformat()
        if now - datetime.fromisoformat(since) > FORGOTTEN:
            _end(store, run, "interrupted", f"Slurm has not answered since {since}, and there is no result")
        else:
            unheard = progress | {"text": "Slurm does not answer", "position": None, "silent_since": since}
            _update(store, run, progress={"phase": "queued"} | unheard, heartbeat_at=now)
    elif word is not None and word.state not in ENDED:
        if run.cancel_requested and job is not None:
            # The user cancelled on a machine without scancel, or before the job could receive the signal.
            with suppress(RequestError):
                cancel(job, at_once=False)
        going_on = {"status": "queued", "status_reason": None, "finished_at": None, "heartbeat_at": now}
        _update(store, run, **going_on | _standing(folder, str(job), word))
    elif PROGRESS not in names and word is not None and word.state == "CANCELLED":
        # The job had not started.
        _give_up(store, run, word)
    elif (now - _sign(run)).total_seconds() > (LATE_SECONDS if job else 2 * COMMAND_SECONDS):
        _give_up(store, run, word or (accounted(job) if job else None))


def _standing(folder: Path, job: str, word: Word) -> dict[str, Any]:
    """Return the columns to update of a run whose job waits or works."""
    if word.state == "PENDING":
        waiting = f"waiting in Slurm's queue ({word.reason})"
        return {"progress": {"phase": "queued", "text": waiting}}
    host = {"host": f"{HOST} job {job} on {word.node}"}
    try:
        columns = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return host | {"progress": {"phase": "queued", "text": f"Slurm job {job} begins"}}
    started_at = columns["started_at"] and datetime.fromisoformat(columns["started_at"])
    return host | columns | {"started_at": started_at}


def _give_up(store: Store, run: Run, word: Word | None) -> None:
    """End a run whose job is gone and left no result."""
    job = job_of(run)
    if job is None:
        _end(store, run, "interrupted", "it was not submitted: whoever did so was ended")
        return
    state = word.state if word else "not in the queue any more"
    because = f" ({word.reason})" if word and word.reason not in ("", "None") else ""
    line = queue.log_tail(run.id, 20).strip().rpartition("\n")[2]
    last = f"; the last line of its log: {line[:300]}" if line else ""
    reason = f"Slurm job {job} is {state}{because} and left no result{last}"
    if run.cancel_requested:
        _end(store, run, "cancelled", f"cancelled by the user; {reason}")
    else:
        status = "cancelled" if state == "CANCELLED" else "failed" if state in FAILED else "interrupted"
        _end(store, run, status, reason)


def _end(store: Store, run: Run, status: str, reason: str) -> None:
    _update(store, run, status=status, status_reason=reason, finished_at=datetime.now(UTC))
    (_folder(run) / REQUEST).unlink(missing_ok=True)


def _update(store: Store, run: Run, **values: Any) -> None:
    """Update columns of a run whose result is awaited. A row that its result has replaced stays as it is."""
    from sqlalchemy import update

    from engine.store.models import Run

    with store.session() as session:
        session.execute(update(Run).where(Run.id == run.id, *_awaited()).values(**values))


def follow() -> None:
    """Start the process that follows all submitted runs, unless it already runs."""
    lock = _lock()
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError):
        # A follower runs already, or the file system has no locks: then commands and pages that list runs catch up.
        return
    lock.release()
    with (paths.local_folder("logs") / "slurm.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "engine.jobs.slurm"],
            cwd=paths.REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _lock() -> FileLock:
    """The lock of the follower of this database on this machine. It lies in the user's own data folder, so that no
    other user can take it."""
    import socket

    from filelock import FileLock

    which = hashlib.sha256(f"{socket.gethostname()} {paths.database_url()}".encode()).hexdigest()[:12]
    return FileLock(paths.local_folder("logs") / f"slurm-{which}.lock")


def main() -> None:
    """Run `python -m engine.jobs.slurm`: follow submitted runs until none is under way."""
    from engine.store import open_store

    # Wait for a follower that is about to end: it may not have seen the newest run.
    with suppress(TimeoutError), _lock().acquire(timeout=2 * FOLLOW_SECONDS), open_store(create=False) as store:
        while catch_up(store, silent_s=0.0):
            time.sleep(FOLLOW_SECONDS)


if __name__ == "__main__":
    main()
