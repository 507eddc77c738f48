"""The parent's handle on a worker: starts it, sends it requests and ends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from multiprocessing import Pipe
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TypeVar

from engine import backends, paths
from engine.artefacts.preparer import Prepared
from engine.backends.base import LoadRequest, Source
from engine.errors import UnavailableError, one_line, says_out_of_memory
from engine.machine import devices, processes
from engine.machine.devices import Device
from engine.suite.spec import Variant
from engine.worker.messages import Evaluate, Failed, Load, Loaded, Reply, Request, Start, TimeBlock, WarmUp

T = TypeVar("T")
DEADLINE_S = 900.0
"""The longest time that a worker may take for one reply, unless the protocol sets another."""
PATIENCE_S, PATIENCE_TIMES = 60.0, 20.0
"""The deadline for a request that was answered before with the same batch size and padding: the larger of this many
seconds and this many times as long as before. Other sizes may need to compile the model again."""
Work = tuple[type, int, str]
"""A request's type, the size of its largest batch, and its padding."""
WAIT_STEP_S = 5.0
KILL_SECONDS = 10.0
"""The longest wait for a killed process to end. A process that hangs in a driver may never end."""
SCRATCH = "inference-bench-"
"""The prefix of the names of workers' scratch folders; the parent's process id follows it."""


