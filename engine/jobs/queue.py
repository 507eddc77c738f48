"""Queued runs: their rows, their order, their standing and the end of their logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from engine import paths
from engine.run.position import RoundPosition
from engine.suite.spec import Suite
from engine.units import duration

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from engine.store.models import Run

ENDED = ("finished", "failed", "cancelled", "interrupted")


def queued(
    run_id: str, suite: Suite, suite_path: str | None, device: str, device_name: str, host: str, asked: datetime
) -> Run:
    """Return the row, not stored yet, of a run that waits since `asked`. Make the folder of its log."""
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


def next_queue_time(session: Session) -> datetime:
    """Return the queue time of a new run: now, but later than every queued run even if the clock was set back."""
    from sqlalchemy import func, select

    from engine.store import models

    last = session.scalar(select(func.max(models.Run.queued_at)).where(models.Run.status == "queued"))
    return max(datetime.now(UTC), last + timedelta(milliseconds=1)) if last else datetime.now(UTC)


def standing(status: str, progress: dict[str, Any] | None) -> str:
    """Return where a run stands in a few words, such as "timing round 3 of at least 30, about 40 s left".

    `status` and `progress` are columns of the run's row; `progress` is a `Progress` as JSON.
    """
    if status in ENDED or not progress:
        return status
    text, phase = str(progress.get("text") or ""), str(progress.get("phase") or status)
    if position := RoundPosition.from_json(progress.get("position")):
        text = f"{phase} {position.words}"
    elif text != phase:
        text = f"{phase}: {text}"
    left_s = progress.get("seconds_left")
    return text + ("" if left_s is None else f", about {duration(left_s)} left")


def log_tail(run_id: str, lines: int = 200) -> str:
    """Return the last lines that a detached run printed; an empty string where it has no log."""
    file = paths.local_data() / "logs" / run_id / "run.log"
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 200 * lines))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
