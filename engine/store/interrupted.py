"""Runs whose process is gone: found, and marked as interrupted."""

from __future__ import annotations

import socket
import stat
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Update, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from engine.machine import processes
from engine.store.models import LIVE, SLURM, Measurement, Run

SILENT_SECONDS = 60.0
"""How long a run may be silent whose process cannot be looked for: three times what a live one is at most."""
ELSEWHERE_SECONDS = 300.0
"""The same for a run of another host, whose clock may differ."""
SUBMITTED_SECONDS = 24 * 3600.0
"""The same for a run that a Slurm job measures: its result may come although nobody has looked for long."""
LAST_WORDS = ".ended"
"""The file in a run's log folder in which its process says how it ended, where the database cannot be written."""
WORDS_BYTES = 4096
"""Bytes kept free, so that a run's last words fit on a full disk."""


def mark_interrupted(session: Session, silent_s: float = SILENT_SECONDS) -> list[str]:
    """Closes runs whose process ended without a word; returns their ids.

    On this machine a process that is gone is seen at once, whatever the clock says. One that cannot be looked for from
    here (on another host, in another container, before this machine was started) counts as gone when it has given no
    sign of life for `silent_s` seconds, or ELSEWHERE_SECONDS where the clock is another host's. Its runs become
    interrupted, and their pending measurements cancelled, with the reason. Where the database cannot be written, the
    runs are still read so in this session.
    """
    now = datetime.now(UTC)
    closed = []
    for run in session.scalars(select(Run).where(Run.status.in_(LIVE))).all():
        reason = _ended(run, now, silent_s)
        if reason is None:
            continue
        sign = run.heartbeat_at or run.started_at or run.created_at
        found = {"status": "interrupted", "status_reason": reason, "finished_at": run.finished_at or sign}
        try:
            # It may have ended properly, or gone on by another process, since it was read.
            same = (Run.id == run.id, Run.status.in_(LIVE), Run.pid.is_not_distinct_from(run.pid))
            if not session.execute(_quietly(update(Run).where(*same).values(**found))).rowcount:  # type: ignore[attr-defined]
                session.refresh(run)
                continue
            pending = update(Measurement).where(Measurement.run_id == run.id, Measurement.status == "pending")
            session.execute(_quietly(pending.values(status="cancelled", status_reason=reason)))
        except OperationalError:
            if session.get_bind().dialect.name != "sqlite":
                raise
        for name, value in found.items():
            set_committed_value(run, name, value)
        # A session forgets what nobody holds, and would read it anew.
        session.info.setdefault("interrupted", []).append(run)
        closed.append(run.id)
    return closed


def _quietly(statement: Update) -> Update:
    return statement.execution_options(synchronize_session=False)


def _ended(run: Run, now: datetime, silent_s: float) -> str | None:
    """Why a live run's process counts as gone; None where it does not."""
    sign = run.heartbeat_at or run.started_at or run.created_at
    age_s = (now - sign).total_seconds()
    seen = f"last sign of life {sign:%Y-%m-%d %H:%M:%S} UTC"
    if run.host != socket.gethostname():
        silent_s = SUBMITTED_SECONDS if run.executor == SLURM else ELSEWHERE_SECONDS
        return None if age_s <= silent_s else f"{run.host} no longer says anything of it; {seen}"
    found = processes.lives(run.pid, run.process)
    anew = found is None and processes.restarted(run.process)
    # After a restart the clock may be behind what it was.
    age_s = abs(age_s) if anew else age_s
    if found or ((found is None or run.process is None) and age_s <= silent_s):
        return None
    if words := last_words(run.log_path):
        return words
    who = "its process" if run.pid is None else f"its process {run.pid}"
    how = "while it was queued" if run.status == "queued" else "without finishing"
    how += ", as the machine was started anew" if anew else ""
    return f"{who} on {run.host} ended {how}; {seen}"


def last_words(log_path: str | None) -> str | None:
    """The reason that a run's process left in a file, as it could not write to the database; None if there is none."""
    if not log_path:
        return None
    for file in (Path(log_path) / LAST_WORDS, words_elsewhere(Path(log_path).name)):
        with suppress(OSError):
            about = file.lstat()
            # Among everybody's temporary files any user may have put one of that name.
            mine = about.st_uid == processes.user() or file.name == LAST_WORDS
            if stat.S_ISREG(about.st_mode) and mine and (words := file.read_bytes()[:WORDS_BYTES].strip()):
                return words.decode(errors="replace")
    return None


def words_elsewhere(run_id: str) -> Path:
    """Where they are if the data folder's file system takes nothing any more."""
    return Path(tempfile.gettempdir()) / f"inference-bench-{run_id}{LAST_WORDS}"
