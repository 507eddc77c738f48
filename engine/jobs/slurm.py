"""Runs as jobs of a Slurm cluster: submitted with sbatch, followed by squeue and by files.

One run is one job, so that all its variants share a node. The job measures into a database of its own
(`engine.jobs.slurmjob`); a folder beside the run's log, on the file system that both sides see, is all they share:

    request.json     what to measure, by the submitting side
    progress.json    where the run stands, by the job
    result.run.zip   the whole run as `engine.store.runfile.reading` writes it, by the job, at its end

The store has a row for the run meanwhile, which the result replaces. `catch_up` does all that there is to do; a process
of its own calls it until no run is under way, and so does whoever looks at runs when that process is gone.
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
SILENT_SECONDS = 30.0
"""How old the last look at a job is before somebody else than its follower looks."""
LATE_SECONDS = 10.0
"""How long after the end of a job its result may take to be seen: a network file system is slow to tell."""
FORGOTTEN = timedelta(days=1)
"""After so long without a word of Slurm a run is given up."""
FAILED = ("FAILED", "COMPLETED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
ENDED = ("CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "REVOKED", *FAILED)
"""Slurm's words for jobs that will not go on."""
ANY = "any"


class Profile(Spec):
    """What a job asks of the cluster. What is left out, the cluster decides."""

    partition: Text | None = None
    gpu: Text | None = None
    """The type of its one GPU as the cluster names it, or "any"; none without."""
    time: Text | None = None
    """Its limit, as sbatch takes it: "2:00:00"."""
    account: Text | None = None
    options: list[Annotated[str, Field(pattern="^-")]] = []
    """Further options of sbatch, such as "--cpus-per-task=8"."""
    setup: list[Text] = []
    """Lines of bash that come before the bench, such as "module load cuda"."""


def profile_file() -> Path:
    """Where the profile may lie."""
    return paths.local_data() / "slurm.toml"


def profile(**given: str | None) -> Profile:
    """The profile file, if there is one, and what is `given` over it. Raises RequestError."""
    file = profile_file()
    raw = read_toml(file) if file.exists() else {}
    raw |= {key: value for key, value in given.items() if value}
    try:
        return Profile.model_validate(raw)
    except ValidationError as error:
        raise RequestError(f"{file if file.exists() else '--on slurm'}: {explain(error, raw, Profile)}") from error


def profiles(gpu: str | None = None, **given: str | None) -> list[Profile]:
    """A `profile` for each type of GPU in `gpu`, a list with commas between. Raises RequestError."""
    return [profile(gpu=kind.strip(), **given) for kind in (gpu or "").split(",")]


def unavailable() -> str | None:
    """Why no job can be submitted from here; None where one can."""
    if shutil.which("sbatch"):
        return None
    return "there is no sbatch on this machine: start the bench on a login node of the cluster"


# Submitting


def submit(suite: Suite, asked: Profile, device_request: str, suite_path: str | None, offline: bool = False) -> str:
    """Submit a run as a job; returns the run's id at once. Raises RequestError, with what sbatch says."""
    from ulid import ULID

    from engine.machine import devices
    from engine.store import models, open_store

    if why := unavailable():
        raise RequestError(f"--on slurm: {why}")
    if devices.parse_device(device_request)[0] == "auto" and asked.gpu:
        device_request = "cuda"
    run_id = str(ULID())
    row = queue.queued(run_id, suite, suite_path, device_request, _device_words(asked), HOST, datetime.now(UTC))
    said = asked.model_dump(exclude_defaults=True)
    row.executor, row.environment = models.SLURM, {"slurm": said}
    request = {
        "run": run_id,
        "suite": row.suite,
        "folder": str(suite.folder),
        "suite_path": suite_path,
        "device": device_request,
        "device_name": row.device_name,
        "offline": offline,
        "created_at": row.created_at.isoformat(),
        "slurm": said,
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
            row.host, row.environment = f"{HOST} job {job}", {"slurm": {"job": job} | said}
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
    """Hands the job to Slurm; its number."""
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
        # Signals for the job come to this process.
        f"exec {shlex.quote(sys.executable)} -m engine.jobs.slurmjob {shlex.quote(str(folder))}",
    ]
    # The store of this side is nothing that the job needs, and its URL may hold a password.
    around = {name: value for name, value in os.environ.items() if name != "BENCH_DATABASE_URL"}
    fixed = ["--parsable", "--nodes=1", "--ntasks=1", "--no-requeue", "--open-mode=append"]
    done = ask("sbatch", *fixed, *options, *asked.options, stdin="\n".join(lines) + "\n", env=around)
    if done.returncode:
        raise RequestError(one_line(ValueError(done.stderr)))
    return done.stdout.strip().partition(";")[0]


# Following


def job_of(run: Run) -> str | None:
    """The number of the job that measures `run`; None where none does, or where its result is here."""
    from engine.store.models import SLURM

    return run.environment.get("slurm", {}).get("job") if run.executor == SLURM else None


def catch_up(store: Store, silent_s: float = SILENT_SECONDS) -> bool:
    """Brings submitted runs up to what their jobs and Slurm say, and stores the results that are there.

    Only those that this user submitted, whose folder this machine sees, and at which nobody has looked for `silent_s`.
    Returns whether any such run is under way; harmless in any number of processes at once.
    """
    from sqlalchemy import select

    from engine.store.models import Run

    with store.session() as session:
        mine = [run for run in session.scalars(select(Run).where(*_awaited())) if _is_mine(run)]
    now, due = datetime.now(UTC), []
    for run in mine:
        age_s = (now - _sign(run)).total_seconds()
        if age_s < 0:
            # The clock was set back: ages count from now on.
            run.heartbeat_at = now
            _update(store, run, heartbeat_at=now)
        if not 0 <= age_s < silent_s:
            due.append(run)
    found = words() if due else None
    for run in due:
        _look(store, run, found)
    return bool(mine)


