"""Everything that a run writes to the store, in small transactions that are each consistent."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import update_wrapper
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import delete, func, select, tuple_, update

from engine import paths
from engine.errors import RequestError, one_line
from engine.machine import environment, processes
from engine.measurement import doubts
from engine.measurement.blocks import Block
from engine.store import LockedError, interrupted, measurements, models, open_store, runs
from engine.store.examples import add_example_set

if TYPE_CHECKING:
    import numpy as np
    from sqlalchemy.orm import Session

    from engine.run.state import Cell, Progress
    from engine.suite.plan import Plan

PROGRESS_SECONDS = 1.0
"""Minimum time between two writes of progress. Each is also a heartbeat."""
HEARTBEAT_SECONDS = 20.0
"""Maximum time without a heartbeat. Ordinary rounds write progress more often, so no extra heartbeat disturbs them."""
LOCKED_SECONDS = 600.0
"""How long a write is retried while another process has locked the database."""
LOCKED_STEP_SECONDS = 0.05
"""Time between two tries: a database may be configured not to wait for a lock at all."""
EARLIER_RUNS = 50
"""How many earlier runs of a suite are looked at to see whether the machine is as fast as it was."""


OBSERVED = (
    "load_s", "weights_bytes", "parameters", "truncated", "ram_peak_bytes", "ram_source", "vram_peak_bytes",
    "vram_source", "memory", "energy_j_per_1000_examples", "energy", "audit", "tokenize_p50_s", "device_p50_s",
    "invariance",
)  # fmt: skip
"""The columns of a measurement that do not follow from its calls and answers."""


P = ParamSpec("P")
T = TypeVar("T")


def _patient(method: Callable[Concatenate[Recorder, P], T]) -> Callable[Concatenate[Recorder, P], T]:
    """Retry a write while another process has locked the database, so that a backup of it ends no run."""

    def tried(self: Recorder, /, *arguments: P.args, **named: P.kwargs) -> T:
        return patiently(lambda: method(self, *arguments, **named), self.patience_s)

    update_wrapper(tried, method)
    return tried


def patiently(write: Callable[[], T], patience_s: float | None = None) -> T:
    """Call `write` until it succeeds or the database stays locked for `patience_s`. Return its result.

    `patience_s` is LOCKED_SECONDS by default. Raises `write`'s LockedError where the database is still locked then.
    """
    deadline = time.monotonic() + (LOCKED_SECONDS if patience_s is None else patience_s)
    while True:
        try:
            return write()
        except LockedError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(LOCKED_STEP_SECONDS)


class Recorder:
    """Writes one run to the store. Use as a context manager."""

    def __init__(self, url: str | None = None) -> None:
        self._store = open_store(url)
        self._told_s = 0.0
        self._phase = ""
        self._status = "queued"
        self._went_on = _now(), _elapsed_s()
        self.patience_s = LOCKED_SECONDS

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._store.close()

    @_patient
    def begin(
        self,
        run_id: str,
        plan: Plan,
        cells: list[Cell],
        suite_path: str | None,
    ) -> None:
        """Store the run's row (or update the queued one), its examples, and a pending measurement for each cell."""
        suite, device, examples = plan.suite, plan.device, plan.corpus
        with self._store.session() as session:
            add_example_set(
                session,
                examples.digest,
                examples.dataset,
                examples.label_names,
                examples.texts,
                examples.labels,
                examples.source_indices,
            )
            run = session.get(models.Run, run_id) or models.Run(id=run_id, created_at=_now())
            run.suite_name = suite.name
            run.suite = suite.model_dump(mode="json")
            run.suite_path = suite_path
            run.device, run.device_name = device.spec, device.name
            run.host, run.executor = socket.gethostname(), None
            run.environment = environment.environment() | {"threads": plan.threads}
            run.status, run.pid, run.process = "preparing", os.getpid(), processes.mark()
            run.started_at = run.heartbeat_at = _now()
            run.log_path = str(paths.local_data() / "logs" / run_id)
            run.example_set_id = examples.digest
            session.add(run)
            rows = [
                models.Measurement(
                    run_id=run_id,
                    position=cell.planned.position,
                    variant=cell.variant.name,
                    title=cell.variant.shown,
                    model=cell.variant.model,
                    backend=cell.variant.backend,
                    precision=cell.variant.precision,
                    options=cell.variant.options,
                    device=device.spec,
                    baseline=cell.variant.name == suite.baseline,
                    published=cell.variant.published,
                    batch_size=cell.batching.batch_size,
                    padding=cell.batching.padding,
                    order=cell.batching.order,
                    max_batch_tokens=cell.batching.max_batch_tokens,
                    experiment=cell.experiment,
                    max_length=suite.workload.max_length,
                    status="pending",
                )
                for cell in cells
            ]
            session.add_all(rows)
            session.flush()
            self._begun(run_id)
            for cell, row in zip(cells, rows, strict=True):
                cell.id = row.id

    @_patient
    def resume(self, run_id: str, cells: list[Cell]) -> models.Run:
        """Reopen an ended run: update its row, and give each cell what is stored of it.

        A complete measurement is `kept` as it is. Of an incomplete one, only the timed calls are kept.
        """
        with self._store.session() as session:
            run = session.get_one(models.Run, run_id)
            run.status, run.status_reason = "preparing", None
            run.pid, run.process = os.getpid(), processes.mark()
            run.finished_at, run.cancel_requested, run.heartbeat_at = None, False, _now()
            rows = {(row.variant, row.batch_size): row for row in measurements.measurements(session, run_id)}
            for cell in cells:
                row = rows[cell.variant.name, cell.batching.batch_size]
                cell.id = row.id
                # A new list each time, because this method may be retried.
                cell.blocks = measurements.blocks(session, row.id)
                cell.kept = row.status == "measured"
                if cell.kept:
                    cell.logits, cell.audit = measurements.logits(session, row.id), row.audit
                    cell.values = {name: getattr(row, name) for name in OBSERVED}
                    cell.conditions = row.conditions or []
                    cell.doubts = doubts.of_json(row.doubts)
                else:
                    row.status, row.status_reason = "pending", None
            session.flush()
            self._begun(run_id)
            session.expunge(run)
            return run

    def _begun(self, run_id: str) -> None:
        self._status = "preparing"
        self._went_on = _now(), _elapsed_s()
        reserve_last_words(run_id)

    @contextmanager
    def beating(self, run_id: str) -> Iterator[None]:
        """Write heartbeats while the run reports no progress, for example while it builds or loads a model."""
        ended = Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS / 4):
                if time.monotonic() - self._told_s > HEARTBEAT_SECONDS:
                    with suppress(RequestError), self._store.session(durable=False) as session:
                        session.execute(update(models.Run).where(models.Run.id == run_id).values(heartbeat_at=_now()))

        heart = Thread(target=beat, name="heartbeat", daemon=True)
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()

    @_patient
    def published(self) -> list[str]:
        """Return the published rows that a variant may refer to, as "study/title"."""
        with self._store.session() as session:
            return [f"{row.study}/{row.title}" for row in measurements.published(session)]

    @_patient
    def earlier_latencies_s(self, run_id: str) -> dict[tuple[str, int], float]:
        """Return (variant, batch size) -> the shortest median of a call in comparable earlier runs."""
        with self._store.session() as session:
            return _earlier_latencies_s(session, run_id)

    @_patient
    def state(self, run_id: str, status: str) -> None:
        """Store the run's new state."""
        self._status = status
        with self._store.session() as session:
            session.execute(
                update(models.Run).where(models.Run.id == run_id).values(status=status, heartbeat_at=_now())
            )

    @_patient
    def ceilings(self, run_id: str, found: dict[str, Any]) -> None:
        """Store the device's ceilings, measured by `engine.machine.ceilings`."""
        with self._store.session() as session:
            session.execute(update(models.Run).where(models.Run.id == run_id).values(ceilings=found))

    @_patient
    def progress(self, run_id: str, progress: Progress) -> bool:
        """Store the run's progress, at most once a second within a phase. Return whether a user cancelled the run."""
        if progress.phase == self._phase and time.monotonic() - self._told_s < PROGRESS_SECONDS:
            return False
        self._store.check_there()
        columns = {"progress": asdict(progress), "heartbeat_at": _now()}
        if self._status in models.LIVE:
            # Another machine cannot see this process and may have marked the run as interrupted.
            columns |= {"status": self._status, "status_reason": None, "finished_at": None}
        with self._store.session(durable=False) as session:
            session.execute(update(models.Run).where(models.Run.id == run_id).values(**columns))
            asked = bool(session.scalar(select(models.Run.cancel_requested).where(models.Run.id == run_id)))
        self._phase, self._told_s = progress.phase, time.monotonic()
        return asked

    @_patient
    def cancel_requested(self, run_id: str) -> bool:
        """Whether a user has cancelled the run."""
        with self._store.session() as session:
            return bool(session.scalar(select(models.Run.cancel_requested).where(models.Run.id == run_id)))

    @_patient
    def models(self, run_id: str, digests: dict[str, str]) -> None:
        """Store variant -> digest of its model's files. A resumed run compares them with the files of today."""
        self._environment(run_id, models=digests)

    @_patient
    def prepared_s(self, run_id: str, seconds: float) -> None:
        """Store the time that preparing the models took, for the estimate of a later run."""
        self._environment(run_id, preparing_s=round(seconds, 1))

    def _environment(self, run_id: str, **facts: Any) -> None:
        with self._store.session() as session:
            run = session.get_one(models.Run, run_id)
            run.environment = run.environment | facts

    @_patient
    def ahead(self, device: str, run_id: str | None = None) -> str | None:
        """Return the oldest run that waits for `device` on this host; with `run_id`, of those queued before it."""
        asked = func.coalesce(models.Run.queued_at, models.Run.created_at)
        waiting = select(models.Run).where(
            models.Run.status == "queued", models.Run.host == socket.gethostname(), models.Run.device == device
        )
        with self._store.session() as session:
            if run_id is not None:
                own = select(asked, models.Run.id).where(models.Run.id == run_id)
                waiting = waiting.where(tuple_(asked, models.Run.id) < session.execute(own).one())
            for other in session.scalars(waiting.order_by(asked, models.Run.id)):
                if processes.lives(other.pid, other.process) is not False:
                    return other.id
        return None

    @_patient
    def blocks(self, made: Iterable[tuple[Cell, Block]]) -> None:
        """Store the calls of one round."""
        # These commits do not wait for the disk, because timed blocks go on beside them. Those of results do wait.
        with self._store.session(durable=False) as session:
            session.add_all(
                models.Block(
                    measurement_id=cell.id,
                    process=block.process,
                    round=block.round,
                    kind=block.kind,
                    started_s=block.started_s,
                    samples=block.samples,
                    tokens=block.tokens,
                    padded_tokens=block.padded_tokens,
                    latencies_s=measurements.packed(block.latencies_s, "<f8"),
                )
                for cell, block in made
            )

    @_patient
    def prediction(self, measurement_id: int, logits: np.ndarray, model_labels: list[str]) -> None:
        """Store the logits of every example: float32 [examples, labels]."""
        with self._store.session() as session:
            session.merge(
                models.Prediction(
                    measurement_id=measurement_id,
                    rows=logits.shape[0],
                    columns=logits.shape[1],
                    model_labels=model_labels,
                    logits=measurements.packed(logits, "<f4"),
                )
            )

    @_patient
    def finish(self, measurement_id: int, values: dict[str, Any]) -> None:
        """Store columns of a measurement."""
        with self._store.session() as session:
            session.execute(update(models.Measurement).where(models.Measurement.id == measurement_id).values(**values))

    @_patient
    def under_load(self, run_id: str) -> set[str]:
        """Return the variants whose load the run has measured. Failed ones are not among them."""
        with self._store.session() as session:
            return {row.variant for row in measurements.loads(session, run_id) if row.status == "measured"}

    @_patient
    def load(self, run_id: str, variant: str, values: dict[str, Any]) -> None:
        """Store a variant's figures under load, in place of earlier ones. `values`: the row's columns."""
        with self._store.session() as session:
            mine = (models.Load.run_id == run_id, models.Load.variant == variant)
            session.execute(delete(models.Load).where(*mine))
            session.add(models.Load(run_id=run_id, variant=variant, measured_at=_now(), **values))

    @_patient
    def forget_blocks(self, measurement_ids: list[int]) -> None:
        """Delete the calls of an attempt that is repeated in another way."""
        with self._store.session() as session:
            session.execute(delete(models.Block).where(models.Block.measurement_id.in_(measurement_ids)))

    def end(self, run_id: str, status: str, reason: str | None) -> None:
        """Store the run's final state. Where the database cannot be written, leave the reason in a file."""
        # Start time plus elapsed time, because the clock may have been set meanwhile.
        at, since_s = self._went_on
        finished = at + timedelta(seconds=_elapsed_s() - since_s)
        values = {"status": status, "status_reason": reason, "finished_at": finished}
        try:
            self._store.check_there()
            self._end(run_id, values)
            self._status = status
        except RequestError as error:
            say_last(run_id, reason or one_line(error))
            raise
        _words_file(run_id).unlink(missing_ok=True)

    @_patient
    def _end(self, run_id: str, values: dict[str, Any]) -> None:
        with self._store.session() as session:
            session.execute(update(models.Run).where(models.Run.id == run_id).values(**values, heartbeat_at=_now()))


