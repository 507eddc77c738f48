"""How quick is the dashboard with many runs in its database?

Copies a stored run into a database of its own, `--runs` times, with ten variants each and, in the newest runs,
thousands of stored answers a measurement; serves a dashboard over it and drives a headless Chromium. The same with
`--beside` runs, and the ratio of the two. Two things are measured, each with its bound:

first view: from asking for the page until the window (1440 x 900) shows its answer (heading, table) and all of its
charts that are in the window, painted: a new tab on a warm server, in a browser that was here before, or that never was
(`--empty-cache`). Beside it the answer alone, and the page at rest. The page Method asks the database for nothing and
has no charts: its row is what Streamlit and the machine need by themselves.

filter change: from the key or click until the window shows the changed answer, and the charts in it are drawn anew.

    python -m benchmarks.dashboard_speed latest --runs 1000 --beside 10
"""

from __future__ import annotations

import os
import secrets
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

from dashboard.server import door
from engine.store import examples, measurements, models, open_store
from engine.store.runs import get_run

REPOSITORY = Path(__file__).resolve().parents[1]
VARIANTS = 10
TOKEN = secrets.token_urlsafe()
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
MODEL_LIBRARIES = ("torch", "transformers", "onnxruntime", "bitsandbytes")
FIRST_VIEW, FILTER_CHANGE = "first view", "filter change"
BOUNDS_S = {FIRST_VIEW: 1.5, FILTER_CHANGE: 0.3}
RATIO = 1.5
"""What many runs may cost beside few."""
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
    "roofline": ("roofline", "table"),
    "load": ("load", "table"),
    "runs": ("runs", "grid"),
}
"""Page -> its path, and the part of it that answers."""
IN_WINDOW = "(e) => { const r = e.getBoundingClientRect(); return r.top < innerHeight && r.bottom > 0 }"
SEEN = f"""(() => {{
  const answers = {{
    heading: '[data-testid=stHeading]', table: '.ib-card table', text: 'textarea',
    grid: '[data-testid=stDataFrame] canvas',
  }}
  const inWindow = {IN_WINDOW}
  const drawn = (chart) => chart.querySelector('.main-svg') !== null
  window.seen = {{}}
  let shown = {{}}
  const note = (name, now) => {{
    if (!now) delete seen[name]
    else if (!shown[name]) requestAnimationFrame(() => setTimeout(() => {{ seen[name] ??= performance.now() }}))
    shown[name] = now
  }}
  window.looking = new MutationObserver(() => {{
    const waiting = [...document.querySelectorAll('[class*=st-key-chart_]')].filter((chart) => !drawn(chart))
    const charts = !waiting.some(inWindow)
    for (const name in answers) {{
      const there = document.querySelector(answers[name])
      const answered = there !== null && there.checkVisibility({{visibilityProperty: true}})
      note(name, answered)
      note('window with ' + name, answered && charts)
    }}
  }})
  looking.observe(document, {{subtree: true, childList: true}})
}})()"""
"""Notes when the window showed each kind of answer, and when the charts in it, too: in ms since the navigation."""
WATCH = f"""(selector) => {{
  looking.disconnect()
  // Not innerText: it has the page laid out at every change.
  const text = () => document.querySelector(selector)?.textContent
  const before = text()
  window.changed = window.acted = window.redrawn = 0
  const acted = () => {{ window.acted ||= performance.now() }}
  for (const kind of ['keydown', 'pointerdown']) document.addEventListener(kind, acted, {{capture: true, once: true}})
  const painted = (name) => requestAnimationFrame(() => setTimeout(() => {{ window[name] = performance.now() }}))
  const observer = new MutationObserver(() => {{
    if (text() === undefined || text() === before) return
    observer.disconnect()
    painted('changed')
  }})
  observer.observe(document, {{subtree: true, childList: true, characterData: true}})
  const drawn = new MutationObserver(() => painted('redrawn'))
  for (const chart of [...document.querySelectorAll('[class*=st-key-chart_]')].filter({IN_WINDOW})) {{
    drawn.observe(chart, {{subtree: true, childList: true}})
  }}
}}"""
"""Notes when the next key or click came, and when the text of an element and the charts in the window changed."""
THERE = """(name) => new Promise((done, failed) => {
  const giveUp = performance.now() + 60000
  const look = () => {
    if (window.seen?.[name] ?? window[name]) done()
    else if (performance.now() > giveUp) failed(new Error(`${location.pathname} shows no ${name} in 60 s`))
    else setTimeout(look, 50)
  }
  look()
})"""
"""Waits until a time is noted. Playwright's wait_for_function would run a string, which the pages do not let."""


