"""`python -m engine`: the command line. Imports inside commands keep `--help` quick."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine import files
from engine.errors import RequestError, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from engine.runner import Progress
    from engine.slurm import Profile
    from engine.spec import Suite
    from engine.store import Store

STORAGE_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)
PLAIN_SECONDS = 15.0
"""How long progress is silent at most where there is no terminal to draw a bar on."""
MEASURED, SOME_FAILED, WRONG_REQUEST, STOPPED = 0, 1, 2, 130

app = typer.Typer(
    name="engine",
    help="Measures ways of running one text classifier against each other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A name from data/suites, or a path.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help='An id, a part of one, or "latest".')]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: workload.examples=200."),
]
Variants = Annotated[str | None, typer.Option(metavar="A,B", help="Only these, and the baseline.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no model hub for anything.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look: fewer rounds and examples, wider intervals.")]


class Where(StrEnum):
    here = "here"
    slurm = "slurm"


On = Annotated[Where, typer.Option("--on", help="This machine, or a job of its Slurm cluster.")]
Partition = Annotated[str | None, typer.Option(metavar="P", help="Of the cluster; with --on slurm.")]
Gpu = Annotated[str | None, typer.Option(metavar="TYPE", help='The type of the job\'s GPU, or "any"; none without.')]
Time = Annotated[str | None, typer.Option(metavar="LIMIT", help="The job's limit, as sbatch takes it: 2:00:00.")]
Account = Annotated[str | None, typer.Option(metavar="A", help="Who pays.")]


class Format(StrEnum):
    csv = "csv"
    json = "json"
    markdown = "markdown"
    latex = "latex"
    run = "run"


def main() -> None:
    """The command line; a mistake in the request is one line and exit code 2."""
    try:
        app()
    except RequestError as error:
        print(f"error: {one_line(error, 2000)}", file=sys.stderr)
        sys.exit(WRONG_REQUEST)
    except BrokenPipeError:
        # The reader of a pipe has seen enough (`| head`).
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        where = f" {error.filename}" if error.filename else ""
        print(
            f"error: cannot write{where}: {error.strerror}; free some space or make it writable, "
            "or point BENCH_DATA_DIR elsewhere",
            file=sys.stderr,
        )
        sys.exit(WRONG_REQUEST)


def _suite(name: str, settings: list[str] | None, variants: str | list[str] | None, quick: bool | None = None) -> Suite:
    """The suite that is meant, with `variants` alone: a list of names, or one string with commas between them.

    With `quick` a first look at it: True where no hub may be asked for its examples.
    """
    from engine.spec import load_suite

    suite = load_suite(name, settings or [])
    if isinstance(variants, str):
        given, variants = variants, [v.strip() for v in variants.split(",") if v.strip()]
        if not variants:
            raise RequestError(f"--variants {given!r}: names no variant; allowed: {', '.join(suite.variants)}")
    if variants:
        suite = suite.select(variants)
    if quick is None:
        return suite
    from engine import corpus

    return suite.shortened(len(corpus.load(suite, suite.workload, offline=quick)))


@contextmanager
def _progress() -> Iterator[Any]:
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


if TYPE_CHECKING:
    Progress_ = Progress


@app.command()
def run(
    suite: SuiteName,
    variants: Variants = None,
    device: Device = "auto",
    settings: Settings = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write run and measurements; - for stdout.")
    ] = None,
    offline: Offline = False,
    quick: Quick = False,
    once: Annotated[
        bool, typer.Option("--once", help="Only where this machine has no finished run of the suite yet.")
    ] = False,
    on: On = Where.here,
    partition: Partition = None,
    gpu: Gpu = None,
    time: Time = None,
    account: Account = None,
) -> None:
    """Measure a suite's variants, store them, and print a table."""
    from engine import processes, runner, slurm
    from engine.spec import find_suite

    processes.end_politely()
    asked = _suite(suite, settings, variants, offline if quick else None)
    if json_file and json_file != "-":
        _check_writable(Path(json_file))
    if once and (known := _finished(asked)):
        print(f"{asked.name} is measured already: run {known} (`python -m engine show {known}`)", file=sys.stderr)
        return
    path = str(find_suite(suite))
    if profiles := _profiles(on, partition, gpu, time, account):
        if len(profiles) > 1:
            raise RequestError(f"--gpu {gpu}: a run has one type of GPU; `queue` takes several, for a run each")
        run_id = slurm.submit(asked, profiles[0], device, path, offline)
        print(f"run {run_id} is submitted; Ctrl-C cancels it", file=sys.stderr)
        _measure(lambda listener: slurm.watch(run_id, listener), json_file)
    told = False

    def work(listener: Callable[[Progress_], None]) -> str:
        def tell(progress: Progress_) -> None:
            nonlocal told
            # A request that is refused is one line: nothing is said before it is taken.
            if not told and progress.phase != "queued":
                told = True
                print(_estimate(asked, device), file=sys.stderr)
            listener(progress)

        return runner.run(asked, device, offline=offline, listener=tell, suite_path=path)

    _measure(work, json_file)


