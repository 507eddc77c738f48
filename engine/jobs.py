"""Runs that outlive who asked for them: queued in the store, measured by a detached process.

A queued run waits for its device; the process that measures it holds the device's lock. Ask for a run
with `start`, follow it by its row in the store, end it with `cancel`.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import paths, processes
from engine.errors import RequestError, one_line
from engine.spec import Suite, parse_suite
from engine.units import duration

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from engine.store import Store
    from engine.store.models import Run

ENDED = ("finished", "failed", "cancelled", "interrupted")


def start(suite: Suite, device_request: str, suite_path: str | None = None, offline: bool = False) -> str:
    """Queue a run of `suite` and start the process that will measure it; returns the run's id at once.

    The process is a session of its own: it goes on when the dashboard, the terminal or the SSH
    connection that asked for it ends. Raises RequestError where the device is not there or the store
    cannot be written.
    """
    import socket

    from ulid import ULID

    from engine import hardware
    from engine.recorder import reserve_last_words
    from engine.store import open_store

    device = hardware.resolve_device(device_request)
    run_id = str(ULID())
    with open_store() as store:
        reserve_last_words(run_id)
        with store.session() as session:
            asked = _turn(session)
            session.add(queued(run_id, suite, suite_path, device.spec, device.name, socket.gethostname(), asked))
        _detach(store, run_id, [str(suite.folder), *(["--offline"] if offline else [])])
    return run_id


def queued(
    run_id: str, suite: Suite, suite_path: str | None, device: str, device_name: str, host: str, asked: datetime
) -> Run:
    """The row of a run that waits since it was `asked` for, not stored yet; the folder of its log is there."""
    from engine.store.models import Run

    logs = paths.local_folder("logs") / run_id
    logs.mkdir(exist_ok=True)
    return Run(
        id=run_id,
        suite_name=suite.name,
        suite=suite.model_dump(mode="json"),
        suite_path=suite_path,
        device=device,
        device_name=device_name,
        host=host,
        environment={},
        status="queued",
        created_at=asked,
        queued_at=asked,
        heartbeat_at=datetime.now(UTC),
        log_path=str(logs),
    )


def _turn(session: Session) -> datetime:
    """When a run is asked for: now, but behind all that wait, whatever was done to the clock in between."""
    from sqlalchemy import func, select

    from engine.store import models

    last = session.scalar(select(func.max(models.Run.queued_at)).where(models.Run.status == "queued"))
    return max(datetime.now(UTC), last + timedelta(milliseconds=1)) if last else datetime.now(UTC)


def _detach(store: Store, run_id: str, arguments: list[str]) -> None:
    """Start the process that measures a queued run, and write down which it is."""
    from engine.store import LockedError

    with (paths.local_folder("logs") / run_id / "run.log").open("ab") as log:
        pid = subprocess.Popen(
            [sys.executable, "-m", "engine.jobs", run_id, *arguments],
            cwd=paths.REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ).pid
    # Where the database is locked for long, the process says so itself.
    with suppress(LockedError), store.session() as session:
        _claim(session, run_id, pid)


def _claim(session: Session, run_id: str, pid: int) -> None:
    """A queued run is process `pid`'s, which says so itself too: who asked for it may be gone before."""
    from sqlalchemy import update

    from engine.store import models

    queued = update(models.Run).where(models.Run.id == run_id, models.Run.status == "queued")
    session.execute(queued.values(pid=pid, process=processes.mark(pid)))


def resume(reference: str, offline: bool = False) -> str:
    """Queue an ended run again, to measure what it lacks; its id.

    Raises RequestError where it cannot go on, see `engine.resuming.resumable`, or where somebody else was faster.
    """
    from sqlalchemy import update

    from engine import resuming
    from engine.recorder import reserve_last_words
    from engine.store import models, open_store

    found = resuming.resumable(reference)
    reserve_last_words(found.id)
    with open_store(create=False) as store:
        with store.session() as session:
            ended = update(models.Run).where(models.Run.id == found.id, models.Run.status.in_(ENDED))
            anew = ended.values(
                status="queued",
                status_reason=None,
                finished_at=None,
                cancel_requested=False,
                progress=None,
                pid=None,
                process=None,
                queued_at=_turn(session),
                heartbeat_at=datetime.now(UTC),
            )
            if not session.execute(anew).rowcount:  # type: ignore[attr-defined]
                raise RequestError(f"run {found.id} goes on already: somebody else has resumed it just now")
        _detach(store, found.id, [str(found.suite.folder), "--resume", *(["--offline"] if offline else [])])
    return found.id


def cancel(reference: str, at_once: bool = False) -> bool:
    """Ask a run to end after the round it is in, or at once; False where it had ended already.

    Either way what was measured until then is kept. Raises RequestError where it should end at once and its process
    is not one of this machine.
    """
    from engine import slurm
    from engine.store import open_store, queries

    with open_store(create=False) as store, store.session() as session:
        run = queries.get_run(session, reference)
        if run.status in ENDED:
            return False
        run.cancel_requested = True
        run_id, host, pid, process, job = run.id, run.host, run.pid, run.process, slurm.job_of(run)
    if job is not None:
        slurm.cancel(job, at_once)
    elif at_once:
        _interrupt(run_id, host, pid, process)
    return True


