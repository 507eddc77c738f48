"""`bench`, or `python -m engine`: the command line. Imports inside commands keep `--help` quick."""

from __future__ import annotations

import errno
import sys

import typer

from engine.cli import carrying, machine, measuring, showing
from engine.cli.options import WRONG_REQUEST
from engine.errors import RequestError, one_line

STORAGE_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)


COMMANDS = (
    measuring.run,
    measuring.queue,
    measuring.resume,
    measuring.cancel,
    showing.suites,
    showing.runs,
    showing.show,
    showing.compare,
    carrying.export,
    carrying.import_,
    showing.note,
    showing.delete,
    carrying.ship,
    carrying.profile,
    machine.classify,
    machine.load,
    machine.fetch,
    machine.doctor,
    machine.dashboard,
)
"""In the order in which the help lists them."""

app = typer.Typer(
    name="engine",
    help="Measures ways of running one text classifier against each other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
OLD_NAMES = {"scenarios": machine.load}
"""Commands under the names that they had before: accepted, and not listed."""
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command that passes its options on to another program."""
for command in COMMANDS:
    passed_on = command is machine.dashboard
    app.command(
        command.__name__.rstrip("_"),
        context_settings=PASSED_ON if passed_on else None,
        add_help_option=not passed_on,
    )(command)

for old_name, command in OLD_NAMES.items():
    app.command(old_name, hidden=True)(command)


def main() -> None:
    """Run the command line. A mistake in the request is one line and exit code 2."""
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
