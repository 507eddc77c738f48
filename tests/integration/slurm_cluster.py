"""A Slurm cluster of one node, this machine: munged, slurmctld and slurmd of the tests' own, without accounting."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

CONF = """
ClusterName=bench
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
KillWait=15
SchedulerParameters=sched_interval=2
{node} Gres=gpu:a100:1,gpu:h100:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1:00:00 State=UP
PartitionName=closed Nodes=ALL MaxTime=1:00:00 State=DOWN
"""
"""Jobs in the partition "closed" wait for ever."""
GRES = """
Name=gpu Type=a100 File=/dev/zero
Name=gpu Type=h100 File=/dev/full
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")


class Cluster(NamedTuple):
    folder: Path
    node_pid: int
    """Of slurmd."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that takes jobs; SLURM_CONF names it meanwhile. Skips where none can be started."""
    sbin = ":/usr/sbin:/sbin"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=os.environ["PATH"] + sbin) is None]:
        pytest.skip(f"no Slurm here: {', '.join(missing)} missing (Debian's slurm-wlm and munge)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as ends:
        patch.setenv("PATH", os.environ["PATH"] + sbin)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        node = subprocess.run(["slurmd", "-C"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        (folder / "slurm.conf").write_text(
            CONF.format(
                host=socket.gethostname(), user=psutil.Process().username(), folder=folder, node=node, ports=_ports()
            )
        )
        (folder / "gres.conf").write_text(GRES)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "seed", "log")]
        for command in (
            ["munged", "--foreground", "--force", *munge, f"--socket={folder}/munge.socket"],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            started = _start(command, folder)
            ends.callback(_end, started)
        deadline = time.monotonic() + 30
        while _node_state() not in ("idle", "mix", "alloc"):
            if time.monotonic() > deadline:
                last = {log.name: log.read_text().splitlines()[-2:] for log in folder.glob("*.out")}
                pytest.skip(f"Slurm does not start here: {last}")
            time.sleep(0.2)
        ends.callback(_cancel_all)
        yield Cluster(folder, started.pid)


def _cancel_all() -> None:
    """No job outlives its cluster, whatever a test that failed has left."""
    mine = f"--user={os.getuid()}"
    subprocess.run(["scancel", mine], check=False)
    deadline = time.monotonic() + 30
    while subprocess.run(["squeue", "--noheader", mine], capture_output=True, check=False).stdout:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.out").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    time.sleep(0.3)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _node_state() -> str:
    asked = ["sinfo", "--noheader", "--partition=main", "--format=%t"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _ports() -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(2)]
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [taken.getsockname()[1] for taken in sockets]
