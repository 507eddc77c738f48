"""One measured variant under a profiler, in a worker of its own, after the run: its operators, and a trace to open.

What the run's worker loaded is found again by content, as `engine.ship.folder` does; nothing is made anew.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import paths
from engine.errors import RequestError, UnavailableError, one_line
from engine.machine import devices, locks
from engine.machine.holders import Holder, Kind
from engine.measurement import operators
from engine.run import reopening
from engine.store.history import TRACES
from engine.store.rows import Row
from engine.worker.handle import Worker, WorkerError
from engine.worker.messages import Encode, Evaluate, Profile

CALLS = 5
WARM_UP_CALLS = 3
LOCK_SECONDS = 5.0
RUN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class Profiled:
    """A profiled measurement."""

    run: dict[str, Any]
    row: Row
    found: dict[str, Any]
    """The operators, in the form of `engine.measurement.operators.facts`."""
    file: Path
    """The trace, gzipped JSON."""


def trace_file(run_id: str, variant: str, batch_size: int) -> Path:
    """Where the trace of a measurement lies, whether it is there or not. Raises RequestError for names of no such."""
    if not RUN.fullmatch(run_id) or not VARIANT.fullmatch(variant):
        raise RequestError(f"no trace can have the name of run {run_id!r}, variant {variant!r}")
    return paths.local_data() / TRACES / run_id / f"{variant}-batch-{batch_size}.trace.json.gz"


def profile(reference: str, variant: str, batch_size: int | None = None) -> Profiled:
    """Profile some calls of the run's first batch and keep their trace, in the place of an earlier one.

    `batch_size`: the measurement, the largest by default. Holds the device meanwhile. Raises RequestError, one line,
    where the variant cannot be loaded as it was, where the device is taken, or where there is no profiler for it.
    """
    again = reopening.again(reference, variant, batch_size)
    run, row = again.run, again.row
    if run["foreign"]:
        raise RequestError(f"{variant}: run {run['id']} came as a file; profile it where it was measured")
    if run["host"] != socket.gethostname():
        raise RequestError(f"{variant}: run {run['id']} was measured on {run['host']}; profile it there")
    device = devices.resolve_device(run["device"])
    size, padding = min(row.batch_size, len(again.texts)), row.padding
    file = trace_file(run["id"], variant, row.batch_size)
    paths.local_folder(TRACES)
    batch = np.arange(size)
    with (
        locks.device_lock(device, Holder(Kind.PROFILE, variant), timeout_s=LOCK_SECONDS),
        tempfile.TemporaryDirectory(prefix="profile-") as place,
        Worker(again.variant, device, run["environment"]["threads"], Path(place) / "log") as worker,
    ):
        locks.await_eviction(device, LOCK_SECONDS, lambda count: None)
        try:
            worker.start()
            worker.finish()
            worker.load(again.prepared, row.max_length)
            worker.ask(Encode(again.texts[:size]))
            worker.ask(Evaluate([batch] * WARM_UP_CALLS, padding))
            found = worker.ask(Profile(batch, padding, CALLS, keep_trace=True))
        except (UnavailableError, WorkerError) as error:
            raise RequestError(f"{variant}: {one_line(error)}") from error
        if found.operators is None or found.trace is None:
            raise RequestError(f"{variant}: {found.reason}")
        about = {"run": run["id"], "variant": variant, "batch_size": str(row.batch_size), "calls": str(CALLS)}
        _keep(operators.trace(json.loads(Path(found.trace).read_text()), about), file)
    return Profiled(run, row, found.operators, file)


def _keep(trace: dict[str, Any], file: Path) -> None:
    """`trace` at `file`, whole or not at all. Raises RequestError."""
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(gzip.compress(json.dumps(trace, separators=(",", ":")).encode()))
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RequestError(f"cannot write {file}: {one_line(error)}; free some space or make it writable") from error
