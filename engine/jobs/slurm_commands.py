"""Call Slurm's commands and read their output."""

from __future__ import annotations

import os
import subprocess
from typing import NamedTuple

from engine.errors import RequestError, one_line

COMMAND_SECONDS = 60.0
"""Timeout of one command."""


class Word(NamedTuple):
    """The state of a job as Slurm reports it."""

    state: str
    reason: str
    node: str


def cancel(job: str, at_once: bool) -> None:
    """Take a waiting job out of Slurm's queue, or ask a running one to end. Raises RequestError where scancel fails."""
    signal = "INT" if at_once else "USR1"
    for which in (["--state=PENDING"], ["--state=RUNNING", "--batch", f"--signal={signal}"]):
        done = ask("scancel", *which, job)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise RequestError(f"Slurm job {job}: {one_line(ValueError(done.stderr))}")


def ask(
    command: str, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Call one of Slurm's commands. A failure is in the returned exit code and stderr."""
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
    """Return the state of this user's jobs by number; None where Slurm does not answer.

    Slurm forgets a job some minutes after its end.
    """
    form = "--format=%i|%T|%r|%N"
    done = ask("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", form)
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {row[0].strip(): Word(*row[1:4]) for row in rows if len(row) == 4}


def accounted(job: str) -> Word | None:
    """Return the state of a job by Slurm's accounting, which keeps ended jobs; None where there is no accounting."""
    done = ask("sacct", f"--jobs={job}", "--allocations", "--noheader", "--parsable2", "--format=State")
    state = done.stdout.split()[:1]
    return Word(state[0], "", "") if state and not done.returncode else None
