"""The state that the parts of a run share: the plan, the variants' states, the store, and the run's clock."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from engine import paths
from engine.artefacts.preparer import Preparer
from engine.machine.conditions import Watch
from engine.measurement import labels
from engine.run.checks import align
from engine.run.position import RoundPosition
from engine.run.recorder import Recorder
from engine.run.resuming import Resumable
from engine.run.state import Cancelled, Cell, Entry, Listener, Pairs, Progress
from engine.suite import batching
from engine.suite.plan import Plan
from engine.worker import silence


class RunState:
    """One run in progress, as its parts share it."""

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        preparer: Preparer,
        recorder: Recorder,
        listener: Listener,
        resumed: Resumable | None,
    ) -> None:
        self.id = run_id
        self.plan = plan
        self.preparer = preparer
        self.recorder = recorder
        self.listener = listener
        self.resumed = resumed
        """The stored run that goes on; None for a new one."""
        names = dict.fromkeys(cell.variant.name for cell in plan.cells)
        planned = {name: plan.cells_of(name) for name in names}
        self.entries = [Entry(cells[0].variant, [Cell(cell) for cell in cells]) for cells in planned.values()]
        self.schedule = "interleaved"
        """interleaved, or sequential where the variants do not fit in memory beside each other."""
        self.ceilings: dict[str, Any] = {"reason": "the run ended before they were measured"}
        self.idle_power_w: float | None = None
        self.slowdown = 1.0
        """How many times as long calls take as in earlier runs of the same work on this machine."""
        self.earlier_processes = 0
        """Processes of each variant that the run had before it was resumed."""
        self.logs: Path = paths.local_folder("logs") / run_id
        self._began_s = time.perf_counter()

    @property
    def cells(self) -> list[Cell]:
        return [cell for entry in self.entries for cell in entry.cells]

    def begin(self, suite_path: str | None) -> None:
        """Write the rows of a new run, or take up a stored one where it ended."""
        if not self.resumed:
            self.recorder.begin(self.id, self.plan, self.cells, suite_path)
            return
        run = self.recorder.resume(self.id, self.cells)
        blocks = [block for cell in self.cells for block in cell.blocks]
        self.earlier_processes = 1 + max((block.process for block in blocks), default=-1)
        # The run's clock goes on after its last block.
        self._began_s -= max((block.started_s + float(block.latencies_s.sum()) for block in blocks), default=0.0)
        self.ceilings = run.ceilings or self.ceilings

    def since_begin_s(self, started_ns: int) -> float:
        """A reading of the monotonic clock as seconds since the run began."""
        return started_ns / 1e9 - self._began_s

    def alive(self) -> list[Entry]:
        """The variants that have not failed, and are not unavailable or cancelled."""
        return [entry for entry in self.entries if entry.ended is None]

    def baseline(self) -> Entry:
        return next(entry for entry in self.entries if entry.variant.name == self.plan.baseline)

    def alignment(self, entry: Entry) -> labels.Alignment:
        """The meaning of a prepared variant's outputs. Raises RequestError for declared labels that cannot be right."""
        assert entry.prepared is not None
        return align(entry.variant, entry.prepared.labels, self.plan.corpus)

    def windows(self, pairs: Pairs) -> list[np.ndarray]:
        """The workload in windows, as the cells of one experiment work through it."""
        reference = next((entry for entry, _ in pairs if entry.variant.name == self.plan.baseline), pairs[0][0])
        assert reference.lengths is not None
        batchings = [cell.batching for _, cell in pairs]
        return batching.windows(reference.lengths, batchings, self.plan.suite.workload.seed)

    def tell(
        self,
        phase: str,
        text: str,
        done: float | None = None,
        seconds_left: float | None = None,
        variant: str | None = None,
        position: RoundPosition | None = None,
    ) -> None:
        """Report progress to the listener and the store. Raises Cancelled where somebody asked the run to end."""
        progress = Progress(phase, text, done, seconds_left, variant, position)
        self.listener(progress)
        if self.recorder.progress(self.id, progress):
            raise Cancelled

    def watch(self) -> Watch:
        """Begin to watch what else uses the machine, from now until `stop`."""
        workers = [entry.worker for entry in self.entries if entry.worker is not None]
        used_s: dict[int, float] = {}

        def own_cpu_s() -> float:
            for worker in workers:
                # A worker that has ended keeps what it had used.
                if (now := worker.cpu_ns()) is not None:
                    used_s[worker.process.pid] = now / 1e9
            return time.process_time() + sum(used_s.values())

        return Watch(self.plan.device, own_cpu_s, [worker.process.pid for worker in workers])

    def wait_for_silence(self, entry: Entry) -> bool:
        """Wait until the workers other than `entry`'s use no CPU. False where one still does at the time limit."""
        return silence.wait_for_silence(
            [e.worker for e in self.entries if e.worker is not None and e is not entry and e.ended is None]
        )
