"""How quick is the dashboard with many runs in its database?

Copies a stored run into a database of its own, `--runs` times, with ten variants each and, in the newest runs,
thousands of stored answers a measurement; serves a dashboard over it and drives a headless Chromium: the first view of
each page on a warm server (a new tab of a browser that was here before), and what a changed filter takes until the page
has settled. The same with `--beside` runs, and the ratio of the two. The page Method asks the database for nothing: its
row is what Streamlit and the machine need by themselves.

    python -m benchmarks.dashboard_speed latest --runs 1000 --beside 10
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert
from ulid import ULID

from engine.store import models, open_store, queries

REPOSITORY = Path(__file__).resolve().parents[1]
VARIANTS = 10
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
MODEL_LIBRARIES = ("torch", "transformers", "onnxruntime", "bitsandbytes")
SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"
VIEWS: dict[str, tuple[str, str]] = {
    "method": ("method", "heading"),
    "overview": ("", "table"),
    "compare": ("compare", "table"),
    "examples": ("examples", "table"),
    "decide": ("decide", "table"),
    "ship": ("ship", "table"),
    "classify": ("classify", "text"),
    "run": ("run", "table"),
    "runs": ("runs", "grid"),
}
"""Page -> its path, and the part of it that answers."""
SEEN = """(() => {
  window.seen = {}
  const parts = {
    heading: '[data-testid=stHeading]', table: '.ib-card table', text: 'textarea',
    grid: '[data-testid=stDataFrame] canvas', chart: '.js-plotly-plot .main-svg',
  }
  new MutationObserver(() => {
    for (const part in parts) {
      if (part in window.seen || !document.querySelector(parts[part])) continue
      window.seen[part] = 0
      requestAnimationFrame(() => setTimeout(() => { window.seen[part] = performance.now() }))
    }
  }).observe(document, {subtree: true, childList: true})
})()"""
"""Notes when each part of a page was first painted, in milliseconds since the navigation."""
WATCH = """(selector) => {
  const text = () => document.querySelector(selector)?.innerText
  const before = text()
  window.changed = window.acted = 0
  const acted = () => { window.acted ||= performance.now() }
  for (const kind of ['keydown', 'pointerdown']) document.addEventListener(kind, acted, {capture: true, once: true})
  const observer = new MutationObserver(() => {
    if (text() === undefined || text() === before) return
    observer.disconnect()
    requestAnimationFrame(() => setTimeout(() => { window.changed = performance.now() }))
  })
  observer.observe(document, {subtree: true, childList: true, characterData: true})
}"""
"""Notes when the next key or click came, and when the text of an element was painted anew."""


def multiply(source: str, target: str, runs: int, answered: int, answers: int) -> str:
    """Fill the database `target` with copies of the run that `source` means; the newest copy's id.

    The first `answered` measurements, of the newest runs, keep `answers` answers each; the rest keep none.
    """
    run_values, rows, labels, texts, names, dataset = _template(source, answers)
    started = datetime.now(UTC) - timedelta(minutes=5 * runs)
    newest = ""
    with open_store(target) as store:
        with store.session() as session:
            queries.add_example_set(session, "load", dataset, names, texts, labels, range(answers))
        for index in range(runs):
            created = started + timedelta(minutes=5 * index)
            newest = str(ULID.from_datetime(created))
            with_answers = (runs - 1 - index) * VARIANTS < answered
            with store.session() as session:
                moved = {"id": newest, "created_at": created, "started_at": created, "log_path": None, "notes": None}
                moved |= {"finished_at": created + timedelta(minutes=2), "example_set_id": "load"}
                session.execute(insert(models.Run).values(**run_values | moved))
                for position, (measurement, blocks, prediction) in enumerate(rows):
                    values = measurement | {"run_id": newest, "position": position}
                    key = session.execute(insert(models.Measurement).values(**values)).inserted_primary_key[0]
                    session.execute(insert(models.Block), [block | {"measurement_id": key} for block in blocks])
                    if with_answers and prediction:
                        session.execute(insert(models.Prediction).values(**prediction | {"measurement_id": key}))
    return newest


def _values(row: Any, *without: str) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns if column.name not in without}


def _template(source: str, answers: int) -> tuple[Any, ...]:
    """The run's columns, its measurements filled up to VARIANTS, and an example set of `answers` texts."""
    with open_store(create=False) as store, store.session() as session:
        run = queries.get_run(session, source)
        found = queries.measurements(session, run.id)
        size = max(row.batch_size for row in found)
        found = [row for row in found if row.batch_size == size and row.prediction is not None]
        if not found or run.example_set is None:
            raise typer.BadParameter(f"run {run.id} holds no answers; measure one first: python -m engine run demo")
        known = run.example_set.examples
        chosen = np.arange(answers) % len(known)
        texts = [f"{known[i].text} ({n})" for n, i in enumerate(chosen)]
        labels = [known[i].label for i in chosen]
        rows = []
        for position in range(VARIANTS):
            original = found[position % len(found)]
            values = _values(original, "id", "run_id", "position")
            if position >= len(found):
                again = f" ({position // len(found) + 1})"
                values |= {"variant": f"{original.variant}-{position}", "title": original.title + again}
                values |= {"baseline": False, "published": None}
            values |= {"examples": answers}
            logits = queries.logits(session, original.id)
            assert logits is not None and original.prediction is not None
            prediction = _values(original.prediction, "measurement_id")
            prediction |= {"rows": answers, "logits": queries.packed(logits[chosen], "<f4")}
            rows.append((values, [_values(block, "id", "measurement_id") for block in original.blocks], prediction))
        names, dataset = run.example_set.label_names, run.example_set.dataset
        return _values(run), rows, labels, texts, names, dataset