class WorkerError(RuntimeError):
    """A worker could not fulfil a request; the message is one line."""

    def __init__(self, message: str, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


class WorkerDied(WorkerError):
    """The worker's process has ended."""


class Worker:
    """One variant in its own process. Close the worker, or use it as a context manager."""

    def __init__(
        self, variant: Variant, device: Device, threads: int, log: Path, deadline_s: float = DEADLINE_S
    ) -> None:
        self.variant = variant
        self.device = device
        self.threads = threads
        self.log = log
        self.deadline_s = deadline_s
        self.scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
        self._took_s: dict[Work, float] = {}
        self._pending: tuple[Request[Any] | None, Work | None, float] = (None, None, 0.0)
        """The pending request, its work if it has batches, and when it was sent by the monotonic clock."""
        self._out_of_memory = processes.memory_kills()
        log.parent.mkdir(parents=True, exist_ok=True)
        self._connection, theirs = Pipe()
        with log.open("ab") as output:
            self.process = _lasting(
                subprocess.Popen,
                [sys.executable, "-m", "engine.worker", str(theirs.fileno())],
                cwd=paths.REPOSITORY,
                env=processes.tied(_environment(threads)),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                # A terminal's Ctrl-C should reach only the runner, which ends its workers in order.
                start_new_session=True,
            )
        theirs.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, request: Request[Any]) -> None:
        """Send a request without waiting; `finish` receives the reply."""
        work: Work | None = None
        if isinstance(request, Evaluate | WarmUp | TimeBlock):
            work = (type(request), max(map(len, request.batches), default=0), request.padding)
        self._pending = (request, work, time.monotonic())
        try:
            self._connection.send(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    def finish(self) -> Any:
        """The reply to the pending request, of the type that the request declares.

        Raises WorkerDied if the process ended or did not answer in time, UnavailableError if the
        technique cannot run here, and WorkerError for any other failure.
        """
        request, work, sent_s = self._pending
        limit_s = self.deadline_s
        if work in self._took_s:
            limit_s = min(limit_s, max(PATIENCE_S, PATIENCE_TIMES * self._took_s[work]))
        try:
            if not self._answers(limit_s):
                self._kill()
                doing = request.activity if request else "idle"
                raise WorkerDied(f"gave no answer for {limit_s:.0f} s while {doing} and was ended")
            reply = self._connection.recv()
        except (EOFError, OSError) as error:  # OSError: it ended in the middle of a reply
            raise self._died() from error
        if work is not None:
            self._took_s[work] = max(self._took_s.get(work, 0.0), time.monotonic() - sent_s)
        if isinstance(reply, Failed):
            if reply.is_unavailable:
                raise UnavailableError(reply.reason)
            raise WorkerError(reply.reason, reply.out_of_memory)
        return reply

    def _answers(self, limit_s: float) -> bool:
        """Whether a reply comes in time. Time in which this process itself is stopped counts as one step."""
        while limit_s > 0:
            if self._connection.poll(min(limit_s, WAIT_STEP_S)):
                return True
            limit_s -= WAIT_STEP_S
        return False

    def ask(self, request: Request[Reply]) -> Reply:
        """`begin` and `finish` in one."""
        self.begin(request)
        reply: Reply = self.finish()
        return reply

    def start(self) -> None:
        """Let the worker import its libraries; several workers may do so at once. `finish` waits for it."""
        self.begin(Start(self.variant.backend, self.device.uuid))

    def load(self, prepared: Prepared, max_length: int) -> Loaded:
        """Load the variant."""
        request = LoadRequest(
            folder=prepared.folder,
            precision=self.variant.precision,
            device=self.device.spec,
            threads=self.threads,
            options=self.variant.options,
            scratch=self.scratch,
        )
        return self.ask(Load(request, str(prepared.tokenizer), max_length))

    def cpu_ns(self) -> int | None:
        """CPU time in ns that all threads of the process have used; None if the system does not provide it."""
        try:
            # Linux numbers a process's CPU clock by its id (clock_getcpuclockid); 2 is the scheduler's clock.
            return time.clock_gettime_ns((~self.process.pid << 3) | 2)
        except (AttributeError, OSError):
            return None

    def runnable(self) -> bool:
        """Whether a thread of the process runs or waits for a core. While it waits, its CPU clock stands still too."""
        with suppress(OSError):
            for folder in Path(f"/proc/{self.process.pid}/task").iterdir():
                with suppress(OSError):
                    if (folder / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                        return True
        return False

    def _died(self) -> WorkerDied:
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self.process.poll() or -signal.SIGKILL
        if code < 0:
            name = signal.Signals(-code).name
            if name == "SIGKILL" and processes.memory_kills() > self._out_of_memory:
                return WorkerDied("the system ran out of memory and ended the worker", out_of_memory=True)
            return WorkerDied(f"the worker was ended by {name}")
        words = self._last_words()
        return WorkerDied(f"the worker ended with exit code {code}; {words}", says_out_of_memory(words))

    def _last_words(self) -> str:
        try:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        return f"its last line: {one_line(ValueError(lines[-1]), 200)}" if lines else "it said nothing"

    def _kill(self) -> None:
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(KILL_SECONDS)

    def close(self) -> None:
        """End the process and remove its scratch folder."""
        self._connection.close()
        if self.process.stdin:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._kill()
        shutil.rmtree(self.scratch, ignore_errors=True)


@cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "starter")


def _lasting(start: Callable[..., T], *arguments: Any, **keys: Any) -> T:
    """Call `start` in a thread that lives as long as this process.

    Linux ties a worker to the thread that starts it, and a dashboard's own threads end before the workers they request.
    """
    if current_thread() is main_thread():
        return start(*arguments, **keys)
    return _starter().submit(start, *arguments, **keys).result()


def remove_scratch() -> None:
    """Remove the scratch folders of workers whose parents were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdigit() and processes.lives(int(pid), None) is False:
            # A folder of another user cannot be removed and stays.
            shutil.rmtree(folder, ignore_errors=True)


def _environment(threads: int) -> dict[str, str]:
    """A worker's environment variables: the protocol's number of threads, and no access to a hub."""
    return devices.worker_environment() | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }


def refusal(variant: Variant, device: Device, source: Source, padding: str = "longest") -> str | None:
    """Why `variant` cannot run here, as known before anything is built for it; None if no reason is known."""
    cls = backends.get(variant.backend)
    if missing := cls.missing_modules():
        return f"needs {', '.join(missing)}: `pip install -r requirements.txt` installs it"
    return cls.refusal(variant.precision, variant.options, device.spec, source, padding)


TORCH_OVERHEAD_BYTES = 700_000_000
"""The approximate memory of a worker with torch beside its weights: libraries and activations."""
