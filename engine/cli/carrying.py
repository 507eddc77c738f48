"""Commands that carry results elsewhere: export, import, ship, profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Format, RunId
from engine.cli.shared import check_writable, make_console, write_output
from engine.errors import RequestError, one_line

if TYPE_CHECKING:
    from engine.run.state import Progress

    Progress_ = Progress


def export(
    run: RunId,
    form: Annotated[Format, typer.Option("--format", help="The file's format.")] = Format.csv,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Each example's index, text hash, label and logits instead.")
    ] = False,
    output: Annotated[str, typer.Option(metavar="FILE", help="Where to write; - for stdout.")] = "-",
) -> None:
    """Write a run's measurements or answers as CSV, JSON, Markdown or LaTeX; or the run as one file, to import."""
    from engine.report import exports

    if output != "-":
        check_writable(Path(output))
    if form is Format.run:
        if predictions:
            raise RequestError("--predictions goes with csv or json; a run's file holds every answer anyway")
        _export_run(run, output)
        return
    write_output(output, exports.predictions(run, form) if predictions else exports.measurements(run, form))


def _export_run(run: str, output: str) -> None:
    from engine.store.runfile import writing

    if output != "-":
        writing.write(run, Path(output))
    elif sys.stdout.isatty():
        raise RequestError("a run's file is no text for a terminal; name it with --output FILE")
    else:
        sys.stdout.buffer.write(writing.dump(run)[1])


def import_(file: Annotated[Path, typer.Argument(metavar="FILE", help="As `export --format run` wrote it.")]) -> None:
    """Store the run of a file that another machine exported."""
    from engine.store.runfile import reading

    done = reading.load(file)
    print(f"{done.run_id} {'imported' if done.new else 'is already there; nothing was changed'}")


def ship(
    run: RunId,
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="The name of one of its variants.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to make it: a folder that is not there yet.")],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="The measurement to ship, where there are several; else the largest.")
    ] = None,
) -> None:
    """Make a folder that runs one measured variant without the bench: files, checksums, loading code, a check."""
    from engine.ship import folder as ship_folder
    from engine.units import megabytes

    made = ship_folder.ship(run, variant, folder, batch_size)
    row, sizes = made.shipment.row, made.shipment.sizes
    size = f"{len(sizes) + 2} files, {megabytes(sum(sizes.values()))} MB"
    print(f"{row.variant} in batches of {row.batch_size}: {made.folder} ({size})")
    print(made.check)


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

    from engine.measurement import operators
    from engine.report import tables
    from engine.run import profiling

    if output:
        check_writable(Path(output))
    made = profiling.profile(run, variant, batch_size)
    console = make_console()
    console.print(tables.operators_table(made.found, f"{variant} in batches of {made.row.batch_size}"))
    console.print(operators.caption(made.found), markup=False, highlight=False, style="dim", soft_wrap=True)
    if output:
        try:
            shutil.copyfile(made.file, output)
        except OSError as error:
            raise RequestError(f"cannot write {output}: {one_line(error)}") from error
    print(f"trace: {output or made.file}; open it in Perfetto (ui.perfetto.dev) or chrome://tracing")
