"""Slurm's commands, called and read."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import RequestError, one_line

if TYPE_CHECKING:
    pass

COMMAND_SECONDS = 60.0


class Word(NamedTuple):
    """What Slurm says of a job."""

    state: str
    reason: str
    node: str


def cancel(job: str, at_once: bool) -> None:
    """Takes a waiting job out of Slurm's queue, and tells one that works to end. Raises RequestError."""
    signal = "INT" if at_once else "USR1"
    for which in (["--state=PENDING"], ["--state=RUNNING", "--batch", f"--signal={signal}"]):
        done = ask("scancel", *which, job)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise RequestError(f"Slurm job {job}: {one_line(ValueError(done.stderr))}")


def ask(
    command: str, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands; its faults are in what comes back."""
    called = [command, *arguments]
    try:
        return subprocess.run(
            called, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, env=env
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(called, 127, "", f"there is no {command} on this machine")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(called, 124, "", f"{command} gave no answer for {COMMAND_SECONDS:.0f} s")


def words() -> dict[str, Word] | None:
    """What Slurm says of this user's jobs, by number; it forgets one some minutes after its end. None: no answer."""
    form = "--format=%i|%T|%r|%N"
    done = ask("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", form)
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {row[0].strip(): Word(*row[1:4]) for row in rows if len(row) == 4}


def accounted(job: str) -> Word | None:
    """What Slurm's accounting says of a job that the queue has forgotten; None where there is no accounting."""
    done = ask("sacct", f"--jobs={job}", "--allocations", "--noheader", "--parsable2", "--format=State")
    state = done.stdout.split()[:1]
    return Word(state[0], "", "") if state and not done.returncode else None
