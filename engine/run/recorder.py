"""Everything that a run writes to the store: small transactions, each one true when it is made."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import delete, func, select, tuple_, update

from engine import paths
from engine.errors import RequestError, one_line
from engine.machine import environment, processes
from engine.measurement import doubts
from engine.measurement.summary import Block
from engine.store import LockedError, interrupted, measurements, models, open_store, runs
from engine.store.examples import add_example_set

if TYPE_CHECKING:
    import numpy as np

    from engine.run.state import Cell, Progress
    from engine.suite.plan import Plan

PROGRESS_SECONDS = 1.0
"""The least time between two writes of progress, which are signs of life too."""
HEARTBEAT_SECONDS = 20.0
"""The longest time without a sign of life. In ordinary rounds no heartbeat is due, so that it disturbs none."""
LOCKED_SECONDS = 600.0
"""How long a write waits, over and over, for a database that another process has locked."""
LOCKED_STEP_SECONDS = 0.05
"""Between two tries, as a database may be asked not to wait at all."""
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
    """A write that is tried again while another process has the database locked: a backup of it costs no run."""

    @wraps(method)
    def tried(self: Recorder, *arguments: P.args, **named: P.kwargs) -> T:
        return patiently(lambda: method(self, *arguments, **named), self.patience_s)

    return tried


def patiently(write: Callable[[], T], patience_s: float | None = None) -> T:
    """What `write` returns, tried again for `patience_s` (by default LOCKED_SECONDS) while the database is locked.

    Raises LockedError, `write`'s own, where it still is then.
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
    """The store, as a run writes to it. Use as a context manager."""

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
        """The run's row (or the queued one, now begun), its examples, and a pending measurement for each cell."""
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
        """An ended run goes on: its row says so, and each cell gets what is stored of it.

        A measurement that is whole is `kept` as it is; of any other the timed calls are.
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
                # Anew, as it may be tried again.
                cell.blocks = [Block(**block._asdict()) for block in measurements.latencies(session, row.id)]
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
        """Signs of life while the run says nothing else, as when a model is built or loaded."""
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
        """The rows that a variant may stand beside, as "study/title"."""
        with self._store.session() as session:
            return [f"{row.study}/{row.title}" for row in measurements.published(session)]

    @_patient
    def earlier_latencies_s(self, run_id: str) -> dict[tuple[str, int], float]:
        """(variant, batch size) -> the shortest median of a call in finished runs of the same suite, here, alike.

        Alike: on this host and device, with the same versions of all libraries. A file may say so of any run: what
        came as one tells nothing, unless it was a Slurm job's that was submitted here.
        """
        shortest: dict[tuple[str, int], float] = {}
        with self._store.session() as session:
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

    @_patient
    def state(self, run_id: str, status: str) -> None:
        """The run goes on to another state."""
        self._status = status
        with self._store.session() as session:
            session.execute(
                update(models.Run).where(models.Run.id == run_id).values(status=status, heartbeat_at=_now())
            )

    @_patient
    def ceilings(self, run_id: str, found: dict[str, Any]) -> None:
        """What the device reached, measured by `engine.machine.ceilings`."""
        with self._store.session() as session:
            session.execute(update(models.Run).where(models.Run.id == run_id).values(ceilings=found))

    @_patient
    def progress(self, run_id: str, progress: Progress) -> bool:
        """Where the run stands, at most once a second within a phase; returns whether it is to be cancelled."""
        if progress.phase == self._phase and time.monotonic() - self._told_s < PROGRESS_SECONDS:
            return False
        self._store.check_there()
        told = {"progress": asdict(progress), "heartbeat_at": _now()}
        if self._status in models.LIVE:
            # Who could not see the process may have taken the run for interrupted.
            told |= {"status": self._status, "status_reason": None, "finished_at": None}
        with self._store.session(durable=False) as session:
            session.execute(update(models.Run).where(models.Run.id == run_id).values(**told))
            asked = bool(session.scalar(select(models.Run.cancel_requested).where(models.Run.id == run_id)))
        self._phase, self._told_s = progress.phase, time.monotonic()
        return asked

    @_patient
    def cancel_requested(self, run_id: str) -> bool:
        """Whether somebody asked the run to end."""
        with self._store.session() as session:
            return bool(session.scalar(select(models.Run.cancel_requested).where(models.Run.id == run_id)))

    @_patient
    def models(self, run_id: str, digests: dict[str, str]) -> None:
        """Variant -> digest of its model's files: by these a run that is resumed knows whether they are the same."""
        self._environment(run_id, models=digests)

    @_patient
    def prepared_s(self, run_id: str, seconds: float) -> None:
        """What it took to have what the workers load, for the estimate of a later run."""
        self._environment(run_id, preparing_s=round(seconds, 1))

    def _environment(self, run_id: str, **facts: Any) -> None:
        with self._store.session() as session:
            run = session.get_one(models.Run, run_id)
            run.environment = run.environment | facts

    @_patient
    def ahead(self, device: str, run_id: str | None = None) -> str | None:
        """The oldest run that waits for `device` of this host; of those asked for before `run_id`, if it is given."""
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
        """One round's calls."""
        # No commit waits for the disk beside timed blocks; those that say what came of them do.
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
        """Every example's logits: float32 [examples, labels]."""
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
        """A measurement's columns."""
        with self._store.session() as session:
            session.execute(update(models.Measurement).where(models.Measurement.id == measurement_id).values(**values))

    @_patient
    def under_load(self, run_id: str) -> set[str]:
        """The variants whose load a run has: of what failed under load none."""
        with self._store.session() as session:
            return {row["variant"] for row in measurements.loads(session, run_id) if row["status"] == "measured"}

    @_patient
    def load(self, run_id: str, variant: str, values: dict[str, Any]) -> None:
        """What a variant gave under load, in the place of what is stored of it; `values`: the row's columns."""
        with self._store.session() as session:
            mine = (models.Load.run_id == run_id, models.Load.variant == variant)
            session.execute(delete(models.Load).where(*mine))
            session.add(models.Load(run_id=run_id, variant=variant, measured_at=_now(), **values))

    @_patient
    def forget_blocks(self, measurement_ids: list[int]) -> None:
        """Drop the calls of an attempt that is made again in another way."""
        with self._store.session() as session:
            session.execute(delete(models.Block).where(models.Block.measurement_id.in_(measurement_ids)))

    def end(self, run_id: str, status: str, reason: str | None) -> None:
        """The run's last state. Where the database cannot be written, the reason is left to whoever looks next."""
        # As long after its beginning as it took, whatever was done to the clock meanwhile.
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


