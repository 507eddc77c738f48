"""Where things lie: the repository's own data, and the local folder that git ignores."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import RequestError, one_line

REPOSITORY = Path(__file__).resolve().parent.parent
SUITES = REPOSITORY / "data" / "suites"
PUBLISHED = REPOSITORY / "data" / "published"
NO_SUITES = f"the bench's own suites are not at {SUITES}; install it from a checkout: pip install -e ."
"""The message where the suites are missing, because the package was installed without its checkout."""


def local_data() -> Path:
    """The folder of database, checkpoints, artefacts and logs: `BENCH_DATA_DIR`, or data/local."""
    given = os.environ.get("BENCH_DATA_DIR")
    return Path(given).expanduser().absolute() if given else REPOSITORY / "data" / "local"


def local_folder(name: str) -> Path:
    """`local_data()/name`, made where it is missing: a data folder that others on the machine cannot enter.

    One that is there keeps its mode, as people who share one set it.

    Raises RequestError where the folder cannot be made or written.
    """
    folder = local_data() / name
    try:
        local_data().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"cannot write to the data folder {folder}: {one_line(error)}; "
            "make it writable, or point BENCH_DATA_DIR at a folder that is"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(
            f"the data folder {folder} is not writable; make it writable, or point BENCH_DATA_DIR at a folder that is"
        )
    return folder


def database_url() -> str:
    """`BENCH_DATABASE_URL`, or SQLite's bench.sqlite in the local data folder."""
    given = os.environ.get("BENCH_DATABASE_URL")
    return given or f"sqlite:///{local_data() / 'bench.sqlite'}"
