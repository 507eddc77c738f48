"""Helpers of several commands: the console, progress, a suite, stored rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import files
from engine.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from engine.run.state import Progress
    from engine.store import Store
    from engine.store.rows import LoadRow, Row
    from engine.suite.spec import Suite

    Progress_ = Progress

PLAIN_SECONDS = 15.0
"""How long progress is silent at most where there is no terminal to draw a bar on."""


def read_suite(
    name: str, settings: list[str] | None, variants: str | list[str] | None, quick: bool | None = None
) -> Suite:
    """The suite that is meant, with `variants` alone: a list of names, or one string with commas between them.

    With `quick` a first look at it: True where no hub may be asked for its examples.
    """
    from engine.suite.reading import load_suite

    suite = load_suite(name, settings or [])
    if isinstance(variants, str):
        given, variants = variants, [v.strip() for v in variants.split(",") if v.strip()]
        if not variants:
            raise RequestError(f"--variants {given!r}: names no variant; allowed: {', '.join(suite.variants)}")
    if variants:
        suite = suite.select(variants)
    if quick is None:
        return suite
    from engine.suite import corpus

    return suite.shortened(len(corpus.load(suite, suite.workload, offline=quick)))


@contextmanager
def progress_listener() -> Iterator[Any]:
    """A listener that shows a run's progress on standard error: a bar on a terminal, else a line a phase."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    from engine.units import duration

    console = Console(stderr=True)
    if not console.is_terminal:
        said: tuple[str, str | None] | None = None
        said_s = 0.0

        def plain(progress: Progress_) -> None:
            nonlocal said, said_s
            step = (progress.phase, progress.variant)
            if step != said or time.monotonic() - said_s > PLAIN_SECONDS:
                said, said_s = step, time.monotonic()
                console.print(f"{progress.phase}: {progress.text}", markup=False, highlight=False, soft_wrap=True)

        yield plain
        return
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
    ]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None, left="")

        def live(progress: Progress_) -> None:
            seconds = progress.seconds_left
            left = f"about {duration(seconds)} left" if seconds is not None else ""
            total = None if progress.done is None else 1.0
            bar.update(task, description=progress.text, completed=progress.done or 0.0, total=total, left=left)

        yield live


def make_console() -> Console:
    """Standard output; wide enough for whole tables where it is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def stored_rows(reference: str) -> tuple[dict[str, Any], list[Row], list[LoadRow]]:
    """A run, its measurements and its loads as the store has them. Raises RequestError where there is none."""
    from engine.jobs import slurm as jobs_slurm
    from engine.store import interrupted, measurements, open_store
    from engine.store.runs import get_run, run_summary

    with open_store(create=False) as store:
        say_read_only(store)
        jobs_slurm.catch_up(store)
        with store.session() as session:
            interrupted.mark_interrupted(session)
            found = get_run(session, reference)
            return run_summary(found), measurements.rows(session, found.id), measurements.loads(session, found.id)


def say_read_only(store: Store) -> None:
    if store.read_only:
        print(f"note: {store.read_only}", file=sys.stderr)


def print_run(
    summary: dict[str, Any],
    rows: list[Row],
    stored_loads: list[LoadRow],
    hourly_price: float | None = None,
) -> None:
    from engine.report import load, tables

    console = make_console()
    loads = load.joined(stored_loads, rows)
    for part in tables.parts(rows, hourly_price, loads):
        for fits in tables.fitting(part.rows, part.columns, part.title, console.width):
            console.print(fits)
    for note in [*tables.notes(rows), *load.notes(loads)]:
        console.print(f"· {note}", markup=False, highlight=False)
    console.print(tables.caption(summary, rows), markup=False, highlight=False, style="dim")


def check_writable(path: Path) -> None:
    """Before hours of measuring, not after. Raises RequestError."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise RequestError(f"cannot write {path}: its folder does not exist, or it is a folder itself")


def write_output(file: str, text: str) -> None:
    if file == "-":
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    files.write(Path(file), text.encode())
