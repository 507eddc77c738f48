"""Warm workers for Classify: loaded on demand, kept between calls, gone as soon as a run needs the device.

A pool lives in the process of a dashboard and loads no model itself: each variant has a worker of its
own. The device's lock is held for one call, or to make what a variant lacks, never between calls; no call
waits until what another asked for is made. Between calls each worker is registered beside the lock, where a
starting run, and fetch, look and wait until it is gone.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from engine import paths
from engine.artefacts.builder import BuildError
from engine.artefacts.preparer import Prepared, Preparer
from engine.classify import answering
from engine.classify.answering import Answer
from engine.errors import RequestError, UnavailableError, one_line
from engine.machine import devices, host, locks
from engine.machine.devices import Device
from engine.machine.holders import Holder, Kind
from engine.machine.locks import DeviceBusy
from engine.run.state import Progress
from engine.suite.spec import CHECKPOINT, Suite, Variant
from engine.worker import handle, silence
from engine.worker.handle import TORCH_OVERHEAD_BYTES, Worker, WorkerDied, WorkerError
from engine.worker.messages import Classified, Classify

WORKERS = 8
"""Workers that stay warm beside each other, where memory allows it."""
SPARE_BYTES = 1_000_000_000
"""Memory of the machine that stays free; what was used least recently goes first."""
IDLE_SECONDS = 900.0
LOOK_SECONDS = 1.0
"""How often the lock's holder is looked at while there are workers."""
CLASSIFY_PATIENCE_S = 120.0
"""How long one person waits while another's missing model is made."""


