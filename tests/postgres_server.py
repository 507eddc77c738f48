"""A PostgreSQL server of the tests' own: a temporary folder, a Unix socket, a password; nothing of the machine's."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

USER, PASSWORD = "bench", "s3cret%7b"
SAFE = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=", "max_connections=60"]
NewDatabase = Callable[..., str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[NewDatabase]:
    """postgres(template=None): the URL of a new database, a copy of that at another URL. Skips without a server."""
    psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL here: the package psycopg[binary] is missing")
    debian = map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    places = ":".join([os.environ["PATH"], *debian])
    found = {name: shutil.which(name, path=places) for name in ("initdb", "postgres")}
    if missing := [name for name, place in found.items() if place is None]:
        pytest.skip(f"no PostgreSQL here: {', '.join(missing)} missing (Debian's postgresql)")
    # It refuses to be root's.
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    folder = Path(tempfile.mkdtemp(prefix="bench-postgres-"))
    words = folder / "password"
    words.write_text(PASSWORD)
    for place in (folder, words):
        os.chown(place, account.pw_uid, account.pw_gid)
    identity = {"user": account.pw_uid, "group": account.pw_gid} if os.getuid() == 0 else {}
    made = subprocess.run(
        [found["initdb"], "-D", folder / "data", "-U", USER, f"--pwfile={words}", "-A", "scram-sha-256", "-E", "UTF8",
         "--no-locale", "--no-sync"],
        capture_output=True, text=True, check=False, cwd=folder, **identity,
    )  # fmt: skip
    if made.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"no PostgreSQL here: {made.stderr.strip()[-300:]}")
    options = [word for setting in SAFE for word in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [found["postgres"], "-D", folder / "data", "-k", folder, *options], stdout=log, stderr=log, cwd=folder,
            **identity,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                admin = psycopg.connect(
                    host=str(folder), user=USER, password=PASSWORD, dbname="postgres", autocommit=True
                )
                break
            except psycopg.OperationalError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"no PostgreSQL here: {error}; {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.1)

        def new(template: str | None = None) -> str:
            name = f"bench_{secrets.token_hex(4)}"
            like = f" TEMPLATE {template.partition('@/')[2].partition('?')[0]}" if template else ""
            admin.execute(f"CREATE DATABASE {name}{like}")
            return f"postgresql+psycopg://{USER}:{PASSWORD.replace('%', '%25')}@/{name}?host={folder}"

        with admin:
            yield new
    finally:
        # Its fast way to end.
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated_postgres(postgres: NewDatabase) -> NewDatabase:
    """migrated_postgres(): the URL of a new database that has the bench's tables."""
    from engine.store import open_store

    template = postgres()
    open_store(template).close()
    return lambda: postgres(template)
