"""The main way in a real browser: start a run, watch, reload, restart the server, open it, classify, cancel, go on."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import psutil
import pytest

from engine.machine import devices, locks
from engine.store import models, open_store


def _dashboard() -> Any:
    """`dashboard` of the conftest.py beside this file; by its path, as other folders have modules of that name."""
    found = importlib.util.spec_from_file_location("browser_conftest", Path(__file__).with_name("conftest.py"))
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.dashboard


dashboard = _dashboard()


@pytest.fixture
def suite(tiny_models: dict[str, Path], write_suite: Callable[..., Path], tmp_path: Path) -> Path:
    variants = [
        {"name": "fp32", "title": "Plain", "model": str(tiny_models["distilbert"])},
        {"name": "bert", "title": "Other", "model": str(tiny_models["bert"])},
        {"name": "tf32", "model": str(tiny_models["distilbert"]), "precision": "tf32"},
    ]
    protocol = {"rounds": 40, "block_seconds": 0.2, "threads": 1, "max_seconds": 20.0}
    return write_suite(tmp_path, variants, protocol=protocol)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))
    return f"sqlite:///{tmp_path / 'data' / 'bench.sqlite'}"


def runs(url: str) -> dict[str, str]:
    with open_store(url) as store, store.session() as session:
        return {run.id: run.status for run in session.query(models.Run)}


def process_of(site: str) -> psutil.Process:
    port = urlsplit(site).port
    return next(p for p in psutil.Process().children() if f"{port}" in p.cmdline())


def libraries(process: psutil.Process) -> set[str]:
    """Model libraries whose native code a process has mapped."""
    maps = {Path(m.path).as_posix() for m in process.memory_maps()}
    return {name for name in ("torch", "onnxruntime", "bitsandbytes") if any(f"/{name}/" in path for path in maps)}


def test_start_watch_reload_restart_open_and_classify(
    suite: Path, url: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    asked: list[str] = []
    with dashboard(url, tmp_path / "one.log") as site:
        page = open_page(f"{site}/run?suite={quote('a file …')}&suite_file={quote(str(suite))}")
        page.get_by_text("○ unavailable").wait_for()
        page.get_by_role("button", name="Start run").click()
        page.get_by_role("button", name="Cancel run").wait_for()
        run_id = parse_qs(urlsplit(page.url).query)["run"][0]
        assert set(runs(url)) == {run_id}
        page.get_by_text("▶ timing").first.wait_for(timeout=180_000)
        page.reload()
        page.get_by_role("button", name="Cancel run").wait_for()
        assert run_id in page.url
        assert not libraries(process_of(site))
        asked += page.requested
        page.context.close()

    # The server has ended; the run has not, or it came to its end by itself.
    assert runs(url)[run_id] in ("running", "finished")
    with dashboard(url, tmp_path / "two.log") as site:
        page = open_page(f"{site}/run?run={run_id}")
        open_it = page.get_by_role("link", name="Open it on the Overview")
        heading = page.locator("[data-testid=stHeading]").first
        open_it.or_(page.get_by_role("button", name="Cancel run")).first.wait_for()
        if open_it.count():
            open_it.click()
        page.wait_for_url(lambda address: "/run?" not in address and run_id in address, timeout=180_000)
        heading.wait_for()
        assert runs(url) == {run_id: "finished"}
        page.locator(".ib-card").first.wait_for()
        assert "Plain" in page.locator(".ib-card").first.inner_text()

        page.get_by_role("link", name="Classify").click()
        page.get_by_role("button", name="Classify").wait_for()
        page.goto(f"{site}/classify?suite={quote('a file …')}&suite_file={quote(str(suite))}")
        box = page.get_by_label("Text", exact=True)
        box.wait_for()
        box.fill("<img src=x onerror=alert(1)> **Shares** rose 🙂 مرحبا")
        box.press("Control+Enter")
        page.get_by_text("latency is the median of 5 calls").wait_for(timeout=180_000)
        page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
        table = page.get_by_role("table", name="Answers").inner_text()
        assert "○ unavailable" in table and ("= same answer" in table or "≠ other answer" in table)
        assert "timing" not in table
        assert page.locator("img[src=x]").count() == 0
        assert "<img" in page.get_by_text("latency is the median").first.inner_text()
        warm = locks.warm_workers(devices.cpu_device())
        assert len(warm) == 2 and not libraries(process_of(site))

        page.reload()
        page.get_by_label("Text", exact=True).wait_for()
        assert page.get_by_label("Text", exact=True).input_value().startswith("<img src=x")

        # A second run drives the warm workers out, and Classify waits for it.
        page.goto(f"{site}/run?suite={quote('a file …')}&suite_file={quote(str(suite))}")
        page.get_by_role("button", name="Start run").click()
        page.get_by_role("button", name="Cancel run").wait_for()
        page.get_by_text("▶ timing").first.wait_for(timeout=180_000)
        assert not locks.warm_workers(devices.cpu_device())
        other = open_page(f"{site}/classify?suite={quote('a file …')}&suite_file={quote(str(suite))}&text=words")
        other.get_by_role("button", name="Classify").click()
        other.get_by_text("Classify answers when it has ended").wait_for()
        page.get_by_role("button", name="Cancel run").click()
        page.get_by_text("◌ cancelled").first.wait_for(timeout=120_000)
        (second,) = (run for run, status in runs(url).items() if status == "cancelled")
        assert runs(url) == {run_id: "finished", second: "cancelled"}

        # It goes on at the press of a button, to its end.
        page.goto(f"{site}/?run={second}")
        page.get_by_role("button", name="Measure what is missing").click()
        page.get_by_role("button", name="Cancel run").wait_for()
        assert parse_qs(urlsplit(page.url).query)["run"] == [second]
        page.wait_for_url(lambda address: "/run?" not in address and second in address, timeout=180_000)
        page.locator(".ib-card").first.wait_for()
        assert page.get_by_role("button", name="Measure what is missing").count() == 0
        assert runs(url) == {run_id: "finished", second: "finished"}
        asked += page.requested + other.requested

    abroad = [a for a in asked if urlsplit(a).scheme not in ("data", "blob") and urlsplit(a).hostname != "127.0.0.1"]
    assert abroad == []
    deadline = time.monotonic() + 20
    while locks.holder(devices.cpu_device()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not locks.warm_workers(devices.cpu_device())
