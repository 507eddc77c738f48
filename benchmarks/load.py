"""Does the dashboard keep answering many people while a run measures, and does its memory stay bounded?

Serves a dashboard over the bench's database and opens `--sessions` websockets that speak Streamlit's own protocol as a
browser does, without drawing anything: each asks for a page, waits until it has been sent in full, thinks for a while,
and asks for the next one, until all have asked `--reruns` times together. Beside them a run may measure `--suite`. The
exit code is 1, with the reasons, where a page failed, where memory grew by more than GROWTH over the second half, or
where the run beside them did not notice that it was disturbed.

    python -m benchmarks.load latest --sessions 50 --reruns 2000 --suite demo
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect

from benchmarks.dashboard_speed import REPOSITORY, TOKEN, serving
from dashboard.server import door
from engine import paths
from engine.store import open_store, runs

PAGES = (
    "overview", "compare", "examples", "decide", "roofline", "load", "ship", "classify", "run", "runs", "method",
)  # fmt: skip
MARKS = (100, 500, 1000, 1500, 2000)
"""After how many reruns the server's memory is read."""
PATIENCE_S = 120.0
GROWTH = 0.15
"""Of the server's memory over the second half of the reruns, at most: what it caches is full before."""


@dataclass
class Load:
    """What the sessions saw."""

    taken_s: dict[str, list[float]] = field(default_factory=dict)
    """Page -> seconds from the question to the end of its script."""
    failed: list[str] = field(default_factory=list)
    resident_mb: dict[int, float] = field(default_factory=dict)
    """Reruns done -> the server's resident memory."""
    half_mb: float | None = None
    """The same after half of the reruns."""
    asked: int = 0

    @property
    def done(self) -> int:
        return sum(map(len, self.taken_s.values())) + len(self.failed)


def let_in(url: str) -> str:
    """The cookie that the link gives."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    try:
        urllib.request.build_opener(Stay).open(door.link(url, TOKEN))
    except urllib.error.HTTPError as answer:
        return str(answer.headers["Set-Cookie"]).split(";")[0]
    raise AssertionError("the link does not redirect")


async def session(
    url: str, cookie: str, run: str, think_s: float, reruns: int, server: psutil.Process, load: Load
) -> None:
    """One browser's worth of questions, until `reruns` were asked by all."""
    async with connect(
        url.replace("http:", "ws:") + "/_stcore/stream",
        additional_headers={"Cookie": cookie},
        origin=url,  # type: ignore[arg-type]
        subprotocols=["streamlit"],  # type: ignore[list-item]
        max_size=None,
    ) as socket:
        while load.asked < reruns:
            load.asked += 1
            page = random.choice(PAGES)
            question = BackMsg()
            question.rerun_script.query_string = f"run={run}"
            question.rerun_script.page_name = page
            begun = time.perf_counter()
            await socket.send(question.SerializeToString())
            try:
                async with asyncio.timeout(PATIENCE_S):
                    said = await _finished(socket)
            except TimeoutError:
                said = f"no end within {PATIENCE_S:.0f} s"
            if said:
                load.failed.append(f"{page}: {said}")
            else:
                load.taken_s.setdefault(page, []).append(time.perf_counter() - begun)
            if load.done in MARKS:
                load.resident_mb[load.done] = server.memory_info().rss / 1e6
            if load.half_mb is None and load.done >= reruns / 2:
                load.half_mb = server.memory_info().rss / 1e6
            await asyncio.sleep(random.expovariate(1 / think_s))


async def _finished(socket: Any) -> str | None:
    """Reads until a script has ended; what went wrong in it."""
    wrong = None
    while True:
        message = ForwardMsg.FromString(await socket.recv())
        kind = message.WhichOneof("type")
        if kind == "delta" and message.delta.new_element.WhichOneof("type") == "exception":
            wrong = message.delta.new_element.exception.message[:200]
        if kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
            return wrong
        if kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
            return "does not compile"


async def _all(url: str, run: str, sessions: int, think_s: float, reruns: int, server: psutil.Process) -> Load:
    load, cookie = Load(), let_in(url)
    await asyncio.gather(*(session(url, cookie, run, think_s, reruns, server, load) for _ in range(sessions)))
    return load


def main(
    run: Annotated[str, typer.Argument(help="The run that is looked at: an id, a part of one, or latest.")] = "latest",
    sessions: int = 50,
    reruns: int = 2000,
    think_s: Annotated[float, typer.Option(help="How long a session thinks on average, in seconds.")] = 5.0,
    suite: Annotated[str | None, typer.Option(help="What a run beside them measures; none by default.")] = None,
) -> None:
    with open_store(create=False) as store, store.session() as opened:
        chosen = runs.get_run(opened, run).id
    console = Console(width=None if sys.stdout.isatty() else 120)
    with ExitStack() as folder, serving(paths.database_url()) as (url, server):
        before_mb = server.memory_info().rss / 1e6
        place = Path(folder.enter_context(TemporaryDirectory())) / "run.json"
        command = [sys.executable, "-m", "engine", "run", str(suite), "--json", str(place)]
        beside = subprocess.Popen(command, cwd=REPOSITORY) if suite else None
        try:
            begun = time.perf_counter()
            load = asyncio.run(_all(url, chosen, sessions, think_s, reruns, server))
            took_s = time.perf_counter() - begun
            if beside is not None:
                beside.wait()
        finally:
            if beside is not None:
                beside.terminate()
        after_mb = server.memory_info().rss / 1e6
        measured = json.loads(place.read_text())["measurements"] if place.exists() else []
    console.print(_table(load))
    marks = ", ".join(f"{mb:,.0f} after {done:,}" for done, mb in load.resident_mb.items())
    console.print(f"{load.done:,} reruns by {sessions} sessions in {took_s:.0f} s; {len(load.failed)} failed")
    console.print(f"server, MB resident: {before_mb:,.0f} before, {marks}, {after_mb:,.0f} at the end")
    for said in dict.fromkeys(load.failed):
        console.print(f"failed: {said}", markup=False)
    faults = wrong(load, after_mb, measured if suite else None)
    for fault in faults:
        console.print(f"wrong: {fault}", markup=False)
    if faults:
        raise typer.Exit(1)


def wrong(load: Load, after_mb: float, measured: list[dict[str, Any]] | None) -> list[str]:
    """What was not as it has to be; `measured`: the rows of the run beside the sessions, None where there was none."""
    found = [f"{len(load.failed)} of {load.done} pages failed"] if load.failed else []
    if not load.taken_s:
        found.append("no page was answered")
    if load.half_mb is not None and after_mb > (1 + GROWTH) * load.half_mb:
        found.append(f"the server grew from {load.half_mb:,.0f} MB to {after_mb:,.0f} MB over the second half")
    if measured is not None and not any(row["validity"] == "unstable" for row in measured):
        rows = f"none of its {len(measured)} rows is" if measured else "it has no rows"
        found.append(f"the run beside them has to be marked unstable: {rows}")
    return found


def _table(load: Load) -> Table:
    made = Table("Page", "Reruns", "p50 s", "p95 s", "Longest s")
    for page, taken in sorted(load.taken_s.items()):
        p50, p95 = np.percentile(taken, [50, 95])
        made.add_row(page, f"{len(taken)}", f"{p50:.2f}", f"{p95:.2f}", f"{max(taken):.2f}")
    return made


if __name__ == "__main__":
    typer.run(main)