def _awaited() -> tuple[ColumnElement[bool], ...]:
    """Which runs may still have a result to come: those, too, that were given up by who could not look at their job."""
    from engine.store import models
    from engine.store.models import Run

    return Run.status.in_((*models.LIVE, "interrupted")), Run.executor == models.SLURM, Run.imported_at.is_(None)


def _folder(run: Run) -> Path:
    return Path(str(run.log_path)) / "slurm"


def _is_mine(run: Run) -> bool:
    """Whether this user submitted it and waits for it; its request is gone when he does not any more."""
    with suppress(OSError):
        return (_folder(run) / REQUEST).stat().st_uid == os.getuid()
    return False


def _sign(run: Run) -> datetime:
    return run.heartbeat_at or run.created_at


def _look(store: Store, run: Run, words: dict[str, Word] | None) -> None:
    """One submitted run: its result, or where it stands, or that it has ended without any."""
    from engine.store.runfile import reading

    folder, job = _folder(run), job_of(run)
    try:
        # Not whether it exists: on a network file system, a list is fresh and an answer may be a minute old.
        names = [file.name for file in folder.iterdir()]
        if RESULT in names:
            reading.load(folder / RESULT, awaited=run.id)
            shutil.rmtree(folder, ignore_errors=True)
            return
    except reading.BadFileError as error:
        _end(store, run, "failed", one_line(error))
        return
    except (OSError, RequestError) as error:
        # Such as a full disk: the result stays where it is, for the next look.
        _update(store, run, progress={"phase": "finished", "text": f"its result is not stored yet: {one_line(error)}"})
        return
    now, said = datetime.now(UTC), run.progress or {}
    word = None if words is None or job is None else words.get(job)
    if words is None:
        since = said.get("silent_since") or now.isoformat()
        if datetime.fromisoformat(since) > now:
            since = now.isoformat()
        if now - datetime.fromisoformat(since) > FORGOTTEN:
            _end(store, run, "interrupted", f"Slurm has not answered since {since}, and there is no result")
        else:
            unheard = said | {"text": "Slurm does not answer", "position": None, "silent_since": since}
            _update(store, run, progress={"phase": "queued"} | unheard, heartbeat_at=now)
    elif word is not None and word.state not in ENDED:
        if run.cancel_requested and job is not None:
            # Asked for where there was no scancel, or before the job could hear it.
            with suppress(RequestError):
                cancel(job, at_once=False)
        going_on = {"status": "queued", "status_reason": None, "finished_at": None, "heartbeat_at": now}
        _update(store, run, **going_on | _standing(folder, str(job), word))
    elif PROGRESS not in names and word is not None and word.state == "CANCELLED":
        # It had not begun.
        _give_up(store, run, word)
    elif (now - _sign(run)).total_seconds() > (LATE_SECONDS if job else 2 * COMMAND_SECONDS):
        _give_up(store, run, word or (accounted(job) if job else None))


def _standing(folder: Path, job: str, word: Word) -> dict[str, Any]:
    """The columns of a run whose job is under way."""
    if word.state == "PENDING":
        waiting = f"waiting in Slurm's queue ({word.reason})"
        return {"progress": {"phase": "queued", "text": waiting}}
    host = {"host": f"{HOST} job {job} on {word.node}"}
    try:
        told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return host | {"progress": {"phase": "queued", "text": f"Slurm job {job} begins"}}
    return host | told | {"started_at": told["started_at"] and datetime.fromisoformat(told["started_at"])}


def _give_up(store: Store, run: Run, word: Word | None) -> None:
    """The job is gone and has left no result."""
    job = job_of(run)
    if job is None:
        _end(store, run, "interrupted", "it was not submitted: whoever did so was ended")
        return
    state = word.state if word else "not in the queue any more"
    because = f" ({word.reason})" if word and word.reason not in ("", "None") else ""
    said = queue.log_tail(run.id, 20).strip().rpartition("\n")[2]
    last = f"; the last line of its log: {said[:300]}" if said else ""
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
    """Columns of a run whose result is awaited: what has replaced its row meanwhile stays as it is."""
    from sqlalchemy import update

    from engine.store.models import Run

    with store.session() as session:
        session.execute(update(Run).where(Run.id == run.id, *_awaited()).values(**values))


def follow() -> None:
    """Starts the process that follows all submitted runs, unless it is there."""
    lock = _lock()
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError):
        # Somebody follows, or the file system knows no locks: then whoever looks at runs does it.
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
    """Who follows the runs of this database, on this machine: among what is ours, where nobody else can take it."""
    import socket

    from filelock import FileLock

    which = hashlib.sha256(f"{socket.gethostname()} {paths.database_url()}".encode()).hexdigest()[:12]
    return FileLock(paths.local_folder("logs") / f"slurm-{which}.lock")


def main() -> None:
    """`python -m engine.jobs.slurm`: follows submitted runs until none is under way."""
    from engine.store import open_store

    # Another one that is about to end may not have seen the newest run.
    with suppress(TimeoutError), _lock().acquire(timeout=2 * FOLLOW_SECONDS), open_store(create=False) as store:
        while catch_up(store, silent_s=0.0):
            time.sleep(FOLLOW_SECONDS)


if __name__ == "__main__":
    main()