def _estimate(suite: Suite, device: str) -> str:
    """How long a run of `suite` takes. Raises RequestError for a device that is not there."""
    from engine import estimate, hardware
    from engine.store import open_store

    chosen = hardware.resolve_device(device)
    with open_store() as store, store.session() as session:
        return estimate.words(suite, estimate.earlier(session, suite.name, chosen.name))


def _profiles(
    on: Where, partition: str | None, gpu: str | None, time: str | None, account: str | None
) -> list[Profile]:
    """What each type of GPU asked for makes of a job; empty where this machine measures. Raises RequestError."""
    given = {"partition": partition, "gpu": gpu, "time": time, "account": account}
    if on is Where.slurm:
        from engine import slurm

        return slurm.profiles(**given)
    if odd := [f"--{name}" for name, value in given.items() if value]:
        raise RequestError(f"{', '.join(odd)}: only together with --on slurm")
    return []


def _measure(work: Callable[[Any], str], json_file: str | None) -> None:
    """Does `work`, which measures a run and gives its id, and shows what came of it. Always raises typer.Exit."""
    from engine import runner

    try:
        with _progress() as listener:
            run_id = work(listener)
    except (KeyboardInterrupt, runner.Cancelled):
        print("cancelled; what was measured is stored: `python -m engine show latest`", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    summary, rows, scenarios = _stored(run_id)
    if json_file:
        _write(json_file, json.dumps({"run": summary, "measurements": rows, "scenarios": scenarios}, indent=2))
    if json_file != "-":
        _print_run(summary, rows, scenarios)
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed:
        print(f"failed: {row['variant']}: {row['status_reason']}", file=sys.stderr)
    overloaded = [row for row in scenarios if row["status"] == "failed"]
    for row in overloaded:
        print(f"failed under load: {row['variant']}: {row['status_reason']}", file=sys.stderr)
    # Somebody else's process measured it, and could not.
    if summary["status"] != "finished":
        print(f"{summary['status']}: {summary['status_reason']}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if failed or overloaded or summary["status"] != "finished" else MEASURED)


@app.command()
def queue(
    suites: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUITE...]", help="Names from data/suites, or paths; none shows the queue."),
    ] = None,
    variants: Variants = None,
    device: Device = "auto",
    settings: Settings = None,
    offline: Offline = False,
    each_batch_size: Annotated[
        bool, typer.Option("--each-batch-size", help="A run for each batch size, not one for all of them.")
    ] = False,
    on: On = Where.here,
    partition: Partition = None,
    gpu: Gpu = None,
    time: Time = None,
    account: Account = None,
    quick: Quick = False,
) -> None:
    """Queue runs that processes of their own measure, whatever becomes of this terminal; prints the runs' ids.

    A run for each suite, with --gpu A,B for each type of GPU too, and each of them is one job where Slurm measures.
    Without a suite: what is measured and what waits, in order, with the time left.
    """
    from engine import jobs, slurm
    from engine.spec import find_suite

    if not suites:
        _print_queue()
        return
    profiles = _profiles(on, partition, gpu, time, account)
    asked = []
    for name in suites:
        first_look = offline if quick else None
        suite = _suite(name, settings, variants, first_look)
        asked += [(name, each) for each in (suite.each_batch_size() if each_batch_size else [suite])]
    for name, suite in asked:
        path = str(find_suite(name))
        if profiles:
            made = [slurm.submit(suite, profile, device, path, offline) for profile in profiles]
        else:
            made = [jobs.start(suite, device, path, offline)]
        print("\n".join(made), flush=True)
    print("queued; see how it goes: `python -m engine queue`, end one: `python -m engine cancel RUN`", file=sys.stderr)


def _print_queue() -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from engine import jobs, slurm
    from engine.store import open_store, queries

    with open_store(create=False) as store:
        _say_read_only(store)
        slurm.catch_up(store)
        with store.session() as session:
            found = queries.live_runs(session)
    made = Table("Run", "Suite", "Device", "Host", "Asked for (UTC)", "State", box=box.SIMPLE_HEAD)
    for one in found:
        made.add_row(
            one.id,
            Text(one.suite_name),
            one.device,
            Text(one.host),
            f"{one.queued_at or one.created_at:%Y-%m-%d %H:%M}",
            Text(jobs.standing(one.status, one.progress, one.suite)),
        )
    _console().print(made if found else "nothing is measured, and nothing waits")


