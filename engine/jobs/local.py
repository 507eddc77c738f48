"""Runs that go on when the terminal or page that started them is closed.

A run is queued in the store, and a detached process measures it. The run waits for its device; while it is measured,
its process holds the device's lock. `start` queues a run, its row in the store shows how it goes, and
`engine.jobs.ending.cancel` ends it.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import paths
from engine.errors import RequestError, one_line
from engine.jobs.queue import ENDED, next_queue_time, queued
from engine.machine.processes import end_politely, mark
from engine.suite.reading import parse_suite
from engine.suite.spec import Suite

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from engine.store import Store


def start(suite: Suite, device_request: str, suite_path: str | None = None, offline: bool = False) -> str:
    """Queue a run of `suite` and start the process that will measure it. Return the run's id at once.

    The process has its own session, so it goes on when the dashboard, the terminal or the SSH connection that started
    it ends. Raises RequestError where the device does not exist or the store cannot be written.
    """
    import socket

    from ulid import ULID

    from engine.machine import devices
    from engine.run.recorder import reserve_last_words
    from engine.store import open_store

    device = devices.resolve_device(device_request)
    run_id = str(ULID())
    with open_store() as store:
        reserve_last_words(run_id)
        with store.session() as session:
            asked = next_queue_time(session)
            session.add(queued(run_id, suite, suite_path, device.spec, device.name, socket.gethostname(), asked))
        _detach(store, run_id, [str(suite.folder), *(["--offline"] if offline else [])])
    return run_id


def _detach(store: Store, run_id: str, arguments: list[str]) -> None:
    """Start the process that measures a queued run, and store its process id."""
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
    # If the database stays locked, the process stores its own id later.
    with suppress(LockedError), store.session() as session:
        _claim(session, run_id, pid)


def _claim(session: Session, run_id: str, pid: int) -> None:
    """Store that process `pid` measures a queued run. The process does so too, in case its starter ends before."""
    from sqlalchemy import update

    from engine.store import models

    queued = update(models.Run).where(models.Run.id == run_id, models.Run.status == "queued")
    session.execute(queued.values(pid=pid, process=mark(pid)))


def resume(reference: str, offline: bool = False) -> str:
    """Queue an ended run again, to measure what it lacks. Return its id.

    Raises RequestError where the run cannot be resumed (see `engine.run.resuming.resumable`), or where another process
    has just resumed it.
    """
    from sqlalchemy import update

    from engine.run import resuming
    from engine.run.recorder import reserve_last_words
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
                queued_at=next_queue_time(session),
                heartbeat_at=datetime.now(UTC),
            )
            if not session.execute(anew).rowcount:  # type: ignore[attr-defined]
                raise RequestError(f"run {found.id} goes on already: somebody else has resumed it just now")
        _detach(store, found.id, [str(found.suite.folder), "--resume", *(["--offline"] if offline else [])])
    return found.id


def _claimed(run_id: str) -> tuple[dict[str, Any], str, str | None] | None:
    """Claim a run for this process. Return its suite, device and suite path; None where there is no such run."""
    from engine.store import models, open_store

    with open_store(create=False) as store, store.session() as session:
        run = session.get(models.Run, run_id)
        if run is None:
            return None
        _claim(session, run_id, os.getpid())
        return run.suite, run.device, run.suite_path


def measure(run_id: str, folder: Path, offline: bool, resume: bool = False) -> int:
    """Measure a queued run in this process; with `resume`, only what it lacks. Return the exit code."""
    from engine.run import resuming, runner, state
    from engine.run.recorder import patiently

    printed: tuple[str, str | None] | None = None

    def print_step(progress: state.Progress) -> None:
        nonlocal printed
        if printed != (printed := (progress.phase, progress.variant)):
            # A full disk must not end the run: ignore errors of the log.
            with suppress(OSError):
                print(f"{datetime.now(UTC):%H:%M:%S} {progress.phase}: {progress.text}", flush=True)

    try:
        claimed = patiently(lambda: _claimed(run_id))
        if claimed is None:
            print(f"error: no run {run_id} in the store", file=sys.stderr)
            return 2
        raw, device, path = claimed
        suite = parse_suite(raw, f"run {run_id}", folder)
        runner.run(
            suite,
            device,
            offline=offline,
            listener=print_step,
            suite_path=path,
            run_id=run_id,
            wait_seconds=math.inf,
            resume=resuming.stored(run_id) if resume else None,
        )
    except (KeyboardInterrupt, state.Cancelled):
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
    """Store how a run ended, where it ended before its runner could store that."""
    from engine.run.recorder import patiently, say_last
    from engine.store import models, open_store

    def write() -> None:
        with open_store(create=False) as store, store.session() as session:
            run = session.get(models.Run, run_id)
            if run is not None and run.status not in ENDED:
                run.status, run.status_reason, run.finished_at = status, reason, datetime.now(UTC)

    try:
        # A user who cancels at once must not wait for a locked database.
        patiently(write, 0.0 if status == "cancelled" else None)
    except RequestError:
        say_last(run_id, reason)


def main() -> None:
    """`python -m engine.jobs RUN FOLDER [--offline] [--resume]`."""
    end_politely()
    os.chdir(paths.REPOSITORY)
    sys.exit(measure(sys.argv[1], Path(sys.argv[2]), "--offline" in sys.argv[3:], "--resume" in sys.argv[3:]))


if __name__ == "__main__":
    main()
