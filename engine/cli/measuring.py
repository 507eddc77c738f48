"""Commands that measure: run, queue, resume, cancel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import (
    MEASURED,
    SOME_FAILED,
    STOPPED,
    Account,
    Device,
    Gpu,
    Offline,
    On,
    Partition,
    Quick,
    RunId,
    Settings,
    SuiteName,
    Time,
    Variants,
    Where,
)
from engine.cli.shared import (
    check_writable,
    make_console,
    print_run,
    progress_listener,
    read_suite,
    say_read_only,
    stored_rows,
    write_output,
)
from engine.errors import RequestError

if TYPE_CHECKING:
    from engine.jobs.slurm import Profile
    from engine.run.state import Progress
    from engine.suite.spec import Suite

    Progress_ = Progress


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
    from engine.jobs import slurm as jobs_slurm
    from engine.jobs import watching
    from engine.machine import processes
    from engine.run import runner
    from engine.suite.reading import find_suite

    processes.end_politely()
    asked = read_suite(suite, settings, variants, offline if quick else None)
    if json_file and json_file != "-":
        check_writable(Path(json_file))
    if once and (known := _finished(asked)):
        print(f"{asked.name} is measured already: run {known} (`python -m engine show {known}`)", file=sys.stderr)
        return
    path = str(find_suite(suite))
    if profiles := _profiles(on, partition, gpu, time, account):
        if len(profiles) > 1:
            raise RequestError(f"--gpu {gpu}: a run has one type of GPU; `queue` takes several, for a run each")
        run_id = jobs_slurm.submit(asked, profiles[0], device, path, offline)
        print(f"run {run_id} is submitted; Ctrl-C cancels it", file=sys.stderr)
        _measure(lambda listener: watching.watch(run_id, listener), json_file)
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
    from engine.machine import devices
    from engine.run import estimate
    from engine.store import open_store

    chosen = devices.resolve_device(device)
    with open_store() as store, store.session() as session:
        return estimate.words(suite, estimate.earlier(session, suite.name, chosen.name))


def _profiles(
    on: Where, partition: str | None, gpu: str | None, time: str | None, account: str | None
) -> list[Profile]:
    """A job profile for each requested type of GPU; empty if this machine measures. Raises RequestError."""
    given = {"partition": partition, "gpu": gpu, "time": time, "account": account}
    if on is Where.slurm:
        from engine.jobs import slurm as jobs_slurm

        return jobs_slurm.profiles(**given)
    if odd := [f"--{name}" for name, value in given.items() if value]:
        raise RequestError(f"{', '.join(odd)}: only together with --on slurm")
    return []


def _measure(work: Callable[[Any], str], json_file: str | None) -> None:
    """Does `work`, which measures a run and gives its id, and shows what came of it. Always raises typer.Exit."""
    from engine.report import exports
    from engine.run import state

    try:
        with progress_listener() as listener:
            run_id = work(listener)
    except (KeyboardInterrupt, state.Cancelled):
        print("cancelled; what was measured is stored: `python -m engine show latest`", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    summary, rows, loads = stored_rows(run_id)
    if json_file:
        write_output(json_file, exports.as_json(summary, rows, loads))
    if json_file != "-":
        print_run(summary, rows, loads)
    failed = [row for row in rows if row.status == "failed"]
    for row in failed:
        print(f"failed: {row.variant}: {row.status_reason}", file=sys.stderr)
    overloaded = [row for row in loads if row.status == "failed"]
    for load in overloaded:
        print(f"failed under load: {load.variant}: {load.status_reason}", file=sys.stderr)
    # Somebody else's process measured it, and could not.
    if summary["status"] != "finished":
        print(f"{summary['status']}: {summary['status_reason']}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if failed or overloaded or summary["status"] != "finished" else MEASURED)


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
    from engine.jobs import local
    from engine.jobs import slurm as jobs_slurm
    from engine.suite.reading import find_suite

    if not suites:
        _print_queue()
        return
    profiles = _profiles(on, partition, gpu, time, account)
    asked = []
    for name in suites:
        first_look = offline if quick else None
        suite = read_suite(name, settings, variants, first_look)
        asked += [(name, each) for each in (suite.each_batch_size() if each_batch_size else [suite])]
    for name, suite in asked:
        path = str(find_suite(name))
        if profiles:
            made = [jobs_slurm.submit(suite, profile, device, path, offline) for profile in profiles]
        else:
            made = [local.start(suite, device, path, offline)]
        print("\n".join(made), flush=True)
    print("queued; see how it goes: `python -m engine queue`, end one: `python -m engine cancel RUN`", file=sys.stderr)


def _print_queue() -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from engine.jobs import slurm as jobs_slurm
    from engine.jobs.queue import standing
    from engine.store import open_store
    from engine.store.runs import live_runs

    with open_store(create=False) as store:
        say_read_only(store)
        jobs_slurm.catch_up(store)
        with store.session() as session:
            found = live_runs(session)
    made = Table("Run", "Suite", "Device", "Host", "Asked for (UTC)", "State", box=box.SIMPLE_HEAD)
    for one in found:
        made.add_row(
            one.id,
            Text(one.suite_name),
            one.device,
            Text(one.host),
            f"{one.queued_at or one.created_at:%Y-%m-%d %H:%M}",
            Text(standing(one.status, one.progress)),
        )
    make_console().print(made if found else "nothing is measured, and nothing waits")


def resume(
    run: RunId,
    offline: Offline = False,
    queued: Annotated[
        bool, typer.Option("--queue", help="By a process of its own, when its turn comes, as `queue` does.")
    ] = False,
) -> None:
    """Go on with a run that ended early or in which variants failed: what is measured stays, what it lacks is made."""
    from engine.jobs import local
    from engine.machine import processes
    from engine.run import resuming, runner

    if queued:
        print(local.resume(run, offline))
        return
    processes.end_politely()
    found = resuming.resumable(run)
    _measure(
        lambda listener: runner.run(
            found.suite, found.device, offline=offline, listener=listener, suite_path=found.suite_path, resume=found
        ),
        None,
    )


def cancel(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help='Ids, parts of some, or "latest".')],
    now: Annotated[bool, typer.Option("--now", help="At once, not after the round it is in.")] = False,
) -> None:
    """End queued or running runs; what was measured until then is kept."""
    from engine.jobs import ending

    wrong: list[RequestError] = []
    for run in runs:
        try:
            said = "cancelling" if ending.cancel(run, at_once=now) else "it had ended already"
        except RequestError as error:
            # It holds up none of the others.
            wrong.append(error)
        else:
            print(f"{run}: {said}" if len(runs) > 1 else said, file=sys.stderr)
    if wrong:
        raise RequestError("; ".join(map(str, wrong)))


def _finished(suite: Suite) -> str | None:
    """The id of the newest finished run of the same suite on this host, or None."""
    import socket

    from engine.store import open_store
    from engine.store.runs import list_runs

    with open_store() as store, store.session() as session:
        for run, _ in list_runs(session, suite=suite.name):
            same = run.status == "finished" and run.suite == suite.model_dump(mode="json")
            if same and run.host == socket.gethostname():
                return run.id
    return None
