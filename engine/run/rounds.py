"""Interleaved rounds of timed blocks over the workers."""

from __future__ import annotations

UNTIMED_SECONDS = 0.02
WARM_UP_SECONDS = 0.5
WARM_UP_MAX_SECONDS = 10.0