@dataclass
class _Warm:
    """One variant's worker, or the place for it. `lock` is held by whoever uses it."""

    key: str
    suite: Suite
    variant: Variant
    device: Device
    threads: int
    lock: Lock = field(default_factory=Lock)
    prepared: Prepared | None = None
    stamp: tuple[Any, ...] = ()
    """The sizes and times of the model's files when it was loaded."""
    worker: Worker | None = None
    registration: Path | None = None
    used_s: float = field(default_factory=time.monotonic)
    evicted: bool = False

    @property
    def ready(self) -> bool:
        return (
            not self.evicted
            and self.worker is not None
            and self.worker.process.poll() is None
            and self.prepared is not None
            and self.stamp == _stamp(self.prepared)
        )

    def clear(self) -> None:
        """Close the worker, if any; called with `lock` held."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.close()
        if self.registration is not None:
            self.registration.unlink(missing_ok=True)
            self.registration = None


@dataclass(frozen=True)
class Loaded:
    """A warm worker, as the page lists it."""

    suite: str
    variant: str
    title: str
    device: str
    pid: int


class _Evicted(Exception):
    """The worker was taken away, by a run or for its memory."""


class WarmPool:
    """Warm workers of one process. Every method may be called from any thread. Close it at the end.

    The class is longer than others because one lock guards all of its state, which must not leave it.
    """

    def __init__(self, workers: int = WORKERS, idle_seconds: float = IDLE_SECONDS) -> None:
        self.workers = workers
        self.idle_seconds = idle_seconds
        self._guard = Lock()
        """Guards the dictionaries only. No thread holds it while it waits for a model."""
        self._places: dict[str, _Warm] = {}
        self._making: Counter[str] = Counter()
        """Device's lock key -> how many missing models are made on it: by far longer than a call."""
        self._names: dict[str, list[str] | None] = {}
        self._closed = Event()
        self._watcher: Thread | None = None
        atexit.register(self.close)

    def __enter__(self) -> WarmPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(
        self,
        suite: Suite,
        texts: list[str],
        device_request: str = "auto",
        offline: bool = True,
        calls: int = answering.CALLS,
    ) -> Generator[Answer | Progress, None, None]:
        """Each variant's answer to `texts` as one batch, as it comes, with progress in between.

        Where something must be loaded first, every variant answers twice: as soon as it is loaded, without
        latency, and again when nothing is loading any more, timed over `calls` calls. The baseline is asked first.
        Raises RequestError for a request that is wrong, DeviceBusy where a run or fetch has the device.
        """
        answering.check_texts(texts)
        device = devices.resolve_device(device_request)
        self._refuse_if_busy(device)
        names = self._label_names(suite, offline)
        places = {variant.name: self._place(suite, variant, device) for variant in answering.in_order(suite)}
        answers: dict[str, Answer] = {}
        if not all(place.ready for place in places.values()):
            for event in self._first(places, texts, names, offline):
                if isinstance(event, Answer):
                    event = answers[event.variant] = answering.compared(event, answers.get(suite.baseline))
                yield event
        for name, place in places.items():
            if name in answers and answers[name].status != "measured":
                continue
            yield Progress("answering", f"{place.variant.shown}: timing", variant=name)
            found = self._answered(place, texts, names, offline, calls, lambda progress: None)
            answers[name] = answering.compared(found, answers.get(suite.baseline))
            yield answers[name]

    def loaded(self) -> list[Loaded]:
        """The workers that are warm now."""
        with self._guard:
            places = list(self._places.values())
        return [
            Loaded(p.suite.name, p.variant.name, p.variant.shown, p.device.spec, p.worker.process.pid)
            for p in places
            if p.worker is not None and p.ready
        ]

    def evict(self, device: Device | None = None) -> None:
        """End the workers on `device`, or all of them; a load under way is broken off."""
        with self._guard:
            places = [p for p in self._places.values() if device is None or p.device.lock_key == device.lock_key]
        for place in places:
            self._kill(place)
        for place in places:
            self._drop(place)

    def close(self) -> None:
        """End every worker."""
        self._closed.set()
        self.evict()
        atexit.unregister(self.close)

    # One request

    def _first(
        self, places: dict[str, _Warm], texts: list[str], names: list[str] | None, offline: bool
    ) -> Iterator[Answer | Progress]:
        """Load what is missing, a few at a time, and give every variant's untimed answer as it comes."""
        told: SimpleQueue[Answer | Progress | BaseException] = SimpleQueue()
        stopped = Event()

        def work(place: _Warm) -> None:
            try:
                if stopped.is_set():
                    raise _Evicted
                told.put(_untimed(self._answered(place, texts, names, offline, 1, told.put, timed=False)))
            except BaseException as error:
                told.put(error)

        # Imports and loads use one core each, more or less.
        hands = ThreadPoolExecutor(max(2, host.usable_cores() // 2), "classify")
        try:
            for place in places.values():
                hands.submit(work, place)
            left = len(places)
            while left:
                event = told.get()
                if isinstance(event, BaseException):
                    raise event
                left -= isinstance(event, Answer)
                yield event
        finally:
            # The reader has gone, so the remaining variants are not asked. The one under way stays warm.
            stopped.set()
            hands.shutdown(wait=False, cancel_futures=True)

    def _answered(
        self,
        place: _Warm,
        texts: list[str],
        names: list[str] | None,
        offline: bool,
        calls: int,
        tell: Callable[[Progress], None],
        timed: bool = True,
    ) -> Answer:
        """One variant's answer; a worker that died or was taken away in between is replaced once."""
        variant = place.variant
        for attempt in range(3):
            try:
                with place.lock:
                    if place.evicted:
                        raise _Evicted
                    self._make_ready(place, offline, tell)
                    reply, note = self._called(place, texts, calls, timed)
                    place.used_s = time.monotonic()
                    assert place.prepared is not None
                    found = answering.answer(variant, place.prepared, reply, names)
                return replace(found, note=note)
            except (UnavailableError, BuildError) as error:
                self._drop(place)
                return answering.no_answer(variant, error)
            except DeviceBusy:
                raise
            except RequestError as error:
                # A model that is not there ends its variant, not the request.
                return answering.no_answer(variant, UnavailableError(one_line(error)))
            except (_Evicted, WorkerError) as error:
                taken = isinstance(error, _Evicted) or place.evicted
                self._drop(place)
                self._refuse_if_busy(place.device)
                out_of_memory = isinstance(error, WorkerError) and error.out_of_memory
                if out_of_memory and not attempt:
                    self.evict(place.device)
                elif not taken and not (isinstance(error, WorkerDied) and not attempt):
                    return answering.no_answer(variant, error)
                place = self._place(place.suite, variant, place.device)
        return answering.no_answer(variant, WorkerError("its worker was ended again and again; memory may be short"))

    def _called(self, place: _Warm, texts: list[str], calls: int, timed: bool) -> tuple[Classified, str | None]:
        """The worker's reply, and what disturbed it where it is timed."""
        assert place.worker is not None
        with self._device(place.device, beside_making=True) as alone:
            note = None
            if timed:
                with self._guard:
                    others = [p.worker for p in self._places.values() if p is not place and p.worker is not None]
                if not alone:
                    note = "timed while another model was being made"
                elif not silence.wait_for_silence(others):
                    note = "timed while another worker was still busy"
            return place.worker.ask(Classify(texts, "longest", calls)), note

    def _make_ready(self, place: _Warm, offline: bool, tell: Callable[[Progress], None]) -> None:
        """Prepare, start and load what `place` lacks; called with its lock held."""
        if place.ready:
            return
        place.clear()
        variant, shown = place.variant, place.variant.shown
        if place.prepared is None or place.stamp != _stamp(place.prepared):
            tell(Progress("preparing", f"{shown}: preparing", variant=variant.name))
            place.prepared = self._prepared(place, offline, tell)
            place.stamp = _stamp(place.prepared)
        self._make_room(place)
        tell(Progress("loading", f"{shown}: loading", variant=variant.name))
        log = paths.local_folder("logs") / "classify" / f"{place.suite.name}-{variant.name}.log"
        log.unlink(missing_ok=True)
        place.worker = worker = Worker(variant, place.device, place.threads, log)
        place.registration = locks.register_warm(place.device, worker.process.pid)
        # A run that took the lock before this worker was registered has not waited for it.
        if place.evicted or _taken_by(place.device):
            raise _Evicted
        self._watch()
        worker.start()
        worker.finish()
        worker.load(place.prepared, place.suite.workload.max_length)

    def _prepared(self, place: _Warm, offline: bool, tell: Callable[[Progress], None]) -> Prepared:
        """The variant's files, made under the device's lock where they are missing: making uses it fully."""
        name = place.variant.name
        report = lambda text, share: tell(Progress("preparing", text, share, variant=name))  # noqa: E731
        with Preparer(place.suite, place.device.spec, place.threads, offline, report) as preparer:
            if not place.variant.model.startswith(CHECKPOINT):
                preparer.source(place.variant.model, place.variant.revision, f"variant {name!r}: model")
            with self._device(place.device):
                key = place.device.lock_key
                with self._guard:
                    self._making[key] += 1
                try:
                    if reason := handle.refusal(place.variant, place.device, preparer.model(place.variant)[0]):
                        raise UnavailableError(reason)
                    return preparer.prepare(place.variant)
                finally:
                    with self._guard:
                        self._making[key] -= 1

    @contextmanager
    def _device(self, device: Device, beside_making: bool = False) -> Iterator[bool]:
        """Hold the device's lock. Raises DeviceBusy at once where a run or fetch has it; others are waited for.

        With `beside_making` nobody waits until this pool has made a model that another asked for: False is given
        instead of the lock.
        """
        deadline = time.monotonic() + CLASSIFY_PATIENCE_S
        with ExitStack() as stack:
            alone = True
            while True:
                try:
                    stack.enter_context(locks.device_lock(device, Holder(Kind.CLASSIFY)))
                    break
                except DeviceBusy as error:
                    self._refuse_if_busy(device)
                    if beside_making and self._making[device.lock_key]:
                        alone = False
                        break
                    if time.monotonic() > deadline:
                        raise DeviceBusy(f"busy: {one_line(error)}", error.holder) from error
                    time.sleep(locks.LOCK_STEP_S)
            yield alone

    def _refuse_if_busy(self, device: Device) -> None:
        if holder := _taken_by(device):
            raise DeviceBusy(answering.busy_sentence(holder, device), holder)

    def _label_names(self, suite: Suite, offline: bool) -> list[str] | None:
        key = _key({"workload": suite.workload.model_dump(mode="json"), "folder": str(suite.folder)})
        if key not in self._names:
            self._names[key] = answering.label_names(suite, offline)
        return self._names[key]

    # The places

    def _place(self, suite: Suite, variant: Variant, device: Device) -> _Warm:
        """The place of a variant, a new one where there is none or the old one's worker is dead."""
        threads = suite.protocol.threads or host.usable_cores()
        key = _key(
            {
                "folder": str(suite.folder),
                # All that can change what is loaded; two selections of one suite share their workers.
                "workload": suite.workload.model_dump(mode="json", exclude={"batch_size", "padding", "order"}),
                "checkpoints": [c.model_dump(mode="json") for c in suite.checkpoint],
                "variant": variant.model_dump(mode="json", exclude={"title", "published"}),
                "device": [device.spec, device.lock_key],
                "threads": threads,
            }
        )
        with self._guard:
            if self._closed.is_set():
                raise RequestError("the dashboard is closing")
            found = self._places.get(key)
            if found is None or found.evicted:
                found = self._places[key] = _Warm(key, suite, variant, device, threads)
            found.used_s = time.monotonic()
            return found

    def _make_room(self, place: _Warm) -> None:
        """Evict what was used least recently until one more fits; what is in use stays."""
        assert place.prepared is not None
        need = 4 * place.prepared.parameters + TORCH_OVERHEAD_BYTES + SPARE_BYTES
        while True:
            with self._guard:
                others = [p for p in self._places.values() if p is not place and p.worker is not None]
            full = len(others) >= self.workers
            if not others or not (full or _available_bytes() < need) or not self._evict_oldest(others):
                return

    def _evict_oldest(self, places: list[_Warm]) -> bool:
        """Evict the one of `places` that was used least recently and is idle; False where all are in use."""
        for place in sorted(places, key=lambda p: p.used_s):
            if not place.lock.locked():
                self._kill(place)
                self._drop(place)
                return True
        return False

    def _kill(self, place: _Warm) -> None:
        """The process ends at once; whoever waits for its answer hears of it."""
        place.evicted = True
        if (worker := place.worker) is not None:
            worker.process.kill()

    def _drop(self, place: _Warm) -> None:
        place.evicted = True
        with self._guard:
            if self._places.get(place.key) is place:
                del self._places[place.key]
        # The thread that holds the lock will find its worker dead, and come here itself.
        if place.lock.acquire(timeout=locks.EVICTION_STEP_S):
            try:
                place.clear()
            finally:
                place.lock.release()

    # The look at the lock

    def _watch(self) -> None:
        with self._guard:
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = Thread(target=self._look, name="warm-workers", daemon=True)
                self._watcher.start()

    def _look(self) -> None:
        """Once a second while there are workers: let go what a run, the memory or nobody wants."""
        while not self._closed.wait(LOOK_SECONDS):
            with self._guard:
                places = [p for p in self._places.values() if p.worker is not None]
                if not places:
                    self._watcher = None
                    return
            for device in {p.device.lock_key: p.device for p in places}.values():
                if _taken_by(device):
                    self.evict(device)
            now = time.monotonic()
            idle = [p for p in places if now - p.used_s > self.idle_seconds]
            if idle or _available_bytes() < SPARE_BYTES:
                self._evict_oldest(idle or places)


def _taken_by(device: Device) -> Holder | None:
    """The run or fetch that has the device to itself; None without one."""
    holder = locks.holder(device)
    return holder if holder and holder.needs_all_memory else None


def _untimed(answer: Answer) -> Answer:
    return replace(answer, latency_s=None, latency_range_s=None, tokenize_s=None)


def _stamp(prepared: Prepared) -> tuple[Any, ...]:
    """How the model's files look from outside: who trains into the same folder gets the new model."""
    try:
        files = sorted(prepared.source.folder.iterdir())
        return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    except OSError:
        return ()


def _available_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _key(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def summary(loaded: list[Loaded]) -> str:
    """ "5 workers warm on cpu", or that there are none."""
    counts = Counter(item.device for item in loaded)
    if not counts:
        return "no worker is warm"
    return ", ".join(f"{n} worker{'s' * (n > 1)} warm on {device}" for device, n in counts.items())
