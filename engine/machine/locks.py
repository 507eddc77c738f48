"""Device locks: each device has one user at a time, and one process has the turn to be next."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from engine.errors import RequestError, one_line
from engine.machine import processes
from engine.machine.devices import Device
from engine.machine.holders import Holder, Process, process_of

EVICTION_STEP_S = 0.1
"""Time between two looks at whether warm workers have left."""
LOCK_STEP_S = 0.02
"""Time between two tries for a device."""
UNNAMED_TURN_S = 5.0
"""Lock timeout of a turn whose holder wrote no name."""
TURN_S = 0.1
"""Lock timeout of one try for a turn. A process that only tries the device holds the turn for much less."""
READ_BYTES = 512
"""How much of a file among the device locks is read."""


class DeviceBusy(RequestError):
    """Another process holds the device: `holder`; None where it wrote no name."""

    def __init__(self, message: str, holder: Holder | None = None) -> None:
        super().__init__(message)
        self.holder = holder


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


def _write(file: Path, words: str) -> None:
    """Write a file that others may read. It is a new file, because what was there may be a link or a pipe."""
    file.unlink(missing_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(handle, "w") as out:
        out.write(words)


class _Note(NamedTuple):
    """The content of a file in the lock folder."""

    written_s: float
    """Seconds since 1970."""
    words: str
    owner: int
    """The user whose file it is."""

    def lives(self, pid: int, marked: str | None) -> bool | None:
        """Whether process `pid`, which the file names, is alive and belongs to the file's owner.

        None where the process is in another container and cannot be seen.
        """
        if not re.fullmatch(r"[^/\s]*/[^/\s]*/[0-9.]+", marked or "") or processes.restarted(marked):
            return False
        alive = processes.lives(pid, marked)
        return alive and processes.owner(pid) == self.owner


def _read(file: Path) -> _Note | None:
    """Return the content of a file in the lock folder; None where it is not a plain file.

    Any user of the machine can put anything there. So this follows no link, waits for no pipe, reads no long file, and
    lets only printable characters reach a terminal.
    """
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            return None
        text = os.read(handle, READ_BYTES).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(handle)
    words = "".join(sign for sign in text if sign.isprintable() or sign == "\n").strip()
    return _Note(about.st_mtime, words, about.st_uid)


def holder(device: Device) -> Holder | None:
    """Return the holder of `device`; None where no living process holds it. This reads one small file."""
    process = _living(_lock_file(device))
    return process.holder if process else None


def register_warm(device: Device, pid: int) -> Path:
    """Tell runs that process `pid` keeps a model on `device`. Unlink the returned file when it no longer does."""
    lock = _lock_file(device)
    file = lock.with_name(f"{lock.stem}.warm-{pid}")
    with suppress(OSError):
        _write(file, processes.mark(pid) or "")
    return file


def warm_workers(device: Device) -> list[int]:
    """Return the processes that keep a model on `device` between calls. Remove the files of dead ones.

    A process of another user in another container cannot be checked, so a run does not wait for it. It still looks at
    the lock and lets its model go.
    """
    lock = _lock_file(device)
    found = []
    for file in lock.parent.glob(f"{lock.stem}.warm-*"):
        pid, note = file.name.rpartition("-")[2], _read(file)
        alive = note.lives(int(pid), note.words) if note and re.fullmatch("[1-9][0-9]{0,9}", pid) else False
        if alive or (alive is None and note and note.owner == processes.user()):
            found.append(int(pid))
        elif alive is False:
            # In a folder with the sticky bit only its owner can remove the file.
            with suppress(OSError):
                file.unlink(missing_ok=True)
    return found


def await_eviction(device: Device, timeout_s: float, tell: Callable[[int], None]) -> int:
    """Wait until no warm worker is left on `device`. Return how many are still there after `timeout_s`.

    The caller holds the device's lock: the owners of warm workers look at the lock and end them. `tell` is called once
    with their number.
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
def turn(device: Device, waiting: Holder | None = None) -> Iterator[None]:
    """Be the next to get `device`, before every process that asks for it later. The turn ends with the process.

    Without turns, Classify could delay a run with call after call. `waiting` names the waiting process to others.
    Raises DeviceBusy where another process has the turn.
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
                # A process that waits has written its name. One that only tries the device has the turn for a moment.
                if _living(file) or _living(_lock_file(device)) or time.monotonic() - began_s > UNNAMED_TURN_S:
                    raise
    except Timeout as error:
        if now := _living(_lock_file(device)):
            raise _busy(device, now) from error
        who = _words(_living(file))
        raise DeviceBusy(f"{device.name} ({device.spec}) is busy: {who} waits for it, and goes first") from error
    except OSError as error:
        raise _cannot_lock(file, error) from error
    try:
        with _telling(file, waiting):
            yield
    finally:
        lock.release()


@contextmanager
def device_lock(device: Device, holder: Holder, timeout_s: float = 0.0, in_turn: bool = False) -> Iterator[None]:
    """Hold `device`, which has one user at a time. The lock ends with the process.

    `holder` names this process to others. `in_turn`: the caller already has the `turn`; otherwise the device is left to
    the process that has it. Raises DeviceBusy, with the present holder, where it is still taken after `timeout_s`.
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
                raise _busy(device, _living(file)) from error
        except OSError as error:
            raise _cannot_lock(file, error) from error
        time.sleep(LOCK_STEP_S)
    try:
        with _telling(file, holder):
            yield
    finally:
        lock.release()


def _busy(device: Device, process: Process | None) -> DeviceBusy:
    message = f"{device.name} ({device.spec}) is busy: {_words(process)} holds it; wait for it to end, or cancel it"
    return DeviceBusy(message, process.holder if process else None)


def _words(process: Process | None) -> str:
    return process.words if process else "another process"


def _cannot_lock(file: Path, error: OSError) -> RequestError:
    return RequestError(f"cannot lock the device at {file}: {one_line(error)}; set BENCH_LOCK_DIR")


@contextmanager
def _telling(lock_file: Path, holder: Holder | None) -> Iterator[None]:
    """Write a lock's holder to a file beside it, if `holder` is given. Remove the file afterwards."""
    # One file for each user: in a folder with the sticky bit no user can replace the file of another.
    file = lock_file.with_suffix(f".{processes.user()}.holder")
    if holder:
        with suppress(OSError):
            _write(file, Process(holder, os.getpid(), processes.mark() or "").to_text())
    try:
        yield
    finally:
        if holder:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _living(lock_file: Path) -> Process | None:
    """Return the newest living process that a file names as a lock's holder. Dead processes may have left files."""
    notes = [_read(path) for path in lock_file.parent.glob(f"{lock_file.stem}.*.holder")]
    for note in sorted(filter(None, notes), reverse=True):
        process = process_of(note.words)
        if process is None:
            continue
        alive = note.lives(process.pid, process.mark)
        # A process in another container cannot be seen. Trust the user's own file: a false one harms only them.
        if alive or (alive is None and note.owner == processes.user()):
            return process
    return None