def _earlier_latencies_s(session: Session, run_id: str) -> dict[tuple[str, int], float]:
    """Return (variant, batch size) -> the shortest median of a call in comparable finished runs of the suite.

    Comparable: on this host and device, with the same versions of all libraries. Imported files do not count, because
    a file can claim any host. Results of Slurm jobs that were submitted here do.
    """
    shortest: dict[tuple[str, int], float] = {}
    run = session.get_one(models.Run, run_id)
    others = select(models.Run).where(
        models.Run.suite_name == run.suite_name,
        models.Run.host == run.host,
        models.Run.device_name == run.device_name,
        models.Run.status == "finished",
        runs.asked_here(),
    )
    for other in session.scalars(others.order_by(models.Run.created_at.desc()).limit(EARLIER_RUNS)):
        if _work(other) != _work(run):
            continue
        for row in measurements.measurements(session, other.id):
            if row.latency_p50_s is not None:
                key = (row.variant, row.batch_size)
                shortest[key] = min(row.latency_p50_s, shortest.get(key, row.latency_p50_s))
    return shortest


def _words_file(run_id: str) -> Path:
    return paths.local_data() / "logs" / run_id / interrupted.LAST_WORDS


def reserve_last_words(run_id: str) -> None:
    """Reserve disk space for `say_last`."""
    file = paths.local_folder("logs") / run_id / interrupted.LAST_WORDS
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b" " * interrupted.WORDS_BYTES)
    with suppress(OSError):
        interrupted.words_elsewhere(run_id).unlink(missing_ok=True)


