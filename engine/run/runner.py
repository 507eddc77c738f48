"""A run: prepares the variants, interleaves rounds over their workers, records what they give.

One worker works at a time. Every round visits the variants in an order of its own and gives each the
same examples; blocks are written down round by round, so that nothing measured is lost whatever ends
the run. Figures are derived at the end, by `engine.measurement.summary`, from what was written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from engine import paths
from engine.artefacts.builder import BuildError
from engine.artefacts.preparer import Preparer
from engine.errors import RequestError, UnavailableError, one_line
from engine.machine import ceilings, devices, energy, gpus
from engine.machine.conditions import Watch, disturbances
from engine.machine.devices import Device
from engine.machine.host import usable_cores
from engine.measurement import bounds, labels, limits, stats, summary
from engine.run import resuming, scenarios
from engine.run.checks import align, check_batch_sizes, check_models, check_published
from engine.run.observing import (
    ANSWER_SECONDS,
    DEVICE_CALLS,
    INVARIANCE_EXAMPLES,
    INVARIANCE_SECONDS,
    PROFILED_CALLS,
    PROFILED_SECONDS,
    TOKENIZED_BATCHES,
    energy_calls,
    memory_columns,
)
from engine.run.recorder import Recorder, say_last
from engine.run.resuming import Resumable
from engine.run.rounds import UNTIMED_SECONDS, WARM_UP_MAX_SECONDS, WARM_UP_SECONDS
from engine.run.state import Cancelled, Cell, Entry, Listener, Progress
from engine.run.turn import take_device
from engine.suite import batching as suite_batching
from engine.suite import corpus
from engine.suite.batching import Batching
from engine.suite.corpus import Corpus
from engine.suite.spec import CHECKPOINT, Suite, Variant
from engine.worker import handle, silence
from engine.worker.handle import TORCH_OVERHEAD_BYTES, Worker, WorkerError


def run(
    suite: Suite,
    device_request: str,
    url: str | None = None,
    offline: bool = False,
    listener: Listener = lambda progress: None,
    suite_path: str | None = None,
    run_id: str | None = None,
    wait_seconds: float = 0.0,
    resume: Resumable | None = None,
) -> str:
    """Measure `suite` and store the run; returns its id.

    `run_id` names a run that is queued in the store already; without one a row is made. `resume` is a run that has
    ended: what it lacks is measured. A device in use is waited for, `wait_seconds` at most. Raises RequestError where
    the request itself is wrong. A variant that cannot run or fails becomes a measurement that says so. On
    KeyboardInterrupt or Cancelled the run is stored as cancelled.
    """
    from ulid import ULID

    from engine.store import journal

    device = devices.resolve_device(device_request)
    examples = corpus.load(suite, suite.workload, offline=offline)
    check_batch_sizes(suite, len(examples))
    threads = suite.protocol.threads or usable_cores()
    if resume and resume.begun and resume.example_set_id != examples.digest:
        raise RequestError(f"run {resume.id} was begun over other examples: {suite.workload.dataset} has changed")
    queued = run_id is not None
    run_id = run_id or (resume.id if resume else str(ULID()))
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(url))
        preparer = stack.enter_context(Preparer(suite, device.spec, threads, offline))
        for variant in suite.variant:
            if not variant.model.startswith(CHECKPOINT):
                preparer.source(variant.model, variant.revision, f"variant {variant.name!r}: model")
        check_published(suite, recorder.published())
        if (said := journal(url)) and said[1]:
            listener(Progress("preparing", f"the database: {said[0]}"))
        take_device(stack, device, run_id, wait_seconds, recorder, listener, queued)
        handle.remove_scratch()
        check_models(suite, preparer, examples)
        made = Runner(suite, device, threads, examples, preparer, recorder, listener, suite_path, run_id, resume)
        return made.run()


class Runner:
    """One run, from its first row in the store to its last."""

    def __init__(
        self,
        suite: Suite,
        device: Device,
        threads: int,
        examples: Corpus,
        preparer: Preparer,
        recorder: Recorder,
        listener: Listener,
        suite_path: str | None,
        run_id: str,
        resume: Resumable | None = None,
    ) -> None:
        self.id = run_id
        self.resume = resume if resume and resume.begun else None
        self.suite = suite
        self.device = device
        self.threads = threads
        self.examples = examples
        self.preparer = preparer
        self.recorder = recorder
        self.listener = listener
        self.entries = [Entry(v, cells) for v, cells in self._cells()]
        self.schedule = "interleaved"
        self._idle_w: float | None = None
        self._slower = 1.0
        self.ceilings: dict[str, Any] = {"reason": "the run ended before they were measured"}
        self._began_s = time.perf_counter()
        self._before = 0
        """Processes of each variant that the run had before it was resumed."""
        cells = [cell for entry in self.entries for cell in entry.cells]
        if self.resume:
            self._go_on(recorder.resume(run_id, cells), cells)
        else:
            recorder.begin(run_id, suite, device, threads, examples, cells, suite_path)
        self.logs = paths.local_folder("logs") / self.id
        preparer.report = lambda text, share: self._tell("preparing", text, share)

    def _go_on(self, run: Any, cells: list[Cell]) -> None:
        """Take up where the run ended; the clock goes on after its last block."""
        blocks = [block for cell in cells for block in cell.blocks]
        self._before = 1 + max((block.process for block in blocks), default=-1)
        self._began_s -= max((block.started_s + float(block.latencies_s.sum()) for block in blocks), default=0.0)
        self.ceilings = run.ceilings or self.ceilings

    def _cells(self) -> Iterator[tuple[Variant, list[Cell]]]:
        workload, position = self.suite.workload, 0
        for variant in self.suite.variant:
            cells = []
            for size in [variant.batch_size] if variant.batch_size else workload.batch_size:
                how = Batching(
                    size,
                    variant.padding or workload.padding,
                    variant.order or workload.order,
                    variant.max_batch_tokens or workload.max_batch_tokens,
                )
                cells.append(Cell(variant, how, position))
                position += 1
            yield variant, cells

    def run(self) -> str:
        """All of it. The store is left with a truthful state whatever happens."""
        with self.recorder.beating(self.id):
            return self._run()

    def _run(self) -> str:
        try:
            self._prepare()
            self._measure_ceilings()
            self.schedule = self._choose_schedule()
            self.recorder.state(self.id, "running")
            # A resumed run may lack its load alone.
            if not all(entry.kept for entry in self._alive()):
                try:
                    self._measure()
                except _DoesNotFit:
                    self._start_over_one_by_one()
                    self._measure()
                # Before the load: whatever ends the run there costs no measurement.
                self._derive()
            overloaded = self._serve()
        except (KeyboardInterrupt, Cancelled) as stop:
            self._close("cancelled", "the run was cancelled", stop)
            raise
        except BaseException as error:
            self._close("failed", f"the run ended early: {one_line(error)}", error)
            raise
        failed = [entry.variant.name for entry in self.entries if entry.ended == "failed" and not entry.kept]
        said = [f"failed: {', '.join(failed)}"] if failed else []
        said += [f"failed under load: {', '.join(overloaded)}"] if overloaded else []
        self.recorder.end(self.id, "finished", "; ".join(said) or None)
        self._tell("finished", "finished", 1.0)
        return self.id

    def _tell(
        self,
        phase: str,
        text: str,
        done: float | None = None,
        seconds_left: float | None = None,
        variant: str | None = None,
    ) -> None:
        progress = Progress(phase, text, done, seconds_left, variant)
        self.listener(progress)
        if self.recorder.progress(self.id, progress):
            raise Cancelled

    # Preparing

    def _prepare(self) -> None:
        began_s = time.monotonic()
        # Of a variant that fails before its model is there, a run that goes on keeps what it knew.
        digests = dict(self.resume.models) if self.resume else {}
        for entry in self.entries:
            try:
                source = self.preparer.model(entry.variant)[0]
            except BuildError as error:
                self._end(entry, "failed", f"preparing: {one_line(error)}")
                continue
            digests[entry.variant.name] = source.digest
            if self.resume:
                resuming.check_same(self.resume, entry.variant.name, source.digest)
            # All that cannot run here is told before anything is built.
            padding = entry.cells[0].batching.padding
            if reason := handle.refusal(entry.variant, self.device, source, padding):
                self._tell("preparing", f"{entry.variant.shown}: unavailable: {reason}", None, None, entry.variant.name)
                self._end(entry, "unavailable", reason)
        self.recorder.models(self.id, digests)
        waiting = {entry.variant.name: entry for entry in self._alive()}
        for variant, prepared in self.preparer.prepare_all([entry.variant for entry in waiting.values()]):
            entry = waiting[variant.name]
            if isinstance(prepared, BuildError):
                self._end(entry, "failed", f"preparing: {one_line(prepared)}")
                continue
            self._tell("preparing", f"{variant.shown}: prepared", None, None, variant.name)
            entry.prepared = prepared
            self._alignment(entry)
        self.recorder.prepared_s(self.id, time.monotonic() - began_s)

    def _measure_ceilings(self) -> None:
        """What the device can do, to hold the variants against: measured before any of them is loaded."""
        if self.ceilings.get("products"):
            return
        if not self.suite.protocol.ceilings:
            self.ceilings = {"reason": "the protocol says ceilings = false"}
        elif self._alive():
            self._tell("preparing", f"measuring what {self.device.name} can do")
            self.ceilings = ceilings.measure(self.device, self.threads)
        self.recorder.ceilings(self.id, self.ceilings)

    def _alignment(self, entry: Entry) -> labels.Alignment:
        """Raises RequestError for a declared mapping that cannot be right."""
        assert entry.prepared is not None
        return align(entry.variant, entry.prepared.labels, self.examples)

    # Measuring

    def _choose_schedule(self) -> str:
        """interleaved, or sequential where the variants cannot be loaded beside each other."""
        if self.device.kind == "cuda":
            gpu = next((g for g in gpus.gpus() if g.uuid == self.device.uuid), None)
            if gpu is not None and gpu.compute_mode == "EXCLUSIVE_PROCESS":
                return "sequential"
            return "interleaved"
        import psutil

        needs = [4 * e.prepared.parameters + TORCH_OVERHEAD_BYTES for e in self._alive() if e.prepared]
        return "interleaved" if sum(needs) < psutil.virtual_memory().available else "sequential"

    def _start_over_one_by_one(self) -> None:
        """The variants did not fit beside each other: drop what was timed and take them in turn."""
        self.schedule = "sequential"
        cells = [cell for entry in self.entries for cell in entry.cells]
        self.recorder.forget_blocks([cell.id for cell in cells])
        for cell in cells:
            cell.blocks.clear()
            cell.doubts.clear()
            cell.conditions.clear()
            cell.disturbed = 0

    def _alive(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.ended is None]

    def _measure(self) -> None:
        """Every pass of the protocol that is missing: fresh workers each time."""
        passes = self._passes()
        lacking = [cell.blocks for entry in self._alive() if not entry.kept for cell in entry.cells]
        done = resuming.whole_passes(lacking, self.suite.protocol, len(passes)) if self.resume else 0
        for index, groups in enumerate(passes[min(done, len(passes) - 1) :]):
            for group in groups:
                alive = [entry for entry in group if entry.ended is None]
                if not all(entry.kept for entry in alive):
                    self._measure_group(alive, self._before + index, len(passes), first=index == 0)

    def _passes(self) -> list[list[list[Entry]]]:
        """Passes of groups of variants that are loaded beside each other."""
        count = self.suite.protocol.processes
        # What is measured already works again only where it is what the rest is compared with.
        alive = [e for e in self._alive() if not e.kept or e.variant.name == self.suite.baseline]
        if self.schedule == "interleaved":
            return [[alive]] * count
        forward = [[entry] for entry in alive]
        return [forward, forward[::-1]] * count

    def _measure_group(self, group: list[Entry], process: int, passes: int, first: bool) -> None:
        """One pass over `group`; in the `first` of them everything but latency is observed too."""
        with ExitStack() as stack:
            self._load(group, process, stack, first)
            if first:
                self._idle_w = energy.idle_power_w(self.device)
            for entry in group:
                if entry.ended is None and first and not entry.kept:
                    self._guarded(entry, self._answer, entry)
            for batch_size in self._phases():
                cells = [
                    (entry, cell)
                    for entry in group
                    if entry.ended is None
                    for cell in entry.cells
                    if self._phase_of(cell) == batch_size
                ]
                if cells:
                    self._time(cells, process, passes, self._left(cells, passes) if first else 1.0)
            for entry in group:
                if entry.ended is None and first and not entry.kept:
                    self._guarded(entry, self._observe, entry)
        for entry in group:
            entry.worker = None

    def _left(self, cells: list[tuple[Entry, Cell]], passes: int) -> float:
        """The share of a pass that `cells` still lack; 1 unless the run is resumed."""
        if not self.resume:
            return 1.0
        protocol = self.suite.protocol
        lacking = [cell.blocks for entry, cell in cells if not entry.kept]
        return resuming.share_left(lacking, math.ceil(protocol.rounds / passes), math.ceil(protocol.min_calls / passes))

    def _phases(self) -> list[int]:
        """Each batch size is an experiment of its own: its cells are interleaved with each other."""
        return list(self.suite.workload.batch_size)

    def _phase_of(self, cell: Cell) -> int:
        """The experiment a cell belongs to; a variant with its own batch size joins the last."""
        return self.suite.workload.batch_size[-1] if cell.variant.batch_size else cell.batching.batch_size

    def _guarded(self, entry: Entry, work: Callable[..., Any], *arguments: Any) -> Any:
        """`work`'s result; a worker that fails or dies ends its variant, not the run."""
        try:
            return work(*arguments)
        except UnavailableError as error:
            self._end(entry, "unavailable", str(error))
        except WorkerError as error:
            # To start over would lose what a resumed run has.
            if error.out_of_memory and self._others_loaded(entry) and not self._before:
                raise _DoesNotFit from error
            self._end(entry, "failed", str(error))
        return None

    def _others_loaded(self, entry: Entry) -> bool:
        others = (e for e in self.entries if e is not entry)
        return self.schedule == "interleaved" and any(e.worker is not None for e in others)

    def _load(self, group: list[Entry], process: int, stack: ExitStack, first: bool) -> None:
        """Start all workers of `group` at once, then load one after another, so that each sees the device still."""
        self._tell("loading", f"starting {len(group)} workers", 0.0)
        for entry in group:
            entry.worker = None
            log = self.logs / f"{entry.variant.name}-{process}.log"
            deadline_s = self.suite.protocol.deadline_seconds
            worker = stack.enter_context(Worker(entry.variant, self.device, self.threads, log, deadline_s))
            entry.worker = worker
            self._guarded(entry, worker.start)
        started = {}
        for entry in group:
            if entry.ended is None and entry.worker:
                started[entry.variant.name] = self._guarded(entry, entry.worker.finish)
        for index, entry in enumerate(group):
            if entry.ended is None:
                text = f"{entry.variant.shown}: loading"
                self._tell("loading", text, index / len(group), None, entry.variant.name)
                self._guarded(entry, self._load_one, entry, first, started[entry.variant.name])

    def _load_one(self, entry: Entry, first: bool, started: dict[str, Any]) -> None:
        worker, prepared = entry.worker, entry.prepared
        assert worker is not None and prepared is not None
        loaded = worker.load(prepared, self.suite.workload.max_length)
        encoded = worker.ask("encode", texts=self.examples.texts)
        entry.lengths = encoded["lengths"]
        if not first or entry.kept:
            return
        for cell in sorted(entry.cells, key=lambda c: c.batching.batch_size):
            figures = worker.ask("memory", positions=self._largest_batch(entry, cell), padding=cell.batching.padding)
            cell.values |= {
                "load_s": loaded["load_s"],
                "weights_bytes": loaded["weights_bytes"],
                "parameters": prepared.parameters,
                "truncated": int(encoded["truncated"].sum()),
                **memory_columns(figures, started["imports_bytes"]),
            }

    def _windows(self, cells: list[tuple[Entry, Cell]]) -> list[np.ndarray]:
        """The workload in windows, as the cells of one experiment work through it."""
        reference = next((e for e, _ in cells if e.variant.name == self.suite.baseline), cells[0][0])
        assert reference.lengths is not None
        how = [cell.batching for _, cell in cells]
        return suite_batching.windows(reference.lengths, how, self.suite.workload.seed)

    def _largest_batch(self, entry: Entry, cell: Cell) -> np.ndarray:
        assert entry.lengths is not None
        lengths = entry.lengths
        made = [
            b
            for window in self._windows([(entry, cell)])
            for b in suite_batching.batches(window, lengths, cell.batching)
        ]
        return max(made, key=lambda b: len(b) * int(lengths[b].max()))

    def _answer(self, entry: Entry) -> None:
        """Every example's logits, in the batches that are timed later; then what the worker warmed up to be."""
        worker = entry.worker
        assert worker is not None and entry.lengths is not None
        for cell in entry.cells:
            peers = [
                (e, c)
                for e in self._alive()
                if e.lengths is not None
                for c in e.cells
                if self._phase_of(c) == self._phase_of(cell)
            ]
            batches = [
                b
                for window in self._windows(peers)
                for b in suite_batching.batches(window, entry.lengths, cell.batching)
            ]
            logits: np.ndarray | None = None
            done, step = 0, 1
            while done < len(batches):
                part = batches[done : done + step]
                before = time.monotonic()
                found = worker.ask("evaluate", batches=part, padding=cell.batching.padding)["logits"]
                if logits is None:
                    logits = np.empty((len(self.examples), found.shape[1]), dtype=np.float32)
                logits[np.concatenate(part)] = found
                done += len(part)
                seconds = max(time.monotonic() - before, 1e-3)
                step = max(1, math.ceil(len(part) * ANSWER_SECONDS / seconds))
                text = f"{entry.variant.shown}: answering {len(self.examples)} examples"
                left = (len(batches) - done) * seconds / len(part)
                self._tell("answering", text, done / len(batches), left, entry.variant.name)
            cell.logits = logits
            assert logits is not None and entry.prepared is not None
            self.recorder.prediction(cell.id, logits, entry.prepared.labels)
            cell.values["invariance"] = self._invariance(entry, cell, logits)

    def _invariance(self, entry: Entry, cell: Cell, logits: np.ndarray) -> dict[str, Any]:
        """The first examples answered again, one at a time and under the other padding, against `logits`."""
        how = cell.batching
        other = "max_length" if how.padding == "longest" else "longest"
        ways = {f"padding {other}": (how.batch_size, other)}
        if how.batch_size > 1:
            ways = {"batch 1": (1, how.padding)} | ways
        chosen = np.arange(min(INVARIANCE_EXAMPLES, len(logits)))
        found = {}
        for name, (size, padding) in ways.items():
            self._tell("answering", f"{entry.variant.shown}: answering again, {name}", None, None, entry.variant.name)
            again = self._answered_for(entry, [chosen[i : i + size] for i in range(0, len(chosen), size)], padding)
            found[name] = summary.changed(logits[: len(again)], again)
        return found

    def _answered_for(self, entry: Entry, batches: list[np.ndarray], padding: str) -> np.ndarray:
        """Logits over as many of `batches` as INVARIANCE_SECONDS allow, one at least: float32 [examples, labels]."""
        assert entry.worker is not None
        parts: list[np.ndarray] = []
        done, step, began_s = 0, 1, time.monotonic()
        while done < len(batches):
            part = batches[done : done + step]
            parts.append(entry.worker.ask("evaluate", batches=part, padding=padding)["logits"])
            done += len(part)
            spent_s = time.monotonic() - began_s
            step = math.floor((INVARIANCE_SECONDS - spent_s) * done / max(spent_s, 1e-3))
            if step < 1:
                break
        return np.concatenate(parts)

    def _time(self, cells: list[tuple[Entry, Cell]], process: int, passes: int, left: float) -> None:
        """The rounds of one experiment: `cells`, interleaved; `left`: the share of a pass that is wanted."""
        if not left:
            return
        protocol = self.suite.protocol
        rounds = math.ceil(protocol.rounds / passes * left)
        min_calls = math.ceil(protocol.min_calls / passes * left)
        max_seconds = protocol.max_seconds / passes * left
        windows = suite_batching.timed_windows(self._windows(cells))
        seed = (self.suite.workload.seed, process, cells[0][1].batching.batch_size)
        shuffle = np.random.default_rng(seed)
        for entry, cell in cells:
            self._quiet(entry)
            self._guarded(entry, self._warm_up, entry, cell, windows, process)
        calls = dict.fromkeys((cell.id for _, cell in cells), 0)
        watch = self._watch()
        began_s = time.monotonic()
        index = 0
        while True:
            window = windows[index % len(windows)]
            made: list[tuple[Cell, summary.Block]] = []
            for turn in shuffle.permutation(len(cells)):
                entry, cell = cells[turn]
                if entry.ended is not None:
                    continue
                silent = self._quiet(entry)
                block = self._guarded(entry, self._block, entry, cell, window, process, index)
                if block is not None:
                    cell.disturbed += not silent
                    made.append((cell, block))
                    calls[cell.id] += len(block.latencies_s)
            self.recorder.blocks(made)
            # Only what is stored counts: whoever computes a figure again finds the same calls.
            for cell, block in made:
                cell.blocks.append(block)
            index += 1
            elapsed_s = time.monotonic() - began_s
            fewest = min((calls[c.id] for e, c in cells if e.ended is None), default=min_calls)
            done = min(index / rounds, fewest / min_calls)
            done = max(done, elapsed_s / max_seconds)
            alive = any(entry.ended is None for entry, _ in cells)
            if done >= 1 or not alive:
                break
            text = f"round {index + 1}, process {process + 1} of {max(passes, process + 1)}"
            self._tell("timing", text, done, elapsed_s / done - elapsed_s)
        seen = watch.stop()
        for _, cell in cells:
            cell.conditions.append({"process": process, **seen.to_json()})
            cell.doubts += disturbances(seen, self.device.kind)

    def _watch(self) -> Watch:
        workers = [entry.worker for entry in self.entries if entry.worker is not None]
        used_s: dict[int, float] = {}

        def own_cpu_s() -> float:
            for worker in workers:
                # One that has ended keeps what it had used.
                if (now := worker.cpu_ns()) is not None:
                    used_s[worker.process.pid] = now / 1e9
            return time.process_time() + sum(used_s.values())

        return Watch(self.device, own_cpu_s, [worker.process.pid for worker in workers])

    def _quiet(self, entry: Entry) -> bool:
        """Wait until the other workers use no CPU; False where one still does."""
        return silence.wait_for_silence(
            [e.worker for e in self.entries if e.worker is not None and e is not entry and e.ended is None]
        )

    def _batches(self, entry: Entry, cell: Cell, window: np.ndarray) -> list[np.ndarray]:
        assert entry.lengths is not None
        return suite_batching.batches(window, entry.lengths, cell.batching)

    def _shapes(self, entry: Entry, cell: Cell, windows: list[np.ndarray]) -> list[np.ndarray]:
        """A batch of every shape among those that are timed."""
        assert entry.lengths is not None
        made = [batch for window in windows for batch in self._batches(entry, cell, window)]
        lengths = entry.lengths
        longest = cell.batching.padding == "longest"
        return list({(len(b), int(lengths[b].max()) if longest else 0): b for b in made}.values())

    def _warm_up(self, entry: Entry, cell: Cell, windows: list[np.ndarray], process: int) -> None:
        assert entry.worker is not None
        reply = entry.worker.ask(
            "warm_up",
            batches=self._batches(entry, cell, windows[0]),
            to_come=self._shapes(entry, cell, windows),
            padding=cell.batching.padding,
            seconds=WARM_UP_SECONDS,
            max_seconds=WARM_UP_MAX_SECONDS,
        )
        if reply["settled"] is None:
            calls = len(reply["latencies_s"])
            cell.doubts.append(f"its warm-up had only {calls} calls, too few to see whether it came to rest")
        elif not reply["settled"]:
            cell.doubts.append(f"its warm-up did not come to rest within {WARM_UP_MAX_SECONDS:.0f} s")
        block = summary.Block(process, -1, self._since_s(reply["started_ns"]), reply["latencies_s"], 0, 0, 0, "warmup")
        self.recorder.blocks([(cell, block)])

    def _block(self, entry: Entry, cell: Cell, window: np.ndarray, process: int, index: int) -> summary.Block:
        assert entry.worker is not None
        reply = entry.worker.ask(
            "block",
            batches=self._batches(entry, cell, window),
            padding=cell.batching.padding,
            seconds=self.suite.protocol.block_seconds,
            untimed_seconds=UNTIMED_SECONDS,
        )
        return summary.Block(
            process,
            index,
            self._since_s(reply["started_ns"]),
            reply["latencies_s"],
            reply["samples"],
            reply["tokens"],
            reply["padded_tokens"],
        )

    def _since_s(self, started_ns: int) -> float:
        return started_ns / 1e9 - self._began_s

    def _observe(self, entry: Entry) -> None:
        """What is read after timing: the effective configuration, tokenising, device time."""
        worker = entry.worker
        assert worker is not None
        assert entry.prepared is not None
        audit = worker.ask("audit")
        # By these the same files are known again, or known to have changed.
        audit["loaded"] = {"model": entry.prepared.source.digest, "folder": entry.prepared.folder.name}
        for cell in entry.cells:
            cell.audit = audit
            window = suite_batching.timed_windows(self._windows([(entry, cell)]))
            batches = [b for w in window[:TOKENIZED_BATCHES] for b in self._batches(entry, cell, w)]
            texts = [[self.examples.texts[i] for i in b] for b in batches[:TOKENIZED_BATCHES]]
            padding = cell.batching.padding
            tokenizing = worker.ask("tokenizing", texts=texts, padding=padding)
            middle = batches[len(batches) // 2]
            device = worker.ask("device_time", positions=middle, padding=padding, calls=DEVICE_CALLS)
            whole = self._batches(entry, cell, window[0])
            spent = energy.of_calls(self.device, self._idle_w, partial(energy_calls, entry, whole, padding))
            cell.values |= {
                "energy_j_per_1000_examples": spent.joules_per_1000_examples if spent else None,
                "energy": spent.to_json() if spent else {"reason": energy.NO_COUNTER},
                "audit": audit,
                "tokenize_p50_s": float(np.median(tokenizing["latencies_s"])),
                "device_p50_s": None if device["seconds"] is None else float(np.median(device["seconds"])),
            }
        for cell in entry.cells:
            cell.values["audit"] = cell.audit = audit | {"operators": self._operators(entry, cell)}

    def _operators(self, entry: Entry, cell: Cell) -> dict[str, Any]:
        """Where the calls of one batch spend their time. The last that is asked of a worker: it may fail alone."""
        assert entry.worker is not None
        window = suite_batching.timed_windows(self._windows([(entry, cell)]))[0]
        latencies_s = summary.Raw(cell.blocks).latencies_s()
        wanted = PROFILED_SECONDS / float(np.median(latencies_s)) if len(latencies_s) else 1
        calls = min(max(int(wanted), 1), PROFILED_CALLS)
        positions, padding = self._batches(entry, cell, window)[0], cell.batching.padding
        try:
            return entry.worker.ask("profile", positions=positions, padding=padding, calls=calls)
        except WorkerError as error:
            return {"reason": f"the profiled call ended the worker: {one_line(error)}"}

    # A service's load

    def _serve(self) -> list[str]:
        """Every measured variant under load, one after another and alone, unless that is stored.

        Returns the names of those that failed under it; their measurements stay what they are.
        """
        if self.suite.scenarios is None:
            return []
        there = self.recorder.under_load(self.id)
        wanted = [entry for entry in self._alive() if entry.kept and entry.variant.name not in there]
        failed = []
        for index, entry in enumerate(wanted):
            asked = scenarios.asked_for(self.suite, entry.variant, self.device.spec)
            values = {name: getattr(asked, name) for name in ("p99_limit_s", "max_batch", "max_wait_s", "padding")}
            try:
                values |= self._under_load(entry, index, len(wanted))
            except (UnavailableError, WorkerError) as error:
                values |= {"status": "failed", "status_reason": str(error), "trials": []}
                failed.append(entry.variant.name)
            finally:
                entry.worker = None
            self.recorder.scenario(self.id, entry.variant.name, values)
        return failed

    def _under_load(self, entry: Entry, index: int, of: int) -> dict[str, Any]:
        """The columns of what one variant gives under load."""
        assert entry.prepared is not None
        name = entry.variant.name

        def tell(text: str, done: float) -> None:
            self._tell("serving", text, (index + done) / of, None, name)

        tell(f"{entry.variant.shown}: loading", 0.0)
        deadline_s = self.suite.protocol.deadline_seconds
        log = self.logs / f"{name}-load.log"
        with Worker(entry.variant, self.device, self.threads, log, deadline_s) as worker:
            entry.worker = worker
            scenarios.load(worker, entry.prepared, self.suite)
            watch = self._watch()
            found = scenarios.under_load(worker, self.suite, self.examples.texts, tell)
            seen = watch.stop()
        doubts = disturbances(seen, self.device.kind)
        doubts += [summary.SLOWER.format(self._slower)] if self._slower > 1 else []
        return {
            **{name: getattr(found, name) for name in scenarios.FIGURES},
            "trials": [asdict(trial) for trial in found.trials],
            "conditions": seen.to_json(),
            "status": "measured",
            "validity": "unstable" if doubts else "valid",
            "validity_reason": "; ".join(doubts) or None,
        }

    # Ending

    def _end(self, entry: Entry, status: str, reason: str) -> None:
        """A variant ends before the run does."""
        entry.ended = status
        if entry.worker is not None:
            entry.worker.close()
        for cell in entry.cells:
            if cell.kept:
                continue
            # What it gave until then is told; beside the baseline it is not held, as the rounds are not all there.
            cell.values |= self._alone(entry, cell)
            self.recorder.finish(cell.id, {**cell.values, "status": status, "status_reason": reason})

    def _close(self, status: str, why: str, error: BaseException) -> None:
        """The run's end before its time. Where it cannot be stored, the first error counts, not this one."""
        by_user = "cancelled by the user"
        reason = by_user if status == "cancelled" and not str(error) else one_line(error)
        self.recorder.patience_s = 0.0
        try:
            self._end_all("cancelled", why)
            if status == "cancelled" and self.recorder.cancel_requested(self.id):
                reason = by_user
            self.recorder.end(self.id, status, reason)
        except RequestError:
            say_last(self.id, reason)

    def _end_all(self, status: str, reason: str) -> None:
        for entry in self._alive():
            self._end(entry, status, reason)

    def _alone(self, entry: Entry, cell: Cell) -> dict[str, Any]:
        """The figures of one cell without any other: of its calls and of its answers, as far as there are any."""
        raw = summary.Raw(cell.blocks, cell.logits)
        found: dict[str, Any] = {"schedule": self.schedule, "conditions": cell.conditions} if cell.blocks else {}
        found |= summary.speed(raw) if cell.blocks else {}
        if cell.logits is not None and entry.prepared is not None:
            alignment, weights = self._alignment(entry), entry.prepared.random_weights
            examples, head = self.examples, entry.prepared.head
            found |= summary.answers(cell.logits, alignment, examples.labels, examples.label_names, weights, head)
            found["batch_flip_rate"] = summary.batch_flip_rate(cell.values.get("invariance"))
        return found

    def _derive(self) -> None:
        """Every figure that follows from raw values, written to the rows."""
        baseline = next(e for e in self.entries if e.variant.name == self.suite.baseline)
        measured = [
            (entry, cell)
            for entry in sorted(self.entries, key=lambda entry: entry is not baseline)
            if entry.ended is None and entry.prepared is not None
            for cell in entry.cells
        ]
        calm = {
            phase: stats.calm_rounds(
                [summary.Raw(cell.blocks).rates() for _, cell in measured if self._phase_of(cell) == phase]
            )
            for phase in self._phases()
        }
        latencies_s = {
            (cell.variant.name, cell.batching.batch_size): float(np.median(summary.Raw(cell.blocks).latencies_s()))
            for _, cell in measured
            if cell.blocks
        }
        self._slower = summary.slowdown(latencies_s, self.recorder.earlier_latencies_s(self.id))
        for entry, cell in measured:
            if self._slower > 1:
                cell.doubts.append(summary.SLOWER.format(self._slower))
            cell.values |= self._figures(entry, cell, baseline, calm[self._phase_of(cell)])
            cell.values |= self._limits(entry, cell, baseline)
        for phase in self._phases():
            summary.corrected([cell.values for _, cell in measured if self._phase_of(cell) == phase])
        for _, cell in measured:
            self.recorder.finish(cell.id, cell.values | {"status": "measured", "status_reason": None})
            cell.kept = True

    def _figures(self, entry: Entry, cell: Cell, baseline: Entry, calm: list[np.ndarray]) -> dict[str, Any]:
        known = baseline.ended is None or baseline.kept
        reference = self._baseline_cell(cell, baseline) if known else None
        raw = summary.Raw(cell.blocks, cell.logits)
        reference_raw = summary.Raw(reference.blocks, reference.logits) if reference else None
        found = self._alone(entry, cell) | {
            **summary.comparison(
                raw, reference_raw, entry is baseline, calm, self._slower, self.schedule == "sequential"
            ),
            **summary.validity(raw, cell.audit, self.suite.protocol.min_calls, cell.disturbed, cell.doubts),
        }
        return found | self._beside(entry, cell, baseline, reference, found)

    def _limits(self, entry: Entry, cell: Cell, baseline: Entry) -> dict[str, Any]:
        """How near the device's ceilings a cell comes; the baseline's cells come first."""
        assert entry.prepared is not None
        cell.limit_row = summary.limits_row(cell.blocks, cell.values, cell.variant.precision, self.device.kind)
        beside = None
        reference = self._baseline_cell(cell, baseline)
        if entry is not baseline and baseline.prepared and reference.limit_row and reference.limit:
            same = entry.prepared.source.digest == baseline.prepared.source.digest
            beside = bounds.Baseline(reference.limit_row, reference.limit, same, cell.values["comparison"])
        cell.limit = limits.assess(cell.limit_row, self.ceilings, entry.prepared.operations, beside)
        return {"limits": asdict(cell.limit), "limit_share": cell.limit.compute_share, "binds": cell.limit.binds}

    def _beside(
        self, entry: Entry, cell: Cell, baseline: Entry, reference: Cell | None, alone: dict[str, Any]
    ) -> dict[str, Any]:
        """What the answers say beside the baseline's; `alone` is what they say without."""
        assert cell.logits is not None
        if reference is None or reference.logits is None:
            return summary.agreement([], None)
        names, alignment, other = self.examples.label_names, self._alignment(entry), self._alignment(baseline)
        mine = summary.predicted_names(cell.logits, alignment, names)
        theirs = None
        if summary.comparable(alignment, other):
            theirs = summary.predicted_names(reference.logits, other, names)
        found = summary.agreement(mine, theirs)
        # The baseline's own figures come first.
        if entry is not baseline and None not in (alone.get("accuracy"), reference.values.get("accuracy")):
            pair = summary.paired(cell.logits, alignment, reference.logits, other, self.examples.labels)
            alone["quality"]["flips"] = pair.pop("flip_kinds", None)
            found |= pair
        return found

    def _baseline_cell(self, cell: Cell, baseline: Entry) -> Cell:
        """The baseline's cell in the same experiment."""
        phase = self._phase_of(cell)
        return next((c for c in baseline.cells if self._phase_of(c) == phase), baseline.cells[-1])


class _DoesNotFit(Exception):
    """The variants do not fit in memory beside each other."""
