"""Locks on devices: one user at a time, and turns to be next."""

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


class DeviceBusy(RequestError):
    """Somebody else holds the device: `holder`, such as "run 01J..."."""

    def __init__(self, message: str, holder: str = "") -> None:
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
    return DeviceBusy(f"{device.name} ({device.spec}) is busy: {who} holds it; wait for it to end, or cancel it", who)


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
