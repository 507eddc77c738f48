"""Commands that show what is stored: suites, runs, show, compare, note, delete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from engine import paths
from engine.cli.options import MEASURED, SOME_FAILED, HourlyPrice, RunId
from engine.cli.shared import make_console, print_run, say_read_only, stored_rows
from engine.errors import RequestError

if TYPE_CHECKING:
    from engine.run.state import Progress

    Progress_ = Progress


def suites() -> None:
    """List the suites that come with the bench."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from engine.suite.reading import load_suite
    from engine.suite.spec import suite_files

    if not suite_files():
        raise RequestError(paths.NO_SUITES)
    made = Table("Suite", "Variants", "Data set", "Examples", "What it is", box=box.SIMPLE_HEAD)
    for name in suite_files():
        suite = load_suite(name)
        workload = suite.workload
        made.add_row(
            name,
            str(len(suite.variant)),
            Text(workload.dataset),
            str(workload.examples or "all"),
            Text(suite.description or suite.title),
        )
    make_console().print(made)


def runs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    suite: Annotated[str | None, typer.Option(help="Only runs of this suite.")] = None,
    search: Annotated[
        str, typer.Option(metavar="WORDS", help="Only runs with these words in suite, device, host, state, note, tags.")
    ] = "",
) -> None:
    """List stored runs, newest first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from engine.jobs import slurm as jobs_slurm
    from engine.store import interrupted, open_store
    from engine.store.runs import Search, list_runs

    with open_store(create=False) as store:
        say_read_only(store)
        jobs_slurm.catch_up(store)
        with store.session() as session:
            interrupted.mark_interrupted(session)
            found = list_runs(session, limit=limit, suite=suite, search=Search(search))
    made = Table("Run", "Suite", "Device", "Started (UTC)", "State", "Measurements", "Tags", box=box.SIMPLE_HEAD)
    for row in found:
        counts = ", ".join(f"{n} {status}" for status, n in row.counts.items() if n)
        made.add_row(
            row.run.id,
            Text(row.run.suite_name),
            Text(row.run.device_name),
            f"{row.run.created_at:%Y-%m-%d %H:%M}",
            row.run.status,
            counts,
            Text(", ".join(row.run.tags)),
        )
    none = "no run matches" if search or suite else "no runs yet; `python -m engine run demo` makes one"
    make_console().print(made if found else none)


def show(
    run: RunId,
    hourly_price: HourlyPrice = None,
    log: Annotated[int, typer.Option(min=0, metavar="LINES", help="Also the last lines of its log.")] = 0,
) -> None:
    """Print a stored run's tables; of one that is queued or under way, where it stands."""
    from engine.jobs.queue import log_tail, standing
    from engine.store import models

    summary, rows, stored_loads = stored_rows(run)
    status, reason = summary["status"], summary["status_reason"]
    if rows:
        print_run(summary, rows, stored_loads, hourly_price)
    if status in models.LIVE or (status != "finished" and reason):
        said = standing(status, summary["progress"]) + (f": {reason}" if reason else "")
        make_console().print(f"Run {summary['id']} on {summary['host']}: {said}", markup=False, highlight=False)
    if log:
        print(log_tail(summary["id"], log) or "there is no log of it on this machine")


def compare(
    run: RunId,
    other: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A second run.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=100.0,
            metavar="PERCENT",
            help="Exit with 1 where speed or accuracy is shown to be worse by more than this, its whole interval: than "
            "the baseline's, or in the second run than in the first; and where something failed or is invalid.",
        ),
    ] = None,
) -> None:
    """Print what a run shows against its baseline, or two runs beside each other."""
    from engine.report import between, changes, load, tables, takeaways

    summary, rows, stored_loads = stored_rows(run)
    first = (summary, rows)
    console = make_console()

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    if other is None:
        found = takeaways.takeaways(first[1])
        for item in found:
            if item.shown:
                say(item.sentence)
        if unshown := [item.sentence for item in found if not item.shown]:
            say("Not shown:")
            for sentence in unshown:
                say(f"  {sentence}")
        if stored_loads:
            loads = load.joined(stored_loads, rows)
            say(f"Under load: {load.headline(loads)} {load.doubt(loads)}".rstrip())
        worse = [] if threshold is None else changes.regressions(first[1], threshold / 100)
    else:
        second = stored_rows(other)[:2]
        answers = between.stored(first, second)
        console.print(tables.beside(first, second))
        for sentence in changes.differences(first, second, answers=answers):
            say(sentence)
        worse = [] if threshold is None else changes.regressions_between(first, second, threshold / 100, answers)
    for regression in worse:
        print(f"worse: {regression.sentence}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if worse else MEASURED)


def note(
    run: RunId,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help='The note; "" takes it away.')] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="T", help="Add a tag; may be repeated.")] = None,
    untag: Annotated[list[str] | None, typer.Option(metavar="T", help="Take a tag away; may be repeated.")] = None,
) -> None:
    """Write a note on a run, or tag it; without either, print both."""
    from engine.store import history

    said = history.annotate(run, text, tag or (), untag or ())
    print(f"{said.run_id} [{', '.join(said.tags)}] {said.note or ''}".rstrip())


def delete(
    run: RunId,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
) -> None:
    """Delete a run for good: its measurements, answers and log."""
    from engine.store import history

    found = history.contents(run)
    if not yes and not typer.confirm(f"Delete run {found.run_id}? {history.going(found)}", err=True):
        raise typer.Exit(SOME_FAILED)
    history.delete(found.run_id)
    print(f"{found.run_id} deleted")
