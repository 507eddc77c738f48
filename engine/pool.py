"""Workers as their parent sees them: started, asked, evicted; and the lock on a device."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from multiprocessing import Pipe
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, NamedTuple, TypeVar

from engine import backends, hardware, paths, processes
from engine.artefacts import Prepared
from engine.backends.base import LoadRequest, Source
from engine.errors import RequestError, UnavailableError, one_line, says_out_of_memory
from engine.hardware import Device
from engine.spec import Variant

T = TypeVar("T")
DEADLINE_S = 900.0
"""The longest that a worker may take for one answer, where the protocol says nothing else."""
PATIENCE_S, PATIENCE_TIMES = 60.0, 20.0
"""A request that was answered before, at this batch size and padding (for others a model may have to be compiled
anew): at most so many seconds, or times as long as it took."""
Work = tuple[str, int, str | None]
"""A request's name, its largest batch and its padding."""
WAIT_STEP_S = 5.0
KILL_SECONDS = 10.0
"""How long a killed process is waited for: one that hangs in a driver may never end."""
SILENCE_LIMIT_S = 0.5
SILENCE_STEP_S = 0.003
CLASSIFY = "classify"
"""What those are called who hold a device for one call or one build, not for a run."""
DOCTOR = "doctor"
"""Who tries a GPU out, in seconds."""
BRIEF = (CLASSIFY, DOCTOR)
EVICTING = ("run ", "fetch ")
"""How those begin who need a device's memory to themselves: warm workers leave it for them."""
EVICTION_STEP_S = 0.1
LOCK_STEP_S = 0.02
"""Between two tries for a device."""
UNTOLD_TURN_S = 5.0
"""How long a turn is asked for that nobody says to have."""
TURN_S = 0.1
"""How long a turn is asked for: who only tries whether the device is free has it for much less."""
TOLD_BYTES = 512
"""Of what a file among the device locks says: more is not read."""
SCRATCH = "inference-bench-"
"""How the names of workers' scratch folders begin; their parent's process id follows."""


class WorkerError(RuntimeError):
    """A worker could not do what it was asked; the message is one line."""

    def __init__(self, message: str, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


class WorkerDied(WorkerError):
    """The worker's process is gone."""


class DeviceBusy(RequestError):
    """Somebody else holds the device: `holder`, such as "run 01J..."."""

    def __init__(self, message: str, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class Worker:
    """One variant in a process of its own. Close it, or use it as a context manager."""

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
        self._asked: tuple[str, Work | None, float] = ("", None, 0.0)
        """The request under way: its name, its work if it is one of batches, and when it was made."""
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
                # A terminal's Ctrl-C is for the runner, which ends its workers in order.
                start_new_session=True,
            )
        theirs.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, name: str, **request: Any) -> None:
        """Send a request without waiting; `finish` takes the reply."""
        work = None
        if "batches" in request:
            work = (name, max(map(len, request["batches"]), default=0), request.get("padding"))
        self._asked = (name, work, time.monotonic())
        try:
            self._connection.send({"do": name, **request})
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    def finish(self) -> dict[str, Any]:
        """The reply to the request under way.

        Raises WorkerDied where the process ended or did not answer in time, UnavailableError where the
        technique cannot run here, WorkerError otherwise.
        """
        name, key, asked_s = self._asked
        limit_s = self.deadline_s
        if key in self._took_s:
            limit_s = min(limit_s, max(PATIENCE_S, PATIENCE_TIMES * self._took_s[key]))
        try:
            if not self._answers(limit_s):
                self._kill()
                raise WorkerDied(f"gave no answer for {limit_s:.0f} s ({name}) and was ended")
            reply = self._connection.recv()
        except (EOFError, OSError) as error:  # OSError: it ended in the middle of a reply
            raise self._died() from error
        if key is not None:
            self._took_s[key] = max(self._took_s.get(key, 0.0), time.monotonic() - asked_s)
        if "error" in reply:
            if reply["unavailable"]:
                raise UnavailableError(reply["error"])
            raise WorkerError(reply["error"], reply["out_of_memory"])
        return reply

    def _answers(self, limit_s: float) -> bool:
        """Whether a reply comes in time. A while in which this process is stopped itself counts as one step."""
        while limit_s > 0:
            if self._connection.poll(min(limit_s, WAIT_STEP_S)):
                return True
            limit_s -= WAIT_STEP_S
        return False

    def ask(self, name: str, **request: Any) -> dict[str, Any]:
        """`begin` and `finish` in one."""
        self.begin(name, **request)
        return self.finish()

    def start(self) -> None:
        """Let the worker import its libraries; several may do so at once. `finish` ends it."""
        self.begin("start", backend=self.variant.backend, device_uuid=self.device.uuid)

    def load(self, prepared: Prepared, max_length: int) -> dict[str, Any]:
        """Load the variant; the reply has load_s and weights_bytes."""
        request = LoadRequest(
            folder=prepared.folder,
            precision=self.variant.precision,
            device=self.device.spec,
            threads=self.threads,
            options=self.variant.options,
            scratch=self.scratch,
        )
        return self.ask(
            "load",
            request=request.to_json(),
            tokenizer=str(prepared.tokenizer),
            max_length=max_length,
        )

    def cpu_ns(self) -> int | None:
        """CPU time that all threads of the process have used; None where the system does not tell."""
        try:
            # Linux numbers a process's CPU clock by its id (clock_getcpuclockid); 2 is the scheduler's clock.
            return time.clock_gettime_ns((~self.process.pid << 3) | 2)
        except (AttributeError, OSError):
            return None

    def runnable(self) -> bool:
        """Whether a thread of the process runs, or waits for a core to run on: then its CPU clock stands still too."""
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
    """`start` in a thread that lives as long as this process: by Linux a worker is tied to the one that starts it.

    A dashboard's own threads end before the workers that they ask for.
    """
    if current_thread() is main_thread():
        return start(*arguments, **keys)
    return _starter().submit(start, *arguments, **keys).result()


