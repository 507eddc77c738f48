"""Makes the checkpoints that a suite asks for: `python -m engine.artefacts.training REQUEST.json`.

A process of its own, so that only this one imports torch and transformers for training. It fills one
folder with an ordinary Hugging Face checkpoint: config.json, model.safetensors, tokenizer.json. Standard
output carries JSON lines, of these kinds:

    {"phase": "training", "done": 40, "total": 200, "loss": 0.71, "seconds_left": 12.3}
    {"result": {...}}      last, exit code 0
    {"error": "..."}       last, exit code 2: the request cannot be met as it stands

Anything else is a fault of this module: a traceback on standard error, exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artefacts.training.learning import learn
from engine.artefacts.training.request import (
    Progress,
    Request,
    check_architecture,
    check_request,
    enough_memory,
    read_request,
    soft_weight,
)
from engine.artefacts.training.starting import make_model
from engine.artefacts.training.tokenizers import fit_tokenizer, make_tokenizer
from engine.errors import RequestError, one_line
from engine.machine import libraries, processes

if TYPE_CHECKING:
    pass

WORKSPACES = (":4096:8", ":16:8")
"""The values of CUBLAS_WORKSPACE_CONFIG with which its products are deterministic."""


def make(request: Request, progress: Progress) -> dict[str, Any]:
    """Fill `request.target` with the checkpoint and return facts about it.

    Raises RequestError, one line, where the request cannot be met.
    """
    began = time.perf_counter()
    check_request(request)
    if request.architecture is not None:
        check_architecture(request.architecture)

    import torch
    import transformers

    _quiet(transformers)
    _check_device(request)
    if request.threads:
        torch.set_num_threads(request.threads)
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor guards against code that reads before it writes; it costs a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    tokenizer = make_tokenizer(request, progress)
    torch.manual_seed(request.seed)
    model = make_model(request, tokenizer)
    fit_tokenizer(tokenizer, model, request)

    facts: dict[str, Any] = {"steps": 0, "final_loss": None, "train_accuracy": None}
    if request.epochs:
        facts = learn(request, model, tokenizer, progress)

    progress.report("saving", 0, 1)
    model.config.inference_bench = _marker(request)
    model.save_pretrained(request.target, safe_serialization=True)
    tokenizer.save_pretrained(request.target)
    progress.report("saving", 1, 1)
    return {
        **facts,
        "epochs": request.epochs,
        "seconds": round(time.perf_counter() - began, 3),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": len(tokenizer),
        "seed": request.seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": request.device if request.epochs else "cpu",
    }


def _check_device(request: Request) -> None:
    import torch

    if not request.epochs or request.device == "cpu":
        return
    if not torch.cuda.is_available():
        raise RequestError(f"device {request.device}: torch {torch.__version__} sees no CUDA device; use cpu")
    count = torch.cuda.device_count()
    index = torch.device(request.device).index or 0
    if index >= count:
        raise RequestError(f"device {request.device}: there are {count} CUDA devices, counted from 0")
    # Calls that name no device, such as the check for fast bfloat16, use the current one.
    with enough_memory(request, "a start", "free some of it: `nvidia-smi` says who holds it"):
        torch.cuda.set_device(index)


def _quiet(transformers: Any) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _marker(request: Request) -> dict[str, Any]:
    """The entry in config.json on how the checkpoint was made; without paths or times, so that it is reproducible.

    `random_weights` means that nothing was learnt here: good for speed and memory alone.
    """
    if request.method == "random":
        return {"random_weights": True}
    marker = {
        "random_weights": False,
        "method": request.method,
        "texts": len(request.texts),
        "labelled": request.labels is not None,
        "max_length": request.max_length,
        "epochs": request.epochs,
        "learning_rate": request.learning_rate,
        "batch_size": request.batch_size,
        "mixing": request.mixing,
        "token_dropout": request.token_dropout,
        "seed": request.seed,
    }
    if request.method == "distilled":
        marker |= {"temperature": request.temperature, "soft_weight": soft_weight(request)}
    return marker


def main(arguments: list[str]) -> int:
    """Make the checkpoint of the request file named in `arguments`; the exit code."""
    processes.end_with_parent()
    out = sys.stdout

    def write(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=out, flush=True)

    try:
        if len(arguments) != 1:
            raise RequestError("usage: python -m engine.artefacts.training REQUEST.json")
        request = read_request(Path(arguments[0]))
        # Read when the libraries start, so before they are imported. With any other value torch finds cuBLAS random.
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in WORKSPACES:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = WORKSPACES[0]
        os.environ["HF_HUB_OFFLINE"] = "1"
        if request.threads:
            os.environ["RAYON_NUM_THREADS"] = str(request.threads)
        # Libraries may print: standard output is for the JSON lines alone.
        with redirect_stdout(sys.stderr):
            facts = make(request, Progress(write))
        write({"result": facts})
    except RequestError as error:
        write({"error": one_line(error, 1000)})
        return 2
    return 0


if __name__ == "__main__":
    libraries.leave_out(*libraries.BESIDE_THE_MODEL)
    sys.exit(main(sys.argv[1:]))
