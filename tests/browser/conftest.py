"""A real dashboard on a free port and a real Chromium in front of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dashboard.server import door

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        if (found := shutil.which(name))
    ),
    None,
)
START_SECONDS = 60.0
SHIFTS = """window.shifts = []; new PerformanceObserver(list => {
  for (const entry of list.getEntries()) window.shifts.push([entry.value, ...entry.sources.map(s => s.node?.className)])
}).observe({type: 'layout-shift', buffered: true})"""
TOKEN = "the-token-of-the-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no Chromium on PATH (apt-get install chromium)"))


@contextlib.contextmanager
def dashboard(database: str, log: Path) -> Iterator[str]:
    """Serves the dashboard over `database`; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dashboard", "--port", str(port)],
            cwd=REPOSITORY,
            env=os.environ | {"BENCH_DATABASE_URL": database, door.VARIABLE: TOKEN},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def dashboard_over() -> Callable[..., Any]:
    """dashboard_over(database, log): a context that serves the dashboard over `database` and gives its URL."""
    return dashboard


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a dashboard over runs of every kind."""
    folder = tmp_path_factory.mktemp("site")
    database = f"sqlite:///{folder / 'bench.sqlite'}"
    program = REPOSITORY / "tests" / "dashboard" / "dashboard_fill.py"
    around = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, str(program), database], check=True, env=around, timeout=120)
    with dashboard(database, folder / "server.log") as url:
        yield url


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def regular(chromium: Any, site: str, tmp_path: Path) -> Iterator[Any]:
    """The context of a browser with a profile on disk, which has been let in at `site`: it keeps what it compiled."""
    context = chromium.browser_type.launch_persistent_context(tmp_path, executable_path=CHROMIUM, args=FLAGS)
    context.request.get(door.link(site, TOKEN))
    yield context
    context.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """open_page(url, **context options): a page in a context of its own, which has been let in.

    With `page.requested`, all URLs asked for, and in the browser `window.shifts`: what has jumped, and how far.
    """
    contexts = []

    def start(url: str, **options: Any) -> Any:
        context = chromium.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
        contexts.append(context)
        context.add_init_script(SHIFTS)
        address = urlsplit(url)
        if address.scheme == "http":
            context.request.get(door.link(f"http://{address.netloc}", TOKEN))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("websocket", lambda websocket: page.requested.append(websocket.url))
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()
