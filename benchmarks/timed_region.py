"""Has the timed region become slower since an earlier commit?

What a clock runs around is `timing.block` and a backend's `call`. Processes that load a small model by this checkout's
engine, and as many by that of the earlier commit, time blocks in turn; a call of such a model takes about a
millisecond, so that what stands around it would show.

    python -m benchmarks.timed_region 689709e^
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.by_hand import Tool, across_processes, rounds, speaking

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = """
import sys, torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification
torch.manual_seed(0)
config = DistilBertConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=128, vocab_size=1000)
DistilBertForSequenceClassification(config).save_pretrained(sys.argv[1])
"""
BLOCKS = """
import json, sys
from pathlib import Path
import numpy as np
given = json.loads(sys.argv[1])
from engine import backends
from engine.backends.base import LoadRequest
try:
    from engine.worker import timing
except ImportError:  # A commit of before the packages.
    from engine.measure import timing
backend = backends.get("pytorch")()
backend.load(LoadRequest(Path(given["model"]), "fp32", "cpu", 1, {}, Path(given["model"])))
ids = np.random.default_rng(0).integers(5, 1000, (8, 32))
batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
timing.warm_up(backend, [batch], 1.0, 5.0)
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(timing.block(backend, [batch], float(line), 0.02).latencies_s.tolist()), flush=True)
"""


def unpacked(commit: str, folder: Path) -> Path:
    """The checkout of `commit`."""
    done = subprocess.run(["git", "archive", commit, "engine"], cwd=REPOSITORY, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{commit}: git knows no such commit here")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main(
    before: Annotated[str, typer.Argument(help="The commit that this checkout is held against.")],
    processes: Annotated[int, typer.Option(min=2)] = 6,
    count: Annotated[int, typer.Option("--rounds")] = 40,
) -> None:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = scratch / "model"
        subprocess.run([sys.executable, "-c", MODEL, str(model)], check=True, capture_output=True)
        given = json.dumps({"model": str(model)})
        places = {"before": unpacked(before, scratch / "before"), "now": REPOSITORY}
        tools = {
            name: [
                Tool(name, name, speaking(stack, name, [sys.executable, "-c", BLOCKS, given], place))
                for _ in range(processes)
            ]
            for name, place in places.items()
        }
        rounds([*tools["before"], *tools["now"]], count, 0)
        print(across_processes(tools["before"], tools["now"], ("before", "now")))


if __name__ == "__main__":
    typer.run(main)