def remove_scratch() -> None:
    """Remove the scratch folders of workers whose parents were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdigit() and processes.lives(int(pid), None) is False:
            # Another user's stays.
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_silence(workers: list[Worker]) -> bool:
    """Wait until no process of `workers` uses CPU time; False where one still did after half a second."""
    deadline = time.monotonic() + SILENCE_LIMIT_S
    before = [worker.cpu_ns() for worker in workers]
    while workers:
        time.sleep(SILENCE_STEP_S)
        now = [worker.cpu_ns() for worker in workers]
        if now == before and not any(worker.runnable() for worker in workers):
            break
        if time.monotonic() > deadline:
            return False
        before = now
    return True


def _environment(threads: int) -> dict[str, str]:
    """A worker's environment: as many threads as the protocol says, and no way to a hub."""
    return hardware.worker_environment() | {
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
    """Why `variant` cannot run here, known before anything is built for it; None where nothing speaks against it."""
    cls = backends.get(variant.backend)
    if missing := cls.missing_modules():
        return f"needs {', '.join(missing)}: `pip install -r requirements.txt` installs it"
    return cls.refusal(variant.precision, variant.options, device.spec, source, padding)


def lock_folder() -> Path:
    """The machine-wide folder of device locks, which every user of the machine may use."""
    folder = Path(os.environ.get("BENCH_LOCK_DIR") or Path(tempfile.gettempdir()) / "inference-bench-locks")
    if not folder.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"cannot make the folder {folder} of the device locks: {one_line(error)}; set BENCH_LOCK_DIR"
            ) from error
        with suppress(OSError):
            folder.chmod(0o1777)
    return folder


def _lock_file(device: Device) -> Path:
    name = "".join(c if c.isalnum() or c in "-._" else "_" for c in device.lock_key)
    return lock_folder() / f"{name}.lock"


