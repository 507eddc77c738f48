"""The build process: reads, exports, quantises and converts models for `engine.artefacts.preparer`.

The parent never imports a model library; this process does, serves one request after another, and takes
what it imported and leaked with it when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from engine import backends, paths
from engine.backends.base import Recipe
from engine.errors import first_line, one_line
from engine.machine import devices, libraries, processes
from engine.units import duration

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
"""Model types that count positions from behind the padding id."""


STEP_SECONDS = 5.0


class BuildError(RuntimeError):
    """A build step failed; the message is one line."""


@contextmanager
def _killing(process: subprocess.Popen[str], deadline_s: float) -> Iterator[Event]:
    """Kills `process` where what is done meanwhile takes longer than `deadline_s`; the event says that it did.

    A while in which this process is stopped itself counts as one step.
    """
    over, killed = Event(), Event()

    def watch() -> None:
        left_s = deadline_s
        while left_s > 0:
            if over.wait(min(left_s, STEP_SECONDS)):
                return
            left_s -= STEP_SECONDS
        killed.set()
        process.kill()

    watching = Thread(target=watch, name="deadline", daemon=True)
    watching.start()
    try:
        yield killed
    finally:
        over.set()
        watching.join()


def json_lines(command: list[str], where: str, deadline_s: float) -> Iterator[dict[str, Any]]:
    """The JSON objects that `command` prints, as they come.

    Its "cuda:N" is the GPU that `hardware.resolve_device` names so, whose lock is held meanwhile. Raises BuildError
    where it fails, or says nothing for `deadline_s`.
    """
    kills = processes.memory_kills()
    with subprocess.Popen(
        command,
        cwd=paths.REPOSITORY,
        env=processes.tied(devices.worker_environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stderr
        errors: list[str] = []
        reader = Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            while True:
                # Not while whoever takes a line is at work with it.
                with _killing(process, deadline_s) as killed:
                    line = process.stdout.readline()
                if killed.is_set():
                    raise BuildError(f"{where}: it said nothing for {duration(deadline_s)} and was ended")
                if not line:
                    break
                if line.startswith("{") and line.endswith("\n"):
                    yield json.loads(line)
        except BaseException:
            # One that is stopped would not hear a polite word.
            process.kill()
            raise
        code = process.wait()
        reader.join()
    if code == -signal.SIGKILL and processes.memory_kills() > kills:
        raise BuildError(f"{where}: the system ran out of memory and ended the process")
    if code < 0:
        # Earlier output rarely explains why the process ended.
        raise BuildError(f"{where}: the process was ended by {signal.Signals(-code).name}")
    if code not in (0, 2):
        last = next((line for line in reversed(errors) if line.strip()), f"exit code {code}")
        raise BuildError(f"{where}: {last.strip()}")


class Builder:
    """The build process: started when something is to be built, asked in turn, then closed."""

    def __init__(self, deadline_s: float) -> None:
        """`deadline_s`: the longest that one answer may take."""
        self._deadline_s = deadline_s
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.artefacts.builder"],
            cwd=paths.REPOSITORY,
            env=processes.tied(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The facts of what was made. Raises BuildError, also where no answer comes in time."""
        assert self._process.stdin and self._process.stdout
        with _killing(self._process, self._deadline_s) as killed:
            try:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ""
        if killed.is_set():
            raise BuildError(f"the build process gave no answer for {duration(self._deadline_s)} and was ended")
        if not line:
            code = self._process.wait()
            raise BuildError(f"the build process ended with code {code}; {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise BuildError(reply["error"])
        return reply["facts"]

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return f"its last line: {lines[-1]}" if lines else "it said nothing"

    def kill(self) -> None:
        """End the process in the middle of a build; who waits in `ask` gets a BuildError, and closes it."""
        self._process.kill()

    def close(self, at_once: bool = False) -> None:
        """End the process; `at_once` even in the middle of a build."""
        if at_once:
            self.kill()
        if self._process.stdin:
            # Closing sends what a process that died could not take.
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()


def _describe(source: Path, tokenizer: Path, target: Path, first_token: bool) -> dict[str, Any]:
    """Writes the tokenizer as one file beside its settings; returns the model's labels, sizes and operations.

    `first_token`: the operations are those of a last layer that computes no other.

    Raises ValueError where the weights have no trained head or the tokenizer no fast form.
    """
    import inspect

    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from engine.artefacts import encoding, operations

    model, loading = AutoModelForSequenceClassification.from_pretrained(
        source,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        dtype=torch.float32,
    )
    if missing := sorted(loading["missing_keys"]):
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise ValueError(f"its weights lack {shown}: the classification head was never trained or not saved")
    tok = AutoTokenizer.from_pretrained(tokenizer, use_fast=True, local_files_only=True, trust_remote_code=False)
    if not tok.is_fast:
        raise ValueError(f"its tokenizer ({type(tok).__name__}) has no fast form, which the bench needs")
    if tok.pad_token_id is None:
        raise ValueError("its tokenizer has no padding token")
    if len(tok) > model.config.vocab_size:
        raise ValueError(
            f"its tokenizer has {len(tok)} tokens, the model only {model.config.vocab_size}: "
            "they do not belong together"
        )
    accepted = inspect.signature(model.forward).parameters
    pads = {"input_ids": tok.pad_token_id, "attention_mask": 0, "token_type_ids": tok.pad_token_type_id}
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and model.config.model_type in OFFSET_POSITIONS:
        positions -= tok.pad_token_id + 1
    settings = {
        "pad_ids": {k: v for k, v in pads.items() if k in tok.model_input_names and k in accepted},
        "padding_side": tok.padding_side,
        "truncation_side": tok.truncation_side,
    }
    tok.backend_tokenizer.save(str(target / encoding.TOKENIZER))
    (target / encoding.SETTINGS).write_text(json.dumps(settings))
    _same_ids(tok, encoding.Encoder(target, 64))
    return {
        "labels": [str(model.config.id2label[i]) for i in range(model.config.num_labels)],
        "parameters": model.num_parameters(),
        "max_positions": positions,
        "unused_weights": sorted(loading["unexpected_keys"]),
        "operations": operations.describe(model.config, list(settings["pad_ids"]), positions, first_token),
    }


def _same_ids(tok: Any, encoder: Any) -> None:
    """Raises ValueError where the tokenizer file alone gives other ids than transformers does."""
    texts = ["Shares ROSE 3.5% on Monday, (Reuters) said; naïve café.", "短い文 🙂", "a " * 100, " x\ttab\n"]
    mine = encoder.encode(texts)
    theirs = tok(texts, truncation=True, max_length=encoder.max_length)
    for name, rows in mine.columns.items():
        if rows != theirs[name]:
            raise ValueError(f"its tokenizer file gives other {name} than transformers' {type(tok).__name__}")


def _convert(source: Path, target: Path) -> dict[str, Any]:
    """Pickled weights to safetensors, read with weights_only=True: nothing in them can run."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    seen: set[int] = set()
    tensors = {}
    for name, tensor in state.items():
        shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.clone() if shared else tensor.contiguous()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for path in source.iterdir():
        if path.suffix in (".json", ".txt", ".model"):
            shutil.copy(path, target / path.name)
    return {"tensors": len(tensors)}


def serve() -> None:
    """The build process: one JSON request a line on stdin, one JSON reply a line on stdout."""
    processes.end_with_parent()
    libraries.leave_out("sklearn")  # what quantises needs SciPy
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    for line in sys.stdin:
        request = json.loads(line)
        source, target = Path(request["source"]), Path(request["target"])
        try:
            if request["do"] == "describe":
                facts = _describe(source, Path(request["tokenizer"]), target, request["first_token"])
            elif request["do"] == "convert":
                facts = _convert(source, target)
            else:
                recipe = Recipe(**request["recipe"])
                facts = backends.get(request["backend"]).build(recipe, source, target)
            reply: dict[str, Any] = {"facts": facts}
        except Exception as error:
            traceback.print_exc()
            text = one_line(error) if type(error) is ValueError else first_line(error)
            reply = {"error": text}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    serve()
