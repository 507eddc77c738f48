"""python -m dashboard: serves the dashboard on this machine's loopback, for a browser here or behind an SSH tunnel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dashboard.export import command
from dashboard.server import door, serve
from engine.errors import RequestError

USAGE = "python -m dashboard [--port PORT | --socket SOCKET]\n       python -m dashboard export RUN FILE [--help]"


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is stopped. Exit code 2 where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m dashboard", description=__doc__, usage=USAGE)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--port", type=int, default=serve.PORT, help=f"TCP port on 127.0.0.1 (default {serve.PORT}); 0: a free one"
    )
    where.add_argument("--socket", type=Path, help="a Unix socket instead of a port: only its owner can open it")
    commands = parser.add_subparsers(title="instead of serving", dest="command", metavar="")
    about = "a run as slides, report or tables, or one of its charts"
    take = commands.add_parser("export", prog="python -m dashboard export", help=about, description=command.__doc__)
    command.add_arguments(take)
    given = parser.parse_args(arguments)
    if given.command == "export":
        return command.run(given)
    try:
        token = door.token_from_environment()
    except RequestError as error:
        return serve.refuse(str(error))
    if given.socket is not None:
        return serve.serve(socket_path=given.socket.expanduser().absolute())
    port = given.port or serve.free_port()
    if not 0 < port < 65536:
        return serve.refuse(f"port {port} is not between 1 and 65535")
    if serve.taken(port):
        return serve.refuse(
            f"port {port} is taken; stop what runs there, or choose another: --port {serve.free_port()}"
        )
    return serve.serve(port=port, token=token)


if __name__ == "__main__":
    sys.exit(main())
