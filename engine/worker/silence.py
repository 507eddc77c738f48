"""Waits until the other workers' CPU clocks stand still."""

from __future__ import annotations

import time

from engine.worker.handle import Worker

SILENCE_LIMIT_S = 0.5
SILENCE_STEP_S = 0.003


def wait_for_silence(workers: list[Worker]) -> bool:
    """Wait until no process of `workers` uses CPU time; False if one still did after half a second."""
    deadline = time.monotonic() + SILENCE_LIMIT_S
    before = [worker.cpu_ns() for worker in workers]
    while workers:
        time.sleep(SILENCE_STEP_S)
        now = [worker.cpu_ns() for worker in workers]
        if now == before and not any(worker.runnable() for worker in workers):
            break
        if time.monotonic() > deadline:
            return False
        before = now
    return True
