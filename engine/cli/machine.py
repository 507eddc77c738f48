"""Commands about this machine and its models: fetch, doctor, classify, load."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import MEASURED, SOME_FAILED, Device, Offline, Quick, Settings, SuiteName, Variants
from engine.cli.shared import make_console, progress_listener, read_suite, write_output
from engine.errors import RequestError, one_line
from engine.paths import REPOSITORY

if TYPE_CHECKING:
    from engine.run.state import Progress

    Progress_ = Progress


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
    from engine.classify import answering
    from engine.cli import classify as cli_classify

    asked = read_suite(suite, settings, variants)
    answering.check_texts(texts)
    with progress_listener() as listener:
        answers = answering.classify(asked, texts, device, offline=offline, listener=listener)
    if json_file:
        write_output(json_file, json.dumps([a.to_json() for a in answers], indent=2, ensure_ascii=False))
    if json_file != "-":
        cli_classify.show(make_console(), texts, answers)
    raise typer.Exit(SOME_FAILED if any(a.status == "failed" for a in answers) else MEASURED)


def load(
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

    A look that is not stored. With a table [load] in a suite, or --set load.p99_ms=MS, a run puts all its
    variants under load and keeps what they give.
    """
    from engine.artefacts.builder import BuildError
    from engine.cli import load as cli_load
    from engine.worker.handle import WorkerError

    given = {"p99_ms": p99_ms, "max_batch": max_batch, "max_wait_ms": max_wait_ms}
    settings = [*(settings or []), *(f"load.{key}={value}" for key, value in given.items() if value is not None)]
    # One name: a comma in it separates nothing.
    asked = read_suite(suite, settings, [variant], offline if quick else None)
    if asked.load is None:
        raise RequestError(f"suite {asked.name!r} has no [load]; give the limit in milliseconds: --p99-ms MS")
    chosen = asked.variants[variant]
    if max_batch is not None:
        # A value given here takes precedence over the variant's own.
        chosen = chosen.model_copy(update={"batch_size": None})
    try:
        with progress_listener() as listener:
            found = cli_load.look(asked, chosen, device, offline, listener)
    except (BuildError, WorkerError) as error:
        print(f"failed: {variant}: {one_line(error)}", file=sys.stderr)
        raise typer.Exit(SOME_FAILED) from None
    if json_file:
        write_output(json_file, json.dumps(found.to_json(), indent=2))
    if json_file != "-":
        print("\n".join(cli_load.show(found)))
        print("not stored: [load] in a suite, or `run --set load.p99_ms=MS`, stores it", file=sys.stderr)


def fetch(
    suite: SuiteName,
    variants: Variants = None,
    device: Device = "auto",
    settings: Settings = None,
) -> None:
    """Download and make weights, data and artefacts ahead, for a node that is offline."""
    from engine.run import fetching

    asked = read_suite(suite, settings, variants)
    with progress_listener() as listener:
        done, failed = fetching.fetch(asked, device, listener)
    for line in done:
        print(line)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if failed else MEASURED)


def doctor(
    device: Device = "auto",
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the findings; - for stdout.")
    ] = None,
) -> None:
    """Say what this machine can run, what each other variant lacks, and the command that mends it."""
    from engine.doctor import examine as examination
    from engine.doctor import report as doctor_report

    report = examination.examine(device)
    if json_file:
        write_output(json_file, json.dumps(report.to_json(), indent=2))
    if json_file != "-":
        make_console().print(doctor_report.render(report), soft_wrap=True)
    raise typer.Exit(report.exit_code)


def dashboard(context: typer.Context) -> None:
    """Serve the dashboard, or export from it: `python -m dashboard` with the same words."""
    places = filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))
    around = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    # With -P, Python does not look in the current folder, where the user may have another package named `dashboard`.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "dashboard", *context.args], around)
