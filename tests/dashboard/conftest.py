"""A database with runs of every kind, and the dashboard's own reads of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_fill import FULL, fill

from dashboard import run_rows
from dashboard.data import reads
from dashboard.server import door


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database with every kind of run. Read only."""
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard') / 'bench.sqlite'}"
    fill(url)
    return url


@pytest.fixture(autouse=True)
def behind_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are asked for as by who was let in; `AppTest` has no server that could have a door."""
    monkeypatch.setattr(door, "_standing", True)


@pytest.fixture
def database(filled: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The filled database is the bench's own."""
    monkeypatch.setenv("BENCH_DATABASE_URL", filled)
    return filled


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """There is no database yet."""
    monkeypatch.setenv("BENCH_DATABASE_URL", f"sqlite:///{tmp_path / 'none.sqlite'}")
    yield tmp_path


@pytest.fixture
def full(database: str) -> list[run_rows.Row]:
    """The rows of the run that holds one variant of each fate."""
    return reads.measurements(reads.run(FULL))