def _interrupt(run_id: str, host: str, pid: int | None, process: str | None) -> None:
    """Tell a run's process to end what it does; it writes down what became of it."""
    import signal
    import socket

    if host != socket.gethostname():
        raise RequestError(f"run {run_id} is measured on {host}: it can end at once only from there")
    # Its number may be another process's by now.
    if pid is not None and process and processes.lives(pid, process):
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
            return
    raise RequestError(f"run {run_id}: its process {pid} is not there any more, or is another user's")


def standing(status: str, progress: dict[str, Any] | None, spec: dict[str, Any]) -> str:
    """Where a run is in a few words, such as "timing round 3 of 30, about 40 s left"; columns of its row."""
    if status in ENDED or not progress:
        return status
    text, phase = str(progress.get("text") or ""), str(progress.get("phase") or status)
    if phase == "timing" and (found := re.match(r"round (\d+), process (\d+) of (\d+)", text)):
        index, process, processes = map(int, found.groups())
        rounds = math.ceil(spec.get("protocol", {}).get("rounds", index) / processes)
        text = f"timing round {index} of {'at least ' if index <= rounds else ''}{max(index, rounds)}"
        text += f", process {process} of {processes}" if processes > 1 else ""
    elif not text.startswith(phase):
        text = f"{phase}: {text}"
    left = progress.get("seconds_left")
    return text + ("" if left is None else f", about {duration(left)} left")


def log_tail(run_id: str, lines: int = 200) -> str:
    """The last lines of what a detached run printed; empty where there is no such log."""
    file = paths.local_data() / "logs" / run_id / "run.log"
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 200 * lines))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _claimed(run_id: str) -> tuple[dict[str, Any], str, str | None] | None:
    """Suite, device and the suite's path of a run that is this process's from now on; None where there is none."""
    from engine.store import models, open_store

    with open_store(create=False) as store, store.session() as session:
        run = session.get(models.Run, run_id)
        if run is None:
            return None
        _claim(session, run_id, os.getpid())
        return run.suite, run.device, run.suite_path


def measure(run_id: str, folder: Path, offline: bool, resume: bool = False) -> int:
    """Measure a queued run in this process, or what it lacks; returns the exit code."""
    from engine import resuming, runner
    from engine.recorder import patiently

    said: tuple[str, str | None] | None = None

    def say(progress: runner.Progress) -> None:
        nonlocal said
        if said != (said := (progress.phase, progress.variant)):
            # A log on a full disk ends no run.
            with suppress(OSError):
                print(f"{datetime.now(UTC):%H:%M:%S} {progress.phase}: {progress.text}", flush=True)

    try:
        found = patiently(lambda: _claimed(run_id))
        if found is None:
            print(f"error: no run {run_id} in the store", file=sys.stderr)
            return 2
        raw, device, path = found
        suite = parse_suite(raw, f"run {run_id}", folder)
        runner.run(
            suite,
            device,
            offline=offline,
            listener=say,
            suite_path=path,
            run_id=run_id,
            wait_seconds=math.inf,
            resume=resuming.stored(run_id) if resume else None,
        )
    except (KeyboardInterrupt, runner.Cancelled):
        _ended(run_id, "cancelled", "cancelled by the user while it was queued")
        print("cancelled", flush=True)
        return 130
    except RequestError as error:
        _ended(run_id, "failed", one_line(error, 2000))
        print(f"error: {one_line(error, 2000)}", file=sys.stderr)
        return 2
    except Exception as error:
        _ended(run_id, "failed", f"{type(error).__name__}: {one_line(error)}")
        raise
    return 0


def _ended(run_id: str, status: str, reason: str) -> None:
    """A run that ended before its runner could say so."""
    from engine.recorder import patiently, say_last
    from engine.store import models, open_store

    def write() -> None:
        with open_store(create=False) as store, store.session() as session:
            run = session.get(models.Run, run_id)
            if run is not None and run.status not in ENDED:
                run.status, run.status_reason, run.finished_at = status, reason, datetime.now(UTC)

    try:
        # Whoever asked for an end at once does not wait ten minutes for it.
        patiently(write, 0.0 if status == "cancelled" else None)
    except RequestError:
        say_last(run_id, reason)


def main() -> None:
    """`python -m engine.jobs RUN FOLDER [--offline] [--resume]`."""
    processes.end_politely()
    os.chdir(paths.REPOSITORY)
    sys.exit(measure(sys.argv[1], Path(sys.argv[2]), "--offline" in sys.argv[3:], "--resume" in sys.argv[3:]))


if __name__ == "__main__":
    main()