@contextmanager
def serving(database: str) -> Iterator[tuple[str, psutil.Process]]:
    """A dashboard over `database` on a free port of the loopback: its URL and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = psutil.Popen(
        [sys.executable, "-m", "dashboard", "--port", str(port)],
        cwd=REPOSITORY,
        env=os.environ | {"BENCH_DATABASE_URL": database},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None:
                    raise typer.Exit(1) from None
                time.sleep(0.2)
        yield url, process
    finally:
        process.terminate()
        process.wait(15)


def view_s(context: Any, url: str, answer: str) -> dict[str, float]:
    """Seconds from a new tab to `answer`, painted; to the first chart; and to the whole page at rest."""
    page = context.new_page()
    begun = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector(SETTLED)
    settled = time.perf_counter() - begun
    page.wait_for_timeout(1500)
    # Asked in the browser: who waits from outside waits for its busy main thread, too.
    seen = page.evaluate("window.seen")
    page.close()
    found = {"answer": seen[answer] / 1e3}
    if "chart" in seen:
        found["first chart"] = seen["chart"] / 1e3
    return found | {"all": settled}


def change_s(page: Any, act: Callable[[], None], watched: str) -> dict[str, float]:
    """Seconds from an act to another text in the first element `watched`, and to the page at rest again."""
    page.evaluate(WATCH, watched)
    begun = time.perf_counter()
    act()
    page.wait_for_function("window.changed")
    page.wait_for_selector(SETTLED)
    settled = time.perf_counter() - begun
    return {"answer": page.evaluate("window.changed - window.acted") / 1e3, "all": settled}


def main(
    run: Annotated[str, typer.Argument(help="The run to copy: an id, a part of one, or latest.")] = "latest",
    runs: int = 1000,
    beside: Annotated[int, typer.Option(help="How many runs the other database holds.")] = 10,
    answered: Annotated[int, typer.Option(help="Measurements that keep answers.")] = 1000,
    answers: int = 7600,
    repeats: int = 7,
    pages: Annotated[str, typer.Option(help="Only these, separated by commas.")] = ",".join(VIEWS),
) -> None:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise typer.BadParameter("no Chromium on PATH")
    console = Console(width=None if sys.stdout.isatty() else 120)
    taken: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for count in (beside, runs):
            target = f"sqlite:///{Path(folder) / f'{count}.sqlite'}"
            begun = time.perf_counter()
            newest = multiply(run, target, count, answered, answers)
            size_mb = (Path(folder) / f"{count}.sqlite").stat().st_size / 1e6
            console.print(f"{count} runs: {size_mb:,.0f} MB, filled in {time.perf_counter() - begun:.0f} s")
            with serving(target) as (url, process):
                taken[count] = _measure(browser, url, newest, pages.split(","), repeats)
                mapped = {Path(m.path).as_posix() for m in process.memory_maps()}
                loaded = [name for name in MODEL_LIBRARIES if any(f"/{name}/" in path for path in mapped)]
                resident_mb = process.memory_info().rss / 1e6
                console.print(f"server: {resident_mb:,.0f} MB resident; model libraries loaded: {loaded or 'none'}")
        browser.close()
    console.print(_table(taken, beside, runs, repeats))


def _measure(browser: Any, url: str, newest: str, pages: list[str], repeats: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def add(name: str, parts: dict[str, float]) -> None:
        for part, seconds in parts.items():
            found.setdefault(f"{name}: {part}", []).append(seconds)

    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(60_000)
    context.add_init_script(SEEN)
    for name in pages:
        path, answer = VIEWS[name]
        address = f"{url}/{path}?run={newest}"
        view_s(context, address, answer)
        for _ in range(repeats):
            add(name, view_s(context, address, answer))
    for name, act in CHANGES.items():
        if (of := name.split(",")[0]) in pages:
            page = context.new_page()
            page.goto(f"{url}/{VIEWS[of][0]}?run={newest}")
            page.wait_for_selector(SETTLED)
            page.wait_for_timeout(2000)
            act(page, 0)
            for index in range(repeats):
                page.wait_for_timeout(700)
                add(name, act(page, index + 1))
            page.close()
    context.close()
    return found


HEADING = "[data-testid=stHeading]"


def _search_runs(page: Any, index: int) -> dict[str, float]:
    """From all runs to one, or back."""
    box = page.locator(".st-key-search input").first
    box.fill(page.url.split("run=")[1][:26] if index % 2 == 0 else "")
    return change_s(page, lambda: box.press("Enter"), "[data-testid=stCaptionContainer]")


def _limit_memory(page: Any, index: int) -> dict[str, float]:
    """From no limit to one that nothing keeps, or back."""
    box = page.locator(".st-key-max_memory_mb input").first
    box.fill("1" if index % 2 == 0 else "")
    return change_s(page, lambda: box.press("Enter"), HEADING)


def _choose_kind(page: Any, index: int) -> dict[str, float]:
    """From the answers that differ to those that are all wrong, or back."""
    name = "all wrong" if index % 2 == 0 else "other answer"
    button = page.get_by_role("radio", name=name).or_(page.get_by_role("button", name=name)).first
    return change_s(page, button.click, ".ib-card:has(td.ib-text) tbody")


def _choose_baseline(page: Any, index: int) -> dict[str, float]:
    """From one baseline of the comparison to another."""
    page.get_by_role("combobox", name="Baseline").click()
    option = page.get_by_role("option").nth(2 - index % 2)
    return change_s(page, option.click, HEADING)


CHANGES: dict[str, Callable[[Any, int], dict[str, float]]] = {
    "compare, another baseline": _choose_baseline,
    "decide, another limit": _limit_memory,
    "examples, another kind": _choose_kind,
    "runs, another search": _search_runs,
}
"""What of a page is changed -> how; each gives the seconds that it took."""


def _table(taken: dict[int, dict[str, list[float]]], beside: int, runs: int, repeats: int) -> Table:
    made = Table(
        "Page", f"{beside} runs, ms", f"{runs} runs, ms", "Ratio", title=f"median (least to most), n = {repeats}"
    )
    for name in taken[runs]:
        few, many = taken[beside][name], taken[runs][name]
        ratio = statistics.median(many) / statistics.median(few)
        made.add_row(name, _spread(few), _spread(many), f"{ratio:.2f}")
    return made


def _spread(seconds: list[float]) -> str:
    milliseconds = [1e3 * value for value in seconds]
    return f"{statistics.median(milliseconds):.0f} ({min(milliseconds):.0f} to {max(milliseconds):.0f})"


if __name__ == "__main__":
    typer.run(main)
