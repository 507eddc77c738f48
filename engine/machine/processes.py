"""Which process is which: known by more than its number, which a later one may get; and ended with who started it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PARENT = "INFERENCE_BENCH_PARENT"
"""The variable by which a child learns whose end is its own."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
SLACK_S = 2.0
"""How far a process's start may lie from the one written down, where the system tells it by its clock."""


def mark(pid: int | None = None) -> str | None:
    """A mark that tells process `pid` (by default this one) from every other process with the same id.

    "BOOT/NAMESPACE/START": the kernel's id of this boot, of the numbers' namespace, and clock ticks from boot to the
    process's start: none of them hangs on the clock. Elsewhere than on Linux "//START", seconds since 1970. None where
    there is no such process.
    """
    pid = pid or os.getpid()
    if sys.platform == "linux":
        found = _stat(pid)
        return None if found is None else f"{_here()}/{found[1]}"
    import psutil

    try:
        return f"//{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return None


def lives(pid: int | None, marked: str | None) -> bool | None:
    """Whether process `pid` runs and is the one that was `marked`; None where that cannot be told from here.

    It cannot where the mark was made before this machine started, on another one, or in another container. Without a
    mark whatever has the number counts. A process that its parent has not waited for yet has ended.
    """
    if pid is None:
        return False
    start = None
    if marked:
        where, _, start = marked.rpartition("/")
        if where != _here():
            return None
    if sys.platform == "linux":
        found = _stat(pid)
        if found is None:
            return _hidden(pid)
        state, started = found
        return state not in "ZX" and (start is None or start == started)
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return start is None or abs(process.create_time() - float(start)) <= SLACK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None


def user() -> int:
    """The id of this process's user; 0 on systems without users."""
    return os.getuid() if hasattr(os, "getuid") else 0


def owner(pid: int) -> int | None:
    """The user whose process `pid` is; None where that cannot be told. 0 on systems without users."""
    import psutil

    try:
        return psutil.Process(pid).uids().effective if hasattr(os, "getuid") else 0
    except psutil.Error:
        return None


def restarted(marked: str | None) -> bool:
    """Whether a mark was made before this machine was started, or on another one of its name."""
    return bool(marked) and str(marked).split("/")[0] != _here().split("/")[0]


def _stat(pid: int) -> tuple[str, str] | None:
    """State and start of a process, as Linux writes them."""
    try:
        # Its name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return None


def _hidden(pid: int) -> bool | None:
    """False where there is no process `pid`; None where there is one that only its user may look at."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return None


def _here() -> str:
    """This boot, and this namespace of process numbers."""
    if sys.platform != "linux":
        return "/"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "/"


def memory_kills() -> int:
    """How many processes Linux has ended since it started because memory ran out; 0 where it does not tell."""
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def end_politely() -> None:
    """Have a scheduler's SIGTERM, or a terminal that closes, end this process as Ctrl-C does, which tells the store."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(f"ended by {signal.Signals(number).name}")

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A signal that `nohup` ignores stays ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def tied(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment (by default this one) for a child that calls `end_with_parent`.

    It ends with the *thread* that starts it, as Linux has it: not for children that outlive the call of a thread.
    """
    return dict(os.environ if environment is None else environment) | {PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, even where it is stopped or stuck in a call.

    For a child whose parent gave it `tied`; elsewhere than on Linux it does nothing.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(1)  # it ended before it could be tied to


def tie(command: Sequence[str]) -> list[str]:
    """`command` such that, started with the variables of `tied`, it ends with its parent, of whom it knows nothing."""
    return [sys.executable, "-I", str(Path(__file__).resolve()), *command]


if __name__ == "__main__":
    end_with_parent()  # what is asked of the system holds for the program that takes this one's place
    os.execv(sys.argv[1], sys.argv[1:])
