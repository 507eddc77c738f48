"""Serves the dashboard on this machine's loopback, for a browser here or behind an SSH tunnel."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path

from starlette.middleware import Middleware

from dashboard.server import door
from dashboard.server.preload import Preload
from engine import paths, store
from engine.errors import RequestError, one_line

PORT = 8501
APP = Path(__file__).parent.parent / "app.py"
REPOSITORY = APP.parent.parent
CONFIGURATION = REPOSITORY / ".streamlit" / "config.toml"
"""Streamlit's settings, which lie in the checkout. Without them the user's own or Streamlit's defaults would hold."""


def serve(port: int | None = None, socket_path: Path | None = None, token: str | None = None) -> int:
    """Serves on a port or a Unix socket until it is stopped; the exit code, 2 where it cannot."""
    if not CONFIGURATION.is_file():
        return refuse(f"there are no settings at {CONFIGURATION}; install the bench from a checkout: pip install -e .")
    _make_absolute()
    os.chdir(REPOSITORY)  # Streamlit looks for .streamlit/config.toml here.
    if socket_path is not None and (problem := _prepare(socket_path)):
        return refuse(problem)
    try:
        print("\n".join(banner(port, socket_path, token)), flush=True)
    except RequestError as error:
        return refuse(one_line(error))
    import streamlit as st
    import uvicorn
    from streamlit import file_util

    pages = [page.stem for page in (APP.parent / "app_pages").glob("*.py")]
    preload_first = Middleware(Preload, static=Path(file_util.get_static_dir()), pages=pages)
    app = st.App(APP, middleware=[Middleware(door.Door, token=token), preload_first])
    # Nobody stands in between whose word on an address would count; and who asks need not know what answers.
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port or PORT,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=None if socket_path is None else [private_socket(socket_path)])
    except KeyboardInterrupt:
        pass
    finally:
        if socket_path is not None:
            socket_path.unlink(missing_ok=True)
    return 0


def banner(port: int | None, socket_path: Path | None, token: str | None) -> list[str]:
    """Where to look, here and from another machine."""
    user, host = getpass.getuser(), socket.gethostname()
    if socket_path is not None:
        return [
            f"Inference Bench listens on {socket_path}",
            f"From your machine:  ssh -L {PORT}:{socket_path} {user}@{host}",
            f"then open           http://localhost:{PORT}",
            f"Database: {store.place()}",
        ]
    return [
        f"Inference Bench: {door.link(f'http://127.0.0.1:{port}', token)}",
        f"From another machine:  ssh -L {port}:127.0.0.1:{port} {user}@{host}",
        "then open the same link there. Whoever has it can do what you can do here.",
        f"Database: {store.place()}",
    ]


def private_socket(path: Path) -> socket.socket:
    """A listening Unix socket that its owner alone can open; uvicorn itself would open it to everybody."""
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    finally:
        os.umask(before)
    return made


def taken(port: int) -> bool:
    """Whether something answers on 127.0.0.1:`port` already, or the port cannot be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _prepare(path: Path) -> str | None:
    """Makes way for a socket at `path`, in a folder that its owner alone can enter; says what is in the way."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = path.parent.stat()
    except OSError as error:
        return f"the folder {path.parent} of the socket cannot be made: {one_line(error)}"
    if folder.st_uid != os.getuid() or folder.st_mode & 0o077:
        return f"others can enter {path.parent}, the socket's folder; chmod 700 it if it is yours, or name a new one"
    if not path.exists():
        return None
    if not path.is_socket():
        return f"{path} exists and is no socket"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return None
    return f"another server listens on {path}"


def _make_absolute() -> None:
    """Fixes what the environment says relative to the folder that we are about to leave."""
    if os.environ.get("BENCH_DATA_DIR"):
        os.environ["BENCH_DATA_DIR"] = str(paths.local_data())
    url = os.environ.get("BENCH_DATABASE_URL", "")
    prefix = "sqlite:///"
    name = url.removeprefix(prefix)
    if url.startswith(prefix) and name and not name.startswith(("/", "~", "file:", ":memory:")):
        os.environ["BENCH_DATABASE_URL"] = prefix + str(Path(name).absolute())


def refuse(why: str) -> int:
    """Prints why nothing is served; the exit code."""
    print(f"error: {why}", file=sys.stderr)
    return 2
