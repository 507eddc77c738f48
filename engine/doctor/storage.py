"""Checks of the data folder, the database and the hub's cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine import paths
from engine.doctor.report import Check, gib, mib
from engine.errors import one_line
from engine.machine import file_systems

if TYPE_CHECKING:
    pass

LOW_DISK_BYTES = 5 * 2**30


def _nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _writable(folder: Path) -> str | None:
    """Why nothing can be written to `folder` (or made there, where it does not exist yet); None if it can."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    if nearest != folder:
        return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is not writable"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return one_line(error)


def data_checks() -> Iterable[Check]:
    """Where results, checkpoints and artefacts go."""
    group, folder = "Data", paths.local_data()
    problem = _writable(folder)
    if problem:
        yield Check(
            group, "data folder", "missing", f"{folder}: {problem}",
            "export BENCH_DATA_DIR=/a/folder/you/can/write", True,
        )  # fmt: skip
    elif folder.exists() and folder.stat().st_mode & 0o005:
        yield Check(group, "data folder", "warn", f"{folder}: other users may read it", f"chmod o= {folder}")
    else:
        made = "" if folder.exists() else " (made at the first run)"
        yield Check(group, "data folder", "ok", f"{folder}{made}", required=True)
    try:
        free = shutil.disk_usage(_nearest(folder)).free
    except OSError as error:
        yield Check(group, "disk space", "warn", one_line(error))
    else:
        low = free < LOW_DISK_BYTES
        yield Check(
            group, "disk space", "warn" if low else "ok",
            f"{gib(free)} free" + (": little for checkpoints and exported models" if low else ""),
            "export BENCH_DATA_DIR=/a/folder/with/more/room" if low else None,
        )  # fmt: skip
    yield _database(paths.database_url())


def _database(url: str) -> Check:
    """Whether the database could be opened. Looks at the file alone, and never shows a password."""
    group, name = "Data", "database"
    mend = "export BENCH_DATABASE_URL=sqlite:////a/folder/you/can/write/bench.sqlite"
    scheme, _, rest = url.partition("://")
    if not scheme.startswith("sqlite"):
        try:
            parts = urlsplit(url)
            place = f"{parts.hostname or 'localhost'}{f':{parts.port}' if parts.port else ''}{parts.path}"
        except ValueError:
            return Check(group, name, "missing", "BENCH_DATABASE_URL is no URL", mend, True)
        return Check(group, name, "warn", f"{scheme.partition('+')[0]} at {place}; not tried out")
    file = rest.removeprefix("/").partition("?")[0]
    if file in ("", ":memory:"):
        return Check(group, name, "warn", "in memory: results are gone when the process ends", mend)
    path = Path(file)
    if not path.exists():
        problem = _writable(path.parent.absolute())
        if problem:
            return Check(group, name, "missing", f"{path} cannot be made: {problem}", mend, True)
        return Check(group, name, "ok", f"{path} (made at the first run)", required=True)
    if not os.access(path, os.R_OK | os.W_OK):
        return Check(group, name, "missing", f"{path} is not readable and writable", mend, True)
    # Opening it, even to read, may leave files beside it.
    with path.open("rb") as opened:
        start = opened.read(16)
    if start not in (b"", b"SQLite format 3\0"):
        return Check(group, name, "missing", f"{path} is no SQLite database", mend, True)
    said, slower = file_systems.journal(path)
    finding = f"{path}, {mib(path.stat().st_size)}; {said}"
    return Check(group, name, "warn" if slower else "ok", finding, required=True)


def hub_cache() -> Path:
    """The folder in which Hugging Face's libraries keep what they downloaded."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"
    return Path(home).expanduser() / "hub"


def hub_checks() -> Iterable[Check]:
    group, folder = "Data", hub_cache()
    problem = _writable(folder)
    count = sum(1 for _ in folder.glob("*--*")) if folder.is_dir() else 0
    held = f"{count} model{'s' * (count != 1)} and data sets" if count else "empty"
    if problem:
        yield Check(
            group, "Hugging Face cache", "warn", f"{folder}: {problem}; nothing can be downloaded",
            "export HF_HOME=/a/folder/you/can/write",
        )  # fmt: skip
    else:
        yield Check(group, "Hugging Face cache", "ok", f"{folder}, {held}")
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    flags = [name for name in names if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}]
    if flags:
        yield Check(
            group, "offline", "warn",
            f"{', '.join(flags)} set: only what was fetched before is found",
            f"env {' '.join(f'-u {name}' for name in flags)} python -m engine fetch SUITE",
        )  # fmt: skip
