"""`python -m engine.worker`: one variant in one process.

It answers requests from `engine.worker.handle` over a pipe, one at a time, and ends when the pipe closes. It
imports only the model library that its backend needs, and nothing from the store, suites or corpora.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from engine import backends
from engine.artefacts.encoding import Encoded, Encoder
from engine.backends.base import Audit, Backend, Batch
from engine.errors import UnavailableError, first_line, says_out_of_memory
from engine.machine import libraries, processes
from engine.measurement import operators
from engine.worker import messages, timing
from engine.worker.memory import DeviceMemory, host_peak, reset_host_peak, resident_bytes

MEMORY_CALLS = 5
DEVICE_WARM_SECONDS = 0.2


class Host:
    """The state of one worker: a backend, its tokenizer and the encoded workload."""

    backend: Backend
    encoder: Encoder
    encoded: Encoded
    scratch: Path

    def start(self, request: messages.Start) -> messages.Started:
        before = time.perf_counter()
        self.device_memory = DeviceMemory(request.device_uuid)
        cls = backends.get(request.backend)
        for name in cls.modules:
            import_module(name)
        self.backend = cls()
        return messages.Started(time.perf_counter() - before, resident_bytes())

    def load(self, request: messages.Load) -> messages.Loaded:
        # Other workers may have loaded models since this one started, so the memory in use is read again.
        self.device_memory = DeviceMemory(self.device_memory._uuid)
        self.scratch = request.request.scratch
        before = time.perf_counter()
        self.backend.load(request.request)
        self.backend.synchronize()
        load_s = time.perf_counter() - before
        self.encoder = Encoder(Path(request.tokenizer), request.max_length)
        return messages.Loaded(load_s, self.backend.weights_bytes())

    def encode(self, request: messages.Encode) -> messages.Encoded:
        self.encoded = self.encoder.encode(request.texts)
        return messages.Encoded(self.encoded.lengths, self.encoded.truncated)

    def measure_memory(self, request: messages.MeasureMemory) -> messages.MemoryPeaks:
        batch = self._batch(request.positions, request.padding)
        self.backend.allocator_bytes(reset=True)
        was_reset = reset_host_peak()
        for _ in range(MEMORY_CALLS):
            self.backend.call(batch)
        self.backend.synchronize()
        return messages.MemoryPeaks(host_peak(was_reset), self.device_memory.read(), self.backend.allocator_bytes())

    def evaluate(self, request: messages.Evaluate) -> messages.Logits:
        logits = [self.backend.call(self._batch(batch, request.padding)) for batch in request.batches]
        return messages.Logits(np.concatenate(logits))

    def warm_up(self, request: messages.WarmUp) -> messages.WarmedUp:
        self.backend.meet([self._batch(batch, request.padding) for batch in request.to_come])
        batches = [self._batch(batch, request.padding) for batch in request.batches]
        timed = timing.warm_up(self.backend, batches, request.seconds, request.max_seconds)
        return messages.WarmedUp(timed.started_ns, timed.latencies_s, timed.settled)

    def time_block(self, request: messages.TimeBlock) -> messages.TimedBlock:
        # Batches are made before the clock starts.
        batches = [self._batch(batch, request.padding) for batch in request.batches]
        timed = timing.block(self.backend, batches, request.seconds, request.untimed_seconds)
        return messages.TimedBlock(
            timed.started_ns,
            timed.latencies_s,
            samples=timed.passes * sum(len(batch) for batch in request.batches),
            tokens=timed.passes * int(sum(self.encoded.lengths[batch].sum() for batch in request.batches)),
            padded_tokens=timed.passes * sum(batch["input_ids"].size for batch in batches),
        )

    def tokenize(self, request: messages.Tokenize) -> messages.Tokenized:
        latencies_s = []
        for texts in request.texts:
            start = time.perf_counter_ns()
            encoded = self.encoder.encode(texts)
            self.encoder.batch(encoded, range(len(texts)), request.padding)
            latencies_s.append((time.perf_counter_ns() - start) / 1e9)
        return messages.Tokenized(np.array(latencies_s))

    def measure_device_time(self, request: messages.MeasureDeviceTime) -> messages.DeviceTimes:
        batch = self._batch(request.positions, request.padding)
        # The first calls after a pause are slower, and there are too few calls here to outweigh them.
        timing.warm_up(self.backend, [batch], DEVICE_WARM_SECONDS, DEVICE_WARM_SECONDS)
        seconds = [self.backend.device_seconds(batch) for _ in range(request.calls)]
        return messages.DeviceTimes(None if None in seconds else np.array(seconds, dtype=np.float64))

    def profile(self, request: messages.Profile) -> messages.Profiled:
        batch = self._batch(request.positions, request.padding)
        try:
            found = self.backend.profile(batch, request.calls, self.scratch if request.keep_trace else None)
        except Exception as error:  # a failed profile must not cost the variant its measurements
            traceback.print_exc()
            return messages.Profiled(None, f"the profiler failed: {first_line(error)}")
        if found is None:
            return messages.Profiled(None, f"backend {self.backend.name!r} has no profiler here")
        lengths = batch.get("lengths")
        # A packed batch is one row with all tokens; the mean length of its examples describes it approximately.
        shape = batch["input_ids"].shape if lengths is None else (len(lengths), round(float(lengths.mean())))
        facts = operators.facts(found, request.calls, shape)
        return messages.Profiled(facts, trace=str(found.trace) if request.keep_trace else None)

    def read_audit(self, request: messages.ReadAudit) -> Audit:
        return self.backend.audit()

    def classify(self, request: messages.Classify) -> messages.Classified:
        tokenize_s, latencies_s = [], []
        for index in range(request.calls + 1):
            start = time.perf_counter_ns()
            encoded = self.encoder.encode(request.texts)
            batch = self.encoder.batch(encoded, range(len(request.texts)), request.padding)
            middle = time.perf_counter_ns()
            nanoseconds, logits = timing.one_call(self.backend, batch)
            if index:
                tokenize_s.append((middle - start) / 1e9)
                latencies_s.append(nanoseconds / 1e9)
        return messages.Classified(
            logits,
            np.array(latencies_s),
            np.array(tokenize_s),
            encoded.lengths,
            encoded.truncated,
            list(batch["input_ids"].shape),
        )

    def answer_texts(self, request: messages.AnswerTexts) -> messages.Logits:
        batch = self.encoder.batch(self.encoder.encode(request.texts), range(len(request.texts)), request.padding)
        return messages.Logits(timing.one_call(self.backend, batch)[1])

    def meet(self, request: messages.Meet) -> messages.Met:
        encoded = self.encoder.encode(request.texts)
        order = np.argsort(encoded.lengths, kind="stable")
        lengths = encoded.lengths[order]
        ends = [len(order)]
        if request.padding != "max_length":
            ends = np.searchsorted(lengths, np.unique(lengths), side="right").tolist()
        chosen = (np.resize(order[max(0, end - size) : end], size) for end in ends for size in request.sizes)
        # One batch at a time: all sizes by all lengths would take gigabytes, and most backends use none of them.
        self.backend.meet(self.encoder.batch(encoded, positions, request.padding) for positions in chosen)
        return messages.Met()

    def _batch(self, positions: np.ndarray, padding: str) -> Batch:
        return self.encoder.batch(self.encoded, positions, padding)


def _end_with_stdin() -> None:
    """End this process when stdin closes, even in the middle of a call, so that it does not outlive its parent."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    Thread(target=watch, daemon=True).start()


