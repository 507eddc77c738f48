"""The cache of made things: content keys, and one maker at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from engine import files
from engine.artefacts.builder import BuildError
from engine.errors import RequestError, one_line

FACTS = "facts.json"
LOOK_SECONDS = 0.2


def settings_by_content(settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe's settings as a cache's key has them: calibration by content, wherever its file lies."""
    if "calibration" not in settings:
        return settings
    return settings | {"calibration": Path(settings["calibration"]).parent.name}


def without_first_version(content: dict[str, Any]) -> dict[str, Any]:
    """`content` of a key without the first "version" of the code: what was made before there were any stays known."""
    return {key: value for key, value in content.items() if (key, value) != ("version", 1)}


def content_key(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def distribution_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _says_full(error: BuildError) -> bool:
    """Whether a build process failed for want of space: of its error only the words come here."""
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))


@contextmanager
def making(target: Path, look: Callable[[], None]) -> Iterator[Path | None]:
    """Yields an empty draft folder to fill, put in place at `target` afterwards; None where it is there already.

    One process makes a thing at a time; the others call `look`, which may raise, while they wait. A draft that fails
    is removed.
    """
    from filelock import FileLock, Timeout

    if target.is_dir():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        lock = FileLock(target.parent / f".{target.name}.lock")
        while True:
            try:
                held.enter_context(lock.acquire(timeout=LOOK_SECONDS))
                break
            except Timeout:
                look()
        if target.is_dir():
            yield None
            return
        draft = target.parent / f".{target.name}.{os.getpid()}.draft"
        for left in target.parent.glob(f".{target.name}.*.draft"):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: we hold the lock
        draft.mkdir()
        try:
            yield draft
            files.flush(draft)
            draft.rename(target)
        except (OSError, BuildError) as error:
            if isinstance(error, BuildError) and not _says_full(error):
                raise
            raise RequestError(
                f"cannot write {target}: {one_line(error)}; free some space, or point BENCH_DATA_DIR elsewhere"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
