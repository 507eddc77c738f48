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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import paths
from engine.errors import RequestError, one_line
from engine.spec import Suite, parse_suite
from engine.units import duration

WAIT_SECONDS = 24 * 3600.0
"""How long a queued run waits for its device."""
ABANDONED_SECONDS = 10.0
"""How long a queued run may be silent before its process is looked for."""
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
    from engine.store import models, open_store

    device = hardware.resolve_device(device_request)
    run_id = str(ULID())
    logs = paths.local_folder("logs") / run_id
    logs.mkdir(parents=True, exist_ok=True)
    with open_store() as store:
        with store.session() as session:
            session.add(
                models.Run(
                    id=run_id,
                    suite_name=suite.name,
                    suite=suite.model_dump(mode="json"),
                    suite_path=suite_path,
                    device=device.spec,
                    device_name=device.name,
                    host=socket.gethostname(),
                    environment={},
                    status="queued",
                    created_at=datetime.now(UTC),
                    heartbeat_at=datetime.now(UTC),
                    log_path=str(logs),
                )
            )
        pid = _detach(run_id, [str(suite.folder), *(["--offline"] if offline else [])])
        with store.session() as session:
            run = session.get(models.Run, run_id)
            if run is not None and run.pid is None:
                run.pid = pid
    return run_id


def _detach(run_id: str, arguments: list[str]) -> int:
    """Start the process that measures a queued run; its id."""
    with (paths.local_folder("logs") / run_id / "run.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "engine.jobs", run_id, *arguments],
            cwd=paths.REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ).pid


def resume(reference: str) -> str:
    """Queue an ended run again, to measure what it lacks; its id.

    Raises RequestError where it cannot go on, see `engine.resuming.resumable`.
    """
    from engine import resuming
    from engine.store import models, open_store

    found = resuming.resumable(reference)
    (paths.local_folder("logs") / found.id).mkdir(exist_ok=True)
    with open_store(create=False) as store:
        with store.session() as session:
            run = session.get_one(models.Run, found.id)
            run.status, run.status_reason, run.finished_at = "queued", None, None
            run.cancel_requested, run.progress, run.pid = False, None, None
            run.heartbeat_at = datetime.now(UTC)
        pid = _detach(found.id, [str(found.suite.folder), "--resume"])
        with store.session() as session:
            run = session.get_one(models.Run, found.id)
            run.pid = run.pid or pid
    return found.id


def cancel(reference: str, at_once: bool = False) -> bool:
    """Ask a run to end after the round it is in, or at once; False where it had ended already.

    Either way what was measured until then is kept. Raises RequestError where it should end at once and its process
    is not one of this machine.
    """
    from engine.store import open_store, queries

    with open_store(create=False) as store, store.session() as session:
        run = queries.get_run(session, reference)
        if run.status in ENDED:
            return False
        run.cancel_requested = True
        run_id, host, pid = run.id, run.host, run.pid
    if at_once:
        _interrupt(run_id, host, pid)
    return True


def _interrupt(run_id: str, host: str, pid: int | None) -> None:
    """Tell a run's process to end what it does; it writes down what became of it."""
    import signal
    import socket

    import psutil

    if host != socket.gethostname():
        raise RequestError(f"run {run_id} is measured on {host}: it can end at once only from there")
    try:
        command = psutil.Process(pid).cmdline() if pid is not None else []
        # Its number may be another process's by now.
        if run_id in command or {"engine", "run"} <= set(command):
            os.kill(pid or 0, signal.SIGTERM)
            return
    except (psutil.Error, OSError):
        pass
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


def close_abandoned() -> list[str]:
    """Queued runs of this host whose process is gone become interrupted; returns their ids.

    `engine.store.queries.mark_interrupted` does the same for runs that had begun.
    """
    import socket

    from sqlalchemy import select

    from engine import pool
    from engine.store import models, open_store

    closed = []
    with open_store(create=False) as store, store.session() as session:
        query = select(models.Run).where(models.Run.status == "queued", models.Run.host == socket.gethostname())
        for run in session.scalars(query):
            age_s = (datetime.now(UTC) - (run.heartbeat_at or run.created_at)).total_seconds()
            if age_s > ABANDONED_SECONDS and (run.pid is None or not pool.alive(run.pid)):
                run.status, run.finished_at = "interrupted", datetime.now(UTC)
                run.status_reason = f"its process on {run.host} ended while it was queued"
                closed.append(run.id)
    return closed


def log_tail(run_id: str, lines: int = 200) -> str:
    """The last lines of what a detached run printed; empty where there is no such log."""
    file = paths.local_data() / "logs" / run_id / "run.log"
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 200 * lines))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def measure(run_id: str, folder: Path, offline: bool, resume: bool = False) -> int:
    """Measure a queued run in this process, or what it lacks; returns the exit code."""
    from engine import resuming, runner
    from engine.store import models, open_store

    with open_store(create=False) as store, store.session() as session:
        run = session.get(models.Run, run_id)
        if run is None:
            print(f"error: no run {run_id} in the store", file=sys.stderr)
            return 2
        raw, device, path = run.suite, run.device, run.suite_path
    said: tuple[str, str | None] | None = None

    def say(progress: runner.Progress) -> None:
        nonlocal said
        if said != (said := (progress.phase, progress.variant)):
            print(f"{datetime.now(UTC):%H:%M:%S} {progress.phase}: {progress.text}", flush=True)

    try:
        suite = parse_suite(raw, f"run {run_id}", folder)
        runner.run(
            suite,
            device,
            offline=offline,
            listener=say,
            suite_path=path,
            run_id=run_id,
            wait_seconds=WAIT_SECONDS,
            resume=resuming.stored(run_id) if resume else None,
        )
    except (KeyboardInterrupt, runner.Cancelled):
        print("cancelled", flush=True)
        return 130
    except RequestError as error:
        _fail(run_id, one_line(error, 2000))
        print(f"error: {one_line(error, 2000)}", file=sys.stderr)
        return 2
    except Exception as error:
        _fail(run_id, f"{type(error).__name__}: {one_line(error)}")
        raise
    return 0


def _fail(run_id: str, reason: str) -> None:
    """A run that ended before its runner could say so."""
    from engine.store import models, open_store

    with open_store(create=False) as store, store.session() as session:
        run = session.get(models.Run, run_id)
        if run is not None and run.status not in ENDED:
            run.status, run.status_reason, run.finished_at = "failed", reason, datetime.now(UTC)


def main() -> None:
    """`python -m engine.jobs RUN FOLDER [--offline] [--resume]`."""
    import signal

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    os.chdir(paths.REPOSITORY)
    sys.exit(measure(sys.argv[1], Path(sys.argv[2]), "--offline" in sys.argv[3:], "--resume" in sys.argv[3:]))


if __name__ == "__main__":
    main()