def _tell(file: Path, words: str) -> None:
    """Writes what others may read, into a new file: what was there may be a link, or a pipe that nobody reads."""
    file.unlink(missing_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(handle, "w") as out:
        out.write(words)


class _Said(NamedTuple):
    """A file among the device locks."""

    written_s: float
    """Seconds since 1970."""
    words: str
    owner: int
    """The user whose file it is."""

    def lives(self, pid: int, marked: str | None) -> bool | None:
        """Whether process `pid` is there of which the file tells, and is its owner's; None: in another container."""
        if not re.fullmatch(r"[^/\s]*/[^/\s]*/[0-9.]+", marked or "") or processes.restarted(marked):
            return False
        alive = processes.lives(pid, marked)
        return alive and processes.owner(pid) == self.owner


def _told(file: Path) -> _Said | None:
    """What a file among the device locks says; None where it is none.

    Any user of the machine may have put anything there: no link is followed, no pipe waited for, no long file read,
    and nothing in it reaches a terminal but letters and signs.
    """
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            return None
        said = os.read(handle, TOLD_BYTES).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(handle)
    words = "".join(sign for sign in said if sign.isprintable() or sign == "\n").strip()
    return _Said(about.st_mtime, words, about.st_uid)


def holder(device: Device) -> str | None:
    """Who holds `device`, such as "run 01J..."; None where nobody does who still lives. Costs a look at a file."""
    return (_living(_lock_file(device)) or "").rpartition(" (process ")[0] or None


def register_warm(device: Device, pid: int) -> Path:
    """Tell runs that process `pid` keeps a model on `device`; unlink the returned file when it is gone."""
    lock = _lock_file(device)
    file = lock.with_name(f"{lock.stem}.warm-{pid}")
    with suppress(OSError):
        _tell(file, processes.mark(pid) or "")
    return file


def warm_workers(device: Device) -> list[int]:
    """The processes that keep a model on `device` between calls. What dead ones left is removed.

    Only who says what is true is waited for: another user's process in another container, of which that cannot be
    told, looks at the lock all the same.
    """
    lock = _lock_file(device)
    found = []
    for file in lock.parent.glob(f"{lock.stem}.warm-*"):
        pid, said = file.name.rpartition("-")[2], _told(file)
        alive = said.lives(int(pid), said.words) if said and re.fullmatch("[1-9][0-9]{0,9}", pid) else False
        if alive or (alive is None and said and said.owner == processes.user()):
            found.append(int(pid))
        elif alive is False:
            # Another user's stays, in a folder where only they may remove it.
            with suppress(OSError):
                file.unlink(missing_ok=True)
    return found


def await_eviction(device: Device, timeout_s: float, tell: Callable[[int], None]) -> int:
    """Wait until no warm worker is left on `device`; returns how many still are after `timeout_s`.

    For who holds the device's lock: owners of warm workers look at it, and let them go. `tell` gets
    their number once.
    """
    deadline = time.monotonic() + timeout_s
    told = False
    while left := len(warm_workers(device)):
        if not told:
            tell(left)
            told = True
        if time.monotonic() > deadline:
            break
        time.sleep(EVICTION_STEP_S)
    return left


@contextmanager
def turn(device: Device, waiting: str | None = None) -> Iterator[None]:
    """Go before all who ask for `device` from now on, until it is free; it ends with its holder's process.

    Who asks in between, such as Classify call after call, cannot keep one out who waits like this. `waiting` is what
    others are told meanwhile, such as "run 01J...". Raises DeviceBusy where somebody else has the turn.
    """
    from filelock import FileLock, Timeout

    file = _lock_file(device)
    file = file.with_name(f"turn-{file.name}")
    lock = FileLock(file, mode=0o666)
    began_s = time.monotonic()
    try:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=TURN_S, poll_interval=TURN_S / 10)
            except Timeout:
                # Who waits says so; who only tries the device has the turn for a moment, or till it is scheduled again.
                if _living(file) or _living(_lock_file(device)) or time.monotonic() - began_s > UNTOLD_TURN_S:
                    raise
    except Timeout as error:
        if now := _living(_lock_file(device)):
            raise _busy(device, now) from error
        who = _living(file) or "another process"
        raise DeviceBusy(f"{device.name} ({device.spec}) is busy: {who} waits for it, and goes first") from error
    except OSError as error:
        raise _cannot_lock(file, error) from error
    try:
        with _telling(file, waiting):
            yield
    finally:
        lock.release()


@contextmanager
def device_lock(device: Device, holder: str, timeout_s: float = 0.0, in_turn: bool = False) -> Iterator[None]:
    """Hold `device` for one user at a time; the lock ends with its holder's process.

    `holder` is what others are told, such as "run 01J...". `in_turn`: who asks has the `turn`; others leave the device
    to whoever has it. Raises DeviceBusy, naming the present holder, where the device is still taken after `timeout_s`.
    """
    from filelock import FileLock, Timeout

    file = _lock_file(device)
    lock = FileLock(file, mode=0o666)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with nullcontext() if in_turn else turn(device):
                lock.acquire(timeout=0)
            break
        except (Timeout, DeviceBusy) as error:
            if time.monotonic() >= deadline:
                if isinstance(error, DeviceBusy):
                    raise
                raise _busy(device, _living(file) or "another process") from error
        except OSError as error:
            raise _cannot_lock(file, error) from error
        time.sleep(LOCK_STEP_S)
    try:
        with _telling(file, holder):
            yield
    finally:
        lock.release()


def _busy(device: Device, who: str) -> DeviceBusy:
    return DeviceBusy(
        f"{device.name} ({device.spec}) is busy: {who} holds it; wait for it to end, or cancel it", who
    )


def _cannot_lock(file: Path, error: OSError) -> RequestError:
    return RequestError(f"cannot lock the device at {file}: {one_line(error)}; set BENCH_LOCK_DIR")


@contextmanager
def _telling(lock_file: Path, who: str | None) -> Iterator[None]:
    """Say beside a lock who holds it, if that is to be told."""
    # One file a user: in a folder with the sticky bit nobody can replace another's.
    told = lock_file.with_suffix(f".{processes.user()}.holder")
    if who:
        with suppress(OSError):
            _tell(told, f"{who} (process {os.getpid()})\n{processes.mark()}")
    try:
        yield
    finally:
        if who:
            with suppress(OSError):
                told.unlink(missing_ok=True)


def _living(lock_file: Path) -> str | None:
    """What a lock's holder says of itself, as "run 01J... (process 7)"; the dead, who may have left theirs, aside."""
    said = [_told(path) for path in lock_file.parent.glob(f"{lock_file.stem}.*.holder")]
    for one in sorted(filter(None, said), reverse=True):
        found = re.fullmatch(r"(.+ \(process ([1-9][0-9]{0,9})\))\n(.+)", one.words)
        if found is None:
            continue
        alive = one.lives(int(found[2]), found[3])
        # Of another container it cannot be seen whether it lives: one's own file is believed, as one's own harm.
        if alive or (alive is None and one.owner == processes.user()):
            return found[1]
    return None