@app.command()
def resume(
    run: RunId,
    offline: Offline = False,
    queued: Annotated[
        bool, typer.Option("--queue", help="By a process of its own, when its turn comes, as `queue` does.")
    ] = False,
) -> None:
    """Go on with a run that ended early or in which variants failed: what is measured stays, what it lacks is made."""
    from engine import jobs, processes, resuming, runner

    if queued:
        print(jobs.resume(run, offline))
        return
    processes.end_politely()
    found = resuming.resumable(run)
    _measure(
        lambda listener: runner.run(
            found.suite, found.device, offline=offline, listener=listener, suite_path=found.suite_path, resume=found
        ),
        None,
    )


@app.command()
def cancel(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help='Ids, parts of some, or "latest".')],
    now: Annotated[bool, typer.Option("--now", help="At once, not after the round it is in.")] = False,
) -> None:
    """End queued or running runs; what was measured until then is kept."""
    from engine import jobs

    wrong: list[RequestError] = []
    for run in runs:
        try:
            said = "cancelling" if jobs.cancel(run, at_once=now) else "it had ended already"
        except RequestError as error:
            # It holds up none of the others.
            wrong.append(error)
        else:
            print(f"{run}: {said}" if len(runs) > 1 else said, file=sys.stderr)
    if wrong:
        raise RequestError("; ".join(map(str, wrong)))


@app.command()
def suites() -> None:
    """List the suites that come with the bench."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from engine.spec import load_suite, suite_files

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
    _console().print(made)


@app.command()
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

    from engine import slurm
    from engine.store import open_store, queries

    with open_store(create=False) as store:
        _say_read_only(store)
        slurm.catch_up(store)
        with store.session() as session:
            queries.mark_interrupted(session)
            found = queries.list_runs(session, limit=limit, suite=suite, search=queries.Search(search))
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
    _console().print(made if found else none)


HourlyPrice = Annotated[
    float | None,
    typer.Option("--hourly-price", min=0.0, metavar="P", help="Of the machine: adds the price of a million texts."),
]


@app.command()
def show(
    run: RunId,
    hourly_price: HourlyPrice = None,
    log: Annotated[int, typer.Option(min=0, metavar="LINES", help="Also the last lines of its log.")] = 0,
) -> None:
    """Print a stored run's tables; of one that is queued or under way, where it stands."""
    from engine import jobs
    from engine.store import queries

    summary, rows, scenarios = _stored(run)
    status, reason = summary["status"], summary["status_reason"]
    if rows:
        _print_run(summary, rows, scenarios, hourly_price)
    if status in queries.LIVE or (status != "finished" and reason):
        said = jobs.standing(status, summary["progress"], summary["spec"]) + (f": {reason}" if reason else "")
        _console().print(f"Run {summary['id']} on {summary['host']}: {said}", markup=False, highlight=False)
    if log:
        print(jobs.log_tail(summary["id"], log) or "there is no log of it on this machine")


@app.command()
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
    from engine import between, serving, tables, takeaways

    summary, rows, scenarios = _stored(run)
    first = (summary, rows)
    console = _console()

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
        if scenarios:
            loads = serving.joined(scenarios, rows)
            say(f"Under load: {serving.headline(loads)} {serving.doubt(loads)}".rstrip())
        worse = [] if threshold is None else takeaways.regressions(first[1], threshold / 100)
    else:
        second = _stored(other)[:2]
        answers = between.stored(first, second)
        console.print(tables.beside(first, second))
        for sentence in takeaways.differences(first, second, answers=answers):
            say(sentence)
        worse = [] if threshold is None else takeaways.regressions_between(first, second, threshold / 100, answers)
    for regression in worse:
        print(f"worse: {regression.sentence}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if worse else MEASURED)


@app.command()
def export(
    run: RunId,
    form: Annotated[Format, typer.Option("--format", help="The file's format.")] = Format.csv,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Each example's index, text hash, label and logits instead.")
    ] = False,
    output: Annotated[str, typer.Option(metavar="FILE", help="Where to write; - for stdout.")] = "-",
) -> None:
    """Write a run's measurements or answers as CSV, JSON, Markdown or LaTeX; or the run as one file, to import."""
    from engine import exports

    if output != "-":
        _check_writable(Path(output))
    if form is Format.run:
        if predictions:
            raise RequestError("--predictions goes with csv or json; a run's file holds every answer anyway")
        _export_run(run, output)
        return
    _write(output, exports.predictions(run, form) if predictions else exports.measurements(run, form))


