"""`python -m engine.worker`: one variant in one process.

It answers requests from `engine.worker.handle` over a pipe, one at a time, and ends when the pipe closes. It
imports the one model library that its backend needs, and nothing of the store, suites or corpora.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from engine import backends
from engine.artefacts.encoding import Encoded, Encoder
from engine.backends.base import Backend, Batch, LoadRequest
from engine.errors import UnavailableError, first_line, says_out_of_memory
from engine.machine import libraries, processes
from engine.measurement import operators
from engine.worker import timing
from engine.worker.memory import DeviceMemory, host_peak, reset_host_peak, resident_bytes

MEMORY_CALLS = 5
DEVICE_WARM_SECONDS = 0.2


class Host:
    """The state of one worker: a backend, its tokenizer, the encoded workload."""

    backend: Backend
    encoder: Encoder
    encoded: Encoded
    scratch: Path

    def start(self, backend: str, device_uuid: str | None) -> dict[str, Any]:
        """Import what the backend needs, before anything is loaded."""
        before = time.perf_counter()
        self.device_memory = DeviceMemory(device_uuid)
        cls = backends.get(backend)
        for name in cls.modules:
            import_module(name)
        self.backend = cls()
        return {
            "import_s": time.perf_counter() - before,
            "imports_bytes": resident_bytes(),
            "cuda_started": False,
        }

    def load(self, request: dict[str, Any], tokenizer: str, max_length: int) -> dict[str, Any]:
        """Load the variant and its tokenizer."""
        asked = LoadRequest.from_json(request)
        # Other workers may have loaded since this one started.
        self.device_memory = DeviceMemory(self.device_memory._uuid)
        self.scratch = asked.scratch
        before = time.perf_counter()
        self.backend.load(asked)
        self.backend.synchronize()
        load_s = time.perf_counter() - before
        self.encoder = Encoder(Path(tokenizer), max_length)
        return {"load_s": load_s, "weights_bytes": self.backend.weights_bytes()}

    def encode(self, texts: list[str]) -> dict[str, Any]:
        """Tokenise the whole workload once; positions in later requests refer to it."""
        self.encoded = self.encoder.encode(texts)
        return {"lengths": self.encoded.lengths, "truncated": self.encoded.truncated}

    def memory(self, positions: np.ndarray, padding: str) -> dict[str, Any]:
        """Peaks over a few calls of one batch: the largest that this measurement makes."""
        batch = self._batch(positions, padding)
        self.backend.allocator_bytes(reset=True)
        was_reset = reset_host_peak()
        for _ in range(MEMORY_CALLS):
            self.backend.call(batch)
        self.backend.synchronize()
        return {
            "host": asdict(host_peak(was_reset)),
            "device": asdict(self.device_memory.read()),
            "allocator": self.backend.allocator_bytes(),
        }

    def evaluate(self, batches: list[np.ndarray], padding: str) -> dict[str, Any]:
        """Logits of every example: float32 [examples, labels], rows in the batches' order."""
        return {"logits": np.concatenate([self.backend.call(self._batch(b, padding)) for b in batches])}

    def warm_up(
        self,
        batches: list[np.ndarray],
        to_come: list[np.ndarray],
        padding: str,
        seconds: float,
        max_seconds: float,
    ) -> dict[str, Any]:
        """Calls before anything counts, over `batches`; `to_come`: one of every shape that will be timed."""
        self.backend.meet([self._batch(b, padding) for b in to_come])
        made = [self._batch(b, padding) for b in batches]
        timed = timing.warm_up(self.backend, made, seconds, max_seconds)
        return {"started_ns": timed.started_ns, "latencies_s": timed.latencies_s, "settled": timed.settled}

    def block(self, batches: list[np.ndarray], padding: str, seconds: float, untimed_seconds: float) -> dict[str, Any]:
        """Timed calls over one round's window. Batches are made beforehand, outside the clock."""
        made = [self._batch(b, padding) for b in batches]
        timed = timing.block(self.backend, made, seconds, untimed_seconds)
        samples = sum(len(b) for b in batches)
        tokens = int(sum(self.encoded.lengths[b].sum() for b in batches))
        padded = sum(batch["input_ids"].size for batch in made)
        return {
            "started_ns": timed.started_ns,
            "latencies_s": timed.latencies_s,
            "samples": samples * timed.passes,
            "tokens": tokens * timed.passes,
            "padded_tokens": padded * timed.passes,
        }

    def tokenizing(self, texts: list[list[str]], padding: str) -> dict[str, Any]:
        """Seconds from texts to a padded batch, for each list of `texts`."""
        latencies_s = []
        for item in texts:
            start = time.perf_counter_ns()
            encoded = self.encoder.encode(item)
            self.encoder.batch(encoded, range(len(item)), padding)
            latencies_s.append((time.perf_counter_ns() - start) / 1e9)
        return {"latencies_s": np.array(latencies_s)}

    def device_time(self, positions: np.ndarray, padding: str, calls: int) -> dict[str, Any]:
        """Seconds between device events around a call, for a few calls; None where there are no events."""
        batch = self._batch(positions, padding)
        # The first calls after a rest are slower, and these are few.
        timing.warm_up(self.backend, [batch], DEVICE_WARM_SECONDS, DEVICE_WARM_SECONDS)
        found = [self.backend.device_seconds(batch) for _ in range(calls)]
        return {"seconds": None if None in found else np.array(found, dtype=np.float64)}

    def profile(self, positions: np.ndarray, padding: str, calls: int, trace: bool = False) -> dict[str, Any]:
        """Where some calls of one batch spend their time, as `measurement.operators.facts`; else the `reason` alone.

        With `trace` also the file of their trace, in the worker's own folder, as `trace`.
        """
        batch = self._batch(positions, padding)
        try:
            found = self.backend.profile(batch, calls, self.scratch if trace else None)
        except Exception as error:  # it must not cost a variant what is measured of it
            traceback.print_exc()
            return {"reason": f"the profiler failed: {first_line(error)}"}
        if found is None:
            return {"reason": f"backend {self.backend.name!r} has no profiler here"}
        lengths = batch.get("lengths")
        # A packed batch is one row of all tokens; its examples' mean length counts it nearly as it is.
        shape = batch["input_ids"].shape if lengths is None else (len(lengths), round(float(lengths.mean())))
        made = operators.facts(found, calls, shape)
        return made | ({"trace": str(found.trace)} if trace else {})

    def audit(self) -> dict[str, Any]:
        return asdict(self.backend.audit())

    def classify(self, texts: list[str], padding: str, calls: int) -> dict[str, Any]:
        """Logits of `texts` as one batch, with tokenising and model latency over `calls` calls after one untimed."""
        tokenize_s, latencies_s = [], []
        for index in range(calls + 1):
            start = time.perf_counter_ns()
            encoded = self.encoder.encode(texts)
            batch = self.encoder.batch(encoded, range(len(texts)), padding)
            middle = time.perf_counter_ns()
            nanoseconds, logits = timing.one_call(self.backend, batch)
            if index:
                tokenize_s.append((middle - start) / 1e9)
                latencies_s.append(nanoseconds / 1e9)
        return {
            "logits": logits,
            "latencies_s": np.array(latencies_s),
            "tokenize_s": np.array(tokenize_s),
            "tokens": encoded.lengths,
            "truncated": encoded.truncated,
            "shape": list(batch["input_ids"].shape),
        }

    def answer(self, texts: list[str], padding: str) -> dict[str, Any]:
        """Logits of `texts` as one batch, tokenised now."""
        batch = self.encoder.batch(self.encoder.encode(texts), range(len(texts)), padding)
        return {"logits": timing.one_call(self.backend, batch)[1]}

    def meet(self, texts: list[str], sizes: list[int], padding: str) -> dict[str, Any]:
        """Prepare for batches of each of `sizes`, as long as each of `texts`: those to come are among them."""
        encoded = self.encoder.encode(texts)
        order = np.argsort(encoded.lengths, kind="stable")
        lengths = encoded.lengths[order]
        ends = [len(order)] if padding == "max_length" else np.searchsorted(lengths, np.unique(lengths), side="right")
        chosen = (np.resize(order[max(0, end - size) : end], size) for end in ends for size in sizes)
        # One at a time: all sizes by all lengths would be gigabytes, and most backends want none.
        self.backend.meet(self.encoder.batch(encoded, positions, padding) for positions in chosen)
        return {}

    def _batch(self, positions: np.ndarray, padding: str) -> Batch:
        return self.encoder.batch(self.encoded, positions, padding)


def _end_with_stdin() -> None:
    """End this process when stdin closes, even in the middle of a call: no orphan outlives its parent."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve requests `{"do": name, ...}` from the file descriptor in argv until it closes."""
    from multiprocessing.connection import Connection

    processes.end_with_parent()
    libraries.leave_out(*libraries.BESIDE_THE_MODEL)
    _end_with_stdin()
    connection = Connection(int(sys.argv[1]))
    host = Host()
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        name = request.pop("do")
        try:
            reply = getattr(host, name)(**request)
        except Exception as error:
            traceback.print_exc()
            unavailable = isinstance(error, UnavailableError)
            reply = {
                "error": str(error) if unavailable else first_line(error),
                "unavailable": unavailable,
                "out_of_memory": says_out_of_memory(f"{type(error).__name__} {error}"),
            }
        connection.send(reply)


if __name__ == "__main__":
    main()