def multiply(source: str, target: str, runs: int, answered: int, answers: int) -> str:
    """Fill the database `target` with copies of the run that `source` means; the newest copy's id.

    The first `answered` measurements, of the newest runs, keep `answers` answers each; the rest keep none.
    """
    run_values, rows, labels, texts, names, dataset, scenarios = _template(source, answers)
    started = datetime.now(UTC) - timedelta(minutes=5 * runs)
    newest = ""
    with open_store(target) as store:
        with store.session() as session:
            examples.add_example_set(session, "load", dataset, names, texts, labels, range(answers))
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
                if scenarios:
                    session.execute(insert(models.Load), [one | {"run_id": newest} for one in scenarios])
    return newest


def _values(row: Any, *without: str) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns if column.name not in without}


def _template(source: str, answers: int) -> tuple[Any, ...]:
    """The run's columns, its measurements filled up to VARIANTS, an example set of `answers` texts, its scenarios."""
    with open_store(create=False) as store, store.session() as session:
        run = get_run(session, source)
        found = measurements.measurements(session, run.id)
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
            logits = measurements.logits(session, original.id)
            assert logits is not None and original.prediction is not None
            prediction = _values(original.prediction, "measurement_id")
            prediction |= {"rows": answers, "logits": measurements.packed(logits[chosen], "<f4")}
            rows.append((values, [_values(block, "id", "measurement_id") for block in original.blocks], prediction))
        names, dataset = run.example_set.label_names, run.example_set.dataset
        scenarios = [_values(one, "id", "run_id") for one in run.loads]
        return _values(run), rows, labels, texts, names, dataset, scenarios


def under_load(source: str) -> bool:
    """Whether the run was put under a service's load: without, the page Load has no answer to wait for."""
    with open_store(create=False) as store, store.session() as session:
        return bool(get_run(session, source).loads)