def _export_run(run: str, output: str) -> None:
    from engine import runfile

    if output != "-":
        runfile.write(run, Path(output))
    elif sys.stdout.isatty():
        raise RequestError("a run's file is no text for a terminal; name it with --output FILE")
    else:
        sys.stdout.buffer.write(runfile.dump(run)[1])


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(metavar="FILE", help="As `export --format run` wrote it.")]) -> None:
    """Store the run of a file that another machine exported."""
    from engine import runfile

    done = runfile.load(file)
    print(f"{done.run_id} {'imported' if done.new else 'is already there; nothing was changed'}")


@app.command()
def note(
    run: RunId,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help='The note; "" takes it away.')] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="T", help="Add a tag; may be repeated.")] = None,
    untag: Annotated[list[str] | None, typer.Option(metavar="T", help="Take a tag away; may be repeated.")] = None,
) -> None:
    """Write a note on a run, or tag it; without either, print both."""
    from engine import history

    said = history.annotate(run, text, tag or (), untag or ())
    print(f"{said.run_id} [{', '.join(said.tags)}] {said.note or ''}".rstrip())


@app.command()
def delete(
    run: RunId,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
) -> None:
    """Delete a run for good: its measurements, answers and log."""
    from engine import history

    found = history.contents(run)
    if not yes and not typer.confirm(f"Delete run {found.run_id}? {history.going(found)}", err=True):
        raise typer.Exit(SOME_FAILED)
    history.delete(found.run_id)
    print(f"{found.run_id} deleted")


@app.command()
def ship(
    run: RunId,
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="The name of one of its variants.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to make it: a folder that is not there yet.")],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="The measurement to ship, where there are several; else the largest.")
    ] = None,
) -> None:
    """Make a folder that runs one measured variant without the bench: files, checksums, loading code, a check."""
    from engine import shipping
    from engine.units import megabytes

    made = shipping.ship(run, variant, folder, batch_size)
    row, sizes = made.shipment.row, made.shipment.sizes
    size = f"{len(sizes) + 2} files, {megabytes(sum(sizes.values()))} MB"
    print(f"{row['variant']} in batches of {row['batch_size']}: {made.folder} ({size})")
    print(made.check)


@app.command()
def profile(
    run: RunId,
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="The name of one of its variants.")],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="The measurement to profile, where there are several; else the largest.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write the trace here, as gzipped JSON.")
    ] = None,
) -> None:
    """Profile one measured variant: its operators or kernels by time, and a trace that Perfetto opens."""
    import shutil

    from engine import operators, profiling, tables

    if output:
        _check_writable(Path(output))
    made = profiling.profile(run, variant, batch_size)
    console = _console()
    console.print(tables.operators_table(made.found, f"{variant} in batches of {made.row['batch_size']}"))
    console.print(operators.caption(made.found), markup=False, highlight=False, style="dim", soft_wrap=True)
    if output:
        try:
            shutil.copyfile(made.file, output)
        except OSError as error:
            raise RequestError(f"cannot write {output}: {one_line(error)}") from error
    print(f"trace: {output or made.file}; open it in Perfetto (ui.perfetto.dev) or chrome://tracing")


@app.command()
def classify(
    suite: SuiteName,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One or several texts.")],
    variants: Variants = None,
    device: Device = "auto",
    settings: Settings = None,
    offline: Offline = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the answers; - for stdout.")
    ] = None,
) -> None:
    """Let each variant of a suite answer texts of your own."""
    from engine import answering

    asked = _suite(suite, settings, variants)
    answering.check_texts(texts)
    with _progress() as listener:
        answers = answering.classify(asked, texts, device, offline=offline, listener=listener)
    if json_file:
        _write(json_file, json.dumps([a.to_json() for a in answers], indent=2, ensure_ascii=False))
    if json_file != "-":
        answering.show(_console(), texts, answers)
    raise typer.Exit(SOME_FAILED if any(a.status == "failed" for a in answers) else MEASURED)


