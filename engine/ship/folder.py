"""A measured variant as a folder that works without the bench: its files, a few lines that load them, a check.

What a worker loaded is found again by content: under the keys that the run's own library versions give, and by the
digest that the run kept. Nothing is made anew; what is not there any more is refused with the command that makes it.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine import files
from engine.errors import RequestError, one_line
from engine.machine import devices, locks, processes
from engine.machine.holders import Holder, Kind
from engine.ship import plan as ship_plan
from engine.ship.plan import CHECKED, MODEL, SUMS, Shipment, sha256_of
from engine.units import megabytes

CHECK_SECONDS = 600.0
LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Shipped:
    """A folder that was made, and what its own check said."""

    shipment: Shipment
    folder: Path
    check: str
    """One sentence."""


def ship(reference: str, variant: str, folder: str | Path, batch_size: int | None = None) -> Shipped:
    """Make `folder` from a run's variant, whole or not at all, and let its own check run where it can.

    `batch_size`: the measurement to ship, the largest by default. Raises RequestError for a request that cannot be
    served, for files that changed since the run, and where the copy does not reproduce the stored logits here.
    """
    target = Path(folder).expanduser().absolute()
    _check_target(target)
    shipment = ship_plan.plan(reference, variant, batch_size)
    needed = sum(shipment.sizes.values())
    draft = target.parent / f".{target.name}.{os.getpid()}.draft"
    try:
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise RequestError(
                f"{target}: needs {megabytes(needed)} MB, and {megabytes(free)} MB are free; free some space"
            )
        _remove_leftovers(target)
        draft.mkdir()
        write(shipment, draft)
        said = check(shipment, draft)
        stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {socket.gethostname()}"
        (draft / CHECKED).write_text(f"{stamp}. {said}\n", encoding="utf-8", newline="\n")
        _sum(draft)
        files.flush(draft)
        draft.rename(target)
    except OSError as error:
        raise RequestError(f"cannot write {target}: {one_line(error)}; free some space or make it writable") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Shipped(shipment, target, said)


def _check_target(target: Path) -> None:
    """Raises RequestError where nothing may be put at `target`."""
    if not target.parent.is_dir():
        raise RequestError(f"cannot make {target}: its folder does not exist")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RequestError(f"cannot make {target}: there is a file of that name")
    try:
        if target.is_dir() and any(target.iterdir()):
            raise RequestError(f"cannot make {target}: it is there and not empty; name a new folder")
    except OSError as error:
        raise RequestError(f"cannot read {target}: {one_line(error)}") from error


def _remove_leftovers(target: Path) -> None:
    """Drafts of the same folder that a killed process left behind."""
    for draft in target.parent.glob(f".{glob.escape(target.name)}.*.draft"):
        pid = draft.name.split(".")[-2]
        if pid.isdecimal() and not processes.lives(int(pid), None):
            shutil.rmtree(draft, ignore_errors=True)


def write(shipment: Shipment, folder: Path) -> None:
    """All files of `shipment` into the empty `folder`."""
    (folder / MODEL).mkdir()
    for name, text in shipment.made.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    for name, path in shipment.copied.items():
        shutil.copyfile(path, folder / name)


def _sum(folder: Path) -> None:
    """The checksums of what was written, as `sha256sum -c` reads them."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def check(shipment: Shipment, folder: Path) -> str:
    """The output of the folder's own check on this machine, as a sentence; or the reason why it could not run.

    Raises RequestError where the run was measured on this host and the copy gives other logits.
    """
    again = "`python load.py` in the folder checks it"
    try:
        device = devices.resolve_device(shipment.run["device"])
        with locks.device_lock(device, Holder(Kind.SHIP), timeout_s=LOCK_SECONDS):
            done = subprocess.run(
                processes.tie([sys.executable, "-I", str(folder / "load.py")]),
                cwd=folder.parent,
                env=processes.tied(devices.worker_environment() | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=CHECK_SECONDS,
                check=False,
            )
    except (RequestError, subprocess.TimeoutExpired) as error:
        return f"Not checked here: {one_line(error)}; {again}."
    if done.returncode == 0:
        return f"Checked here, {done.stdout.strip().splitlines()[-1]}."
    last = next((line for line in reversed((done.stdout + done.stderr).splitlines()) if line.strip()), "no word")
    if shipment.run["host"] != socket.gethostname():
        return f"Not reproduced on this machine, which is not the run's: {last.strip()}."
    raise RequestError(
        f"{shipment.row.variant}: the copy does not reproduce the logits that the run stored ({last.strip()}); "
        "the model's files or the libraries have changed since: measure again"
    )
