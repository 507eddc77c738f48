"""Real SQLite files in the test's own folder, and runs to put into them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from engine.store import Store, open_store
from engine.store.models import Load, Measurement, Run

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "bench.sqlite"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, file: Path) -> str:
    """The URL of a new database of either kind, for tests to name `url`."""
    return f"sqlite:///{file}" if request.param == "sqlite" else request.getfixturevalue("migrated_postgres")()


@pytest.fixture
def python() -> Callable[..., subprocess.Popen[str]]:
    """Starts a Python program of its own: python(code, *arguments)."""

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """mount(*arguments of mount(8), target); unmounted afterwards. Skips where mounting is not allowed."""
    targets: list[str] = []

    def attach(*arguments: object) -> None:
        words = [str(word) for word in arguments]
        try:
            done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount(8)")
        if done.returncode:
            pytest.skip(f"mounting is not allowed: {done.stderr.strip()}")
        if "remount" not in words[1]:
            targets.append(words[-1])

    yield attach
    for target in reversed(targets):
        subprocess.run(["umount", "--lazy", target], check=True)


@pytest.fixture
def new_run() -> Callable[..., Run]:
    """new_run(**columns of run): one with a measurement for each name in `variants`."""

    def make(variants: tuple[str, ...] = (), **columns: Any) -> Run:
        now = datetime.now(UTC)
        given = {
            "id": str(ULID()),
            "suite_name": "demo",
            "suite": {"name": "demo", "baseline": "fp32"},
            "device": "cpu",
            "device_name": "a processor",
            "host": "here",
            "environment": {"torch": "2.13"},
            "status": "finished",
            "created_at": now,
        }
        run = Run(**given | columns)
        for position, variant in enumerate(variants):
            run.measurements.append(new_measurement(variant, position))
        return run

    return make


def new_measurement(variant: str, position: int = 0, **columns: Any) -> Measurement:
    given = {
        "variant": variant,
        "position": position,
        "title": variant.upper(),
        "model": "some/model",
        "backend": "pytorch",
        "precision": "fp32",
        "options": {},
        "device": "cpu",
        "batch_size": 8,
        "padding": "max_length",
        "order": "given",
        "max_length": 128,
        "status": "pending",
    }
    return Measurement(**given | columns)


def new_load(variant: str, **columns: Any) -> Load:
    trial = {"rate_per_s": 80.0, "texts": 1200, "late": 3, "answered": 1200, "p99_s": 0.04, "mean_batch": 1.5}
    given = {
        "variant": variant,
        "status": "measured",
        "validity": "valid",
        "measured_at": datetime.now(UTC),
        "p99_limit_s": 0.05,
        "max_batch": 32,
        "max_wait_s": 0.0,
        "padding": "longest",
        "single_texts": 64,
        "single_p90_s": 0.01,
        "offline_texts_per_s": 120.0,
        "server_texts_per_s": 80.0,
        "trials": [trial | {"holds": True}],
        "conditions": {"seconds": 70.0},
    }
    return Load(**given | columns)


@pytest.fixture(name="new_load")
def _new_load() -> Callable[..., Load]:
    return new_load


@pytest.fixture(name="new_measurement")
def _new_measurement() -> Callable[..., Measurement]:
    return new_measurement