ANSWERED_BY: dict[type[messages.Request[Any]], Callable[[Host, Any], Any]] = {
    messages.Start: Host.start,
    messages.Load: Host.load,
    messages.Encode: Host.encode,
    messages.MeasureMemory: Host.measure_memory,
    messages.Evaluate: Host.evaluate,
    messages.WarmUp: Host.warm_up,
    messages.TimeBlock: Host.time_block,
    messages.Tokenize: Host.tokenize,
    messages.MeasureDeviceTime: Host.measure_device_time,
    messages.Profile: Host.profile,
    messages.ReadAudit: Host.read_audit,
    messages.Classify: Host.classify,
    messages.AnswerTexts: Host.answer_texts,
    messages.Meet: Host.meet,
}
"""Request -> the method that answers it. `engine.worker.messages` describes each request."""


def main() -> None:
    """Answer requests from the file descriptor in argv until it closes."""
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
        try:
            reply = ANSWERED_BY[type(request)](host, request)
        except Exception as error:
            traceback.print_exc()
            unavailable = isinstance(error, UnavailableError)
            reply = messages.Failed(
                reason=str(error) if unavailable else first_line(error),
                is_unavailable=unavailable,
                out_of_memory=says_out_of_memory(f"{type(error).__name__} {error}"),
            )
        connection.send(reply)


if __name__ == "__main__":
    main()