@contextmanager
def serving(database: str) -> Iterator[tuple[str, psutil.Process]]:
    """A dashboard over `database` on a free port of the loopback: its URL and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = psutil.Popen(
        [sys.executable, "-m", "dashboard", "--port", str(port)],
        cwd=REPOSITORY,
        env=os.environ | {"BENCH_DATABASE_URL": database, door.VARIABLE: TOKEN},
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


def view_s(context: Any, url: str, answer: str, empty_cache: bool) -> dict[str, float]:
    """Seconds from a new tab to the window painted in full, to its answer alone, and to the whole page at rest."""
    page = context.new_page()
    if empty_cache:
        context.new_cdp_session(page).send("Network.clearBrowserCache")
    begun = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector(SETTLED)
    settled = time.perf_counter() - begun
    page.wait_for_timeout(1500)
    # Asked in the browser: who waits from outside waits for its busy main thread, too.
    page.evaluate(THERE, f"window with {answer}")
    seen = page.evaluate("window.seen")
    page.close()
    return {FIRST_VIEW: seen[f"window with {answer}"] / 1e3, "answer alone": seen[answer] / 1e3, "at rest": settled}


def change_s(page: Any, act: Callable[[], None], watched: str) -> dict[str, float]:
    """Seconds from an act to the window painted anew (the first element `watched`, charts), and to the page at rest."""
    page.evaluate(WATCH, watched)
    begun = time.perf_counter()
    act()
    page.evaluate(THERE, "changed")
    page.wait_for_selector(SETTLED)
    settled = time.perf_counter() - begun
    page.wait_for_timeout(1500)
    acted, changed, redrawn = page.evaluate("[acted, changed, redrawn]")
    found = {FILTER_CHANGE: (max(changed, redrawn) - acted) / 1e3, "answer alone": (changed - acted) / 1e3}
    return found | {"at rest": settled}


def main(
    run: Annotated[str, typer.Argument(help="The run to copy: an id, a part of one, or latest.")] = "latest",
    runs: int = 1000,
    beside: Annotated[int, typer.Option(help="How many runs the other database holds.")] = 10,
    answered: Annotated[int, typer.Option(help="Measurements that keep answers.")] = 1000,
    answers: int = 7600,
    repeats: int = 7,
    pages: Annotated[str, typer.Option(help="Only these, separated by commas.")] = ",".join(VIEWS),
    empty_cache: Annotated[bool, typer.Option(help="A browser that was never here.")] = False,
) -> None:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise typer.BadParameter("no Chromium on PATH")
    console = Console(width=None if sys.stdout.isatty() else 120)
    chosen = pages.split(",")
    if "load" in chosen and not under_load(run):
        chosen.remove("load")
        console.print("the page Load is left out: the run has no load")
    taken: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        # With a profile: only so does Chromium keep compiled scripts, as a person's does.
        browser = playwright.chromium.launch_persistent_context(
            Path(folder) / "profile",
            executable_path=chromium,
            args=FLAGS,
            viewport={"width": 1440, "height": 900},
        )
        browser.set_default_timeout(60_000)
        browser.add_init_script(SEEN)
        before = os.getloadavg()[0]
        for count in (beside, runs):
            target = f"sqlite:///{Path(folder) / f'{count}.sqlite'}"
            begun = time.perf_counter()
            newest = multiply(run, target, count, answered, answers)
            size_mb = (Path(folder) / f"{count}.sqlite").stat().st_size / 1e6
            console.print(f"{count} runs: {size_mb:,.0f} MB, filled in {time.perf_counter() - begun:.0f} s")
            with serving(target) as (url, process):
                browser.request.get(door.link(url, TOKEN))
                taken[count] = _measure(browser, url, newest, chosen, repeats, empty_cache)
                mapped = {Path(m.path).as_posix() for m in process.memory_maps()}
                loaded = [name for name in MODEL_LIBRARIES if any(f"/{name}/" in path for path in mapped)]
                resident_mb = process.memory_info().rss / 1e6
                console.print(f"server: {resident_mb:,.0f} MB resident; model libraries loaded: {loaded or 'none'}")
        browser.close()
    console.print(_table(taken, beside, runs, repeats))
    console.print("\n".join(_verdicts(taken, beside, runs)), soft_wrap=True)
    after = os.getloadavg()[0]
    console.print(f"load of the machine's {os.cpu_count()} cores (1 min): {before:.1f} before, {after:.1f} after")


def _measure(
    browser: Any, url: str, newest: str, pages: list[str], repeats: int, empty_cache: bool
) -> dict[str, list[float]]:
    """ "page: part" -> seconds."""
    found: dict[str, list[float]] = {}

    def add(name: str, parts: dict[str, float]) -> None:
        for part, seconds in parts.items():
            found.setdefault(f"{name}: {part}", []).append(seconds)

    for name in pages:
        path, answer = VIEWS[name]
        address = f"{url}/{path}?run={newest}"
        # Chromium keeps what it compiled at the second view.
        for _ in range(2):
            view_s(browser, address, answer, False)
        for _ in range(repeats):
            add(name, view_s(browser, address, answer, empty_cache))
    for name, act in CHANGES.items():
        if (of := name.split(",")[0]) in pages:
            page = browser.new_page()
            page.goto(f"{url}/{VIEWS[of][0]}?run={newest}")
            page.wait_for_selector(SETTLED)
            page.wait_for_timeout(2000)
            act(page, 0)
            for index in range(repeats):
                page.wait_for_timeout(700)
                add(name, act(page, index + 1))
            page.close()
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


def _verdicts(taken: dict[int, dict[str, list[float]]], beside: int, runs: int) -> list[str]:
    """One line for each bound: the worst page's median and whether it keeps it."""
    said = []
    medians = {count: {name: statistics.median(values) for name, values in taken[count].items()} for count in taken}
    for part, bound_s in BOUNDS_S.items():
        found = {name: value for name, value in medians[runs].items() if name.endswith(part)}
        if found:
            worst = max(found, key=found.__getitem__)
            kept = sum(value < bound_s for value in found.values())
            said.append(
                f"{part} with {runs} runs under {1e3 * bound_s:.0f} ms: {kept} of {len(found)}; "
                f"the slowest {1e3 * found[worst]:.0f} ms ({worst.partition(':')[0]})"
            )
    bound = [name for name in medians[runs] if name.endswith(tuple(BOUNDS_S))]
    ratios = {name: medians[runs][name] / medians[beside][name] for name in bound}
    worst = max(ratios, key=ratios.__getitem__)
    kept = sum(ratio < RATIO for ratio in ratios.values())
    said.append(
        f"{runs} runs over {beside} within {RATIO}: {kept} of {len(ratios)}; the most {ratios[worst]:.2f} ({worst})"
    )
    return said


def _spread(seconds: list[float]) -> str:
    milliseconds = [1e3 * value for value in seconds]
    return f"{statistics.median(milliseconds):.0f} ({min(milliseconds):.0f} to {max(milliseconds):.0f})"


if __name__ == "__main__":
    typer.run(main)