def say_last(run_id: str, reason: str) -> None:
    """Write why a run ended to a file that `engine.store.interrupted.mark_interrupted` reads. Never raises."""
    words = reason.encode()[: interrupted.WORDS_BYTES]
    try:
        with _words_file(run_id).open("r+b") as file:
            # Overwrite the reserved bytes: that needs no free space.
            file.write(words.ljust(interrupted.WORDS_BYTES))
    except OSError:
        # For example, the system has made the disk read-only after an error.
        with suppress(OSError):
            elsewhere = interrupted.words_elsewhere(run_id)
            elsewhere.unlink(missing_ok=True)
            handle = os.open(elsewhere, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(words)


def _work(run: models.Run) -> tuple[Any, ...]:
    """Everything that decides how long a call takes on one machine, apart from the machine's own state."""
    spec, found = run.suite, run.environment
    # Treat a key that is not set like one that an older version did not know.
    tables = [spec.get("workload", {}), *spec.get("variant", []), *spec.get("checkpoint", [])]
    settings = [{key: value for key, value in table.items() if value is not None} for table in tables]
    return settings, found.get("distributions"), found.get("threads")


def _now() -> datetime:
    return datetime.now(UTC)


def _elapsed_s() -> float:
    """Seconds by a monotonic clock. On Linux it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