@app.command()
def scenarios(
    suite: SuiteName,
    variant: Annotated[str, typer.Option(help="The variant to put under load.")],
    p99_ms: Annotated[
        float | None, typer.Option("--p99-ms", help="What the 99th percentile must be within; else the suite's own.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Texts answered together, at most; 32 by default.")] = None,
    max_wait_ms: Annotated[float | None, typer.Option(help="How long a text waits for others, at most; 0.")] = None,
    device: Device = "auto",
    settings: Settings = None,
    offline: Offline = False,
    quick: Quick = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write every trial; - for stdout.")
    ] = None,
) -> None:
    """Put a variant under a service's load: single stream, offline, and the highest rate that holds a p99.

    A look that is not stored. With a table [scenarios] in a suite, or --set scenarios.p99_ms=MS, a run puts all its
    variants under load and keeps what they give.
    """
    from engine import scenarios
    from engine.artefacts import BuildError
    from engine.pool import WorkerError

    given = {"p99_ms": p99_ms, "max_batch": max_batch, "max_wait_ms": max_wait_ms}
    settings = [*(settings or []), *(f"scenarios.{key}={value}" for key, value in given.items() if value is not None)]
    # One name: a comma in it separates nothing.
    asked = _suite(suite, settings, [variant], offline if quick else None)
    if asked.scenarios is None:
        raise RequestError(f"suite {asked.name!r} has no [scenarios]; give the limit in milliseconds: --p99-ms MS")
    chosen = asked.variants[variant]
    if max_batch is not None:
        # What is said here stands before the variant's own.
        chosen = chosen.model_copy(update={"batch_size": None})
    try:
        with _progress() as listener:
            found = scenarios.look(asked, chosen, device, offline, listener)
    except (BuildError, WorkerError) as error:
        print(f"failed: {variant}: {one_line(error)}", file=sys.stderr)
        raise typer.Exit(SOME_FAILED) from None
    if json_file:
        _write(json_file, json.dumps(found.to_json(), indent=2))
    if json_file != "-":
        print("\n".join(scenarios.show(found)))
        print("not stored: [scenarios] in a suite, or `run --set scenarios.p99_ms=MS`, stores it", file=sys.stderr)


@app.command()
def fetch(
    suite: SuiteName,
    variants: Variants = None,
    device: Device = "auto",
    settings: Settings = None,
) -> None:
    """Download and make weights, data and artefacts ahead, for a node that is offline."""
    from engine import fetching

    asked = _suite(suite, settings, variants)
    with _progress() as listener:
        done, failed = fetching.fetch(asked, device, listener)
    for line in done:
        print(line)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if failed else MEASURED)


@app.command()
def doctor(
    device: Device = "auto",
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the findings; - for stdout.")
    ] = None,
) -> None:
    """Say what this machine can run, what each other variant lacks, and the command that mends it."""
    from engine import doctor as examination

    report = examination.examine(device)
    if json_file:
        _write(json_file, json.dumps(report.to_json(), indent=2))
    if json_file != "-":
        _console().print(examination.render(report), soft_wrap=True)
    raise typer.Exit(report.exit_code)


def _console() -> Console:
    """Standard output; wide enough for whole tables where it is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _stored(reference: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """A run, its measurements and its scenarios as the store has them. Raises RequestError where there is none."""
    from engine import slurm
    from engine.store import open_store, queries

    with open_store(create=False) as store:
        _say_read_only(store)
        slurm.catch_up(store)
        with store.session() as session:
            queries.mark_interrupted(session)
            found = queries.get_run(session, reference)
            rows = [queries.flat(m) for m in queries.measurements(session, found.id)]
            return queries.run_summary(found), rows, queries.scenarios(session, found.id)


def _say_read_only(store: Store) -> None:
    if store.read_only:
        print(f"note: {store.read_only}", file=sys.stderr)


def _finished(suite: Suite) -> str | None:
    """The id of the newest finished run of the same suite on this host, or None."""
    import socket

    from engine.store import open_store, queries

    with open_store() as store, store.session() as session:
        for run, _ in queries.list_runs(session, suite=suite.name):
            same = run.status == "finished" and run.suite == suite.model_dump(mode="json")
            if same and run.host == socket.gethostname():
                return run.id
    return None


def _print_run(
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    scenarios: list[dict[str, Any]],
    hourly_price: float | None = None,
) -> None:
    from engine import serving, tables

    console = _console()
    loads = serving.joined(scenarios, rows)
    for part in tables.parts(rows, hourly_price, loads):
        for fits in tables.fitting(part.rows, part.columns, part.title, console.width):
            console.print(fits)
    for note in [*tables.notes(rows), *serving.notes(loads)]:
        console.print(f"· {note}", markup=False, highlight=False)
    console.print(tables.caption(summary, rows), markup=False, highlight=False, style="dim")


def _check_writable(path: Path) -> None:
    """Before hours of measuring, not after. Raises RequestError."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise RequestError(f"cannot write {path}: its folder does not exist, or it is a folder itself")


def _write(file: str, text: str) -> None:
    if file == "-":
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    files.write(Path(file), text.encode())
