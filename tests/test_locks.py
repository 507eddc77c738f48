"""The folder of the device locks is everybody's: what others put there hangs, crashes and colours nothing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.machine import devices, locks, processes
from engine.machine.holders import Holder, Kind, Process, from_words, process_of

DEVICE = devices.cpu_device()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of device locks."""
    monkeypatch.setenv("BENCH_LOCK_DIR", str(tmp_path / "locks"))
    return locks.lock_folder()


def _invalid(file: Path) -> None:
    file.write_bytes(b"\xff\xfe run \x80\n" * 9)


def _escapes(file: Path) -> None:
    file.write_text("\x1b]0;owned\x07\x9b2J run (process 1)\n")


def _huge(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(50_000_000_000)


def _link(file: Path) -> None:
    file.symlink_to("/proc/self/environ")


def _numbers(file: Path) -> None:
    file.write_text(f"run X (process {'9' * 400})")


def _made(folder: Path, put: Callable[[Path], None]) -> None:
    """What somebody puts where a holder's and a warm worker's words are looked for."""
    stem = locks._lock_file(DEVICE).stem
    for name in (f"{stem}.7.holder", *(f"{stem}.warm-{pid}" for pid in (1, 2**22 - 1, "9" * 60, "\u0663", "x"))):
        put(folder / name)
        if not (folder / name).is_symlink():
            os.utime(folder / name, (2e9, 2e9))


@pytest.mark.parametrize("put", [_invalid, _escapes, _huge, _link, _numbers, os.mkfifo, Path.mkdir])
def test_what_others_put_among_the_locks_does_no_harm(put: Callable[[Path], None], folder: Path) -> None:
    _made(folder, put)
    assert locks.holder(DEVICE) is None and locks.warm_workers(DEVICE) == []
    with locks.device_lock(DEVICE, from_words("run of mine")):
        written = (folder / f"{locks._lock_file(DEVICE).stem}.{os.getuid()}.holder").read_text()
        assert process_of(written) == Process(Holder(Kind.RUN, "of mine"), os.getpid(), processes.mark())
        with pytest.raises(locks.DeviceBusy) as caught, locks.device_lock(DEVICE, from_words("another")):
            pass
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("words", "holder"),
    [
        ("run 01K0", Holder(Kind.RUN, "01K0")),
        ("fetch agnews", Holder(Kind.FETCH, "agnews")),
        ("classify", Holder(Kind.CLASSIFY)),
        ("doctor", Holder(Kind.DOCTOR)),
        ("the profile of fp32", Holder(Kind.OTHER, "the profile of fp32")),
    ],
)
def test_the_words_of_an_older_bench_are_understood_and_shown_alike(words: str, holder: Holder) -> None:
    assert from_words(words) == holder and holder.words == words
    assert process_of(f"{words} (process 7)\nboot/namespace/12") == Process(holder, 7, "boot/namespace/12")


@pytest.mark.parametrize("holder", [Holder(kind, "x") for kind in Kind])
def test_a_holder_is_read_as_it_was_written(holder: Holder) -> None:
    assert process_of(Process(holder, 7, "boot/namespace/12").to_text()) == Process(holder, 7, "boot/namespace/12")
    assert holder.is_brief == (holder.kind in ("classify", "doctor"))
    assert holder.needs_all_memory == (holder.kind in ("run", "fetch"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "king", "name": "", "pid": 1}\nm', '{"kind": "run"}'])
def test_what_names_no_holder_is_none(text: str) -> None:
    assert process_of(text) is None


def test_a_pipe_in_the_place_of_our_own_words_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / f"{locks._lock_file(DEVICE).stem}.{os.getuid()}.holder")
    with locks.device_lock(DEVICE, from_words("run of mine")):
        assert locks.holder(DEVICE) == from_words("run of mine")
    os.mkfifo(folder / f"{locks._lock_file(DEVICE).stem}.warm-{os.getpid()}")
    assert locks.register_warm(DEVICE, os.getpid()).is_file() and locks.warm_workers(DEVICE) == [os.getpid()]


def test_what_was_left_before_the_machine_started_again_holds_nobody_up(folder: Path) -> None:
    boot, rest = (processes.mark() or "").split("/", 1)
    stem = locks._lock_file(DEVICE).stem
    for words, believed in ((f"{boot}/{rest}", True), (f"{'0' * len(boot)}/{rest}", False)):
        (folder / f"{stem}.{os.getuid()}.holder").write_text(f"run of mine (process {os.getpid()})\n{words}")
        (folder / f"{stem}.warm-{os.getpid()}").write_text(words)
        assert locks.holder(DEVICE) == (from_words("run of mine") if believed else None)
        assert locks.warm_workers(DEVICE) == ([os.getpid()] if believed else [])


def test_our_own_worker_in_another_container_is_waited_for(folder: Path) -> None:
    boot, _, start = (processes.mark() or "").split("/")
    (folder / f"{locks._lock_file(DEVICE).stem}.warm-7").write_text(f"{boot}/pid:[1]/{start}")
    assert locks.warm_workers(DEVICE) == [7]


# Another user of the same machine


def _claims(file: Path) -> None:
    """Files that tell of a process that lives, with its true mark, but is not theirs; and of one in a container."""
    pid = os.getppid()
    marked = processes.mark(pid) or ""
    boot, _, start = marked.split("/")
    file.write_text(f"run X (process {pid})\n{marked}" if file.suffix == ".holder" else marked)
    file.with_name(file.name.rpartition("-")[0] + f"-{pid}").write_text(marked)
    file.with_name(file.name.rpartition("-")[0] + "-4194000").write_text(f"{boot}/pid:[1]/{start}")


def _elsewhere(file: Path) -> None:
    """A file that tells of a process in another container, of which nobody here can say whether it lives."""
    boot, _, start = (processes.mark() or "").split("/")
    file.write_text(f"run X (process 7)\n{boot}/pid:[1]/{start}")


@pytest.mark.parametrize("put", [_invalid, _numbers, _huge, _claims, _elsewhere, os.mkfifo])
def test_another_user_stops_nobody(
    put: Callable[[Path], None], as_another: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where others can go, unlike in pytest's own folders.
    with tempfile.TemporaryDirectory() as open_folder:
        Path(open_folder).chmod(0o755)
        monkeypatch.setenv("BENCH_LOCK_DIR", f"{open_folder}/locks")
        folder = locks.lock_folder()
        assert folder.stat().st_mode & 0o1777 == 0o1777
        as_another(_made, folder, put)
        ours = folder / f"{locks._lock_file(DEVICE).stem}.{os.getuid()}.holder"
        as_another(os.mkfifo, ours)
        with locks.device_lock(DEVICE, from_words("run of mine")):
            with pytest.raises(locks.DeviceBusy), locks.device_lock(DEVICE, from_words("another")):
                pass
            began_s = time.monotonic()
            assert locks.await_eviction(DEVICE, 15, lambda count: None) == 0 and time.monotonic() - began_s < 1
        assert locks.holder(DEVICE) is None