def _words_file(run_id: str) -> Path:
    return paths.local_data() / "logs" / run_id / interrupted.LAST_WORDS


def reserve_last_words(run_id: str) -> None:
    """Keep room for `say_last`."""
    file = paths.local_folder("logs") / run_id / interrupted.LAST_WORDS
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b" " * interrupted.WORDS_BYTES)
    with suppress(OSError):
        interrupted.words_elsewhere(run_id).unlink(missing_ok=True)


def say_last(run_id: str, reason: str) -> None:
    """Leave the reason of a run's end where `engine.store.interrupted.mark_interrupted` finds it. Never raises."""
    words = reason.encode()[: interrupted.WORDS_BYTES]
    try:
        with _words_file(run_id).open("r+b") as file:
            # Over what was reserved: that needs no room.
            file.write(words.ljust(interrupted.WORDS_BYTES))
    except OSError:
        # As on a disk that its system has made read-only after an error.
        with suppress(OSError):
            elsewhere = interrupted.words_elsewhere(run_id)
            elsewhere.unlink(missing_ok=True)
            handle = os.open(elsewhere, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(words)


def _work(run: models.Run) -> tuple[Any, ...]:
    """What decides how long a call of a run takes on one machine, but for the machine's own state."""
    spec, found = run.suite, run.environment
    # A key that is not set, and one that an older version did not know, are the same.
    tables = [spec.get("workload", {}), *spec.get("variant", []), *spec.get("checkpoint", [])]
    said = [{key: value for key, value in table.items() if value is not None} for table in tables]
    return said, found.get("distributions"), found.get("threads")


def _now() -> datetime:
    return datetime.now(UTC)


def _elapsed_s() -> float:
    """Seconds by a clock that nobody sets; on Linux it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
