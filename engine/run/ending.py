"""How a variant or a run ends before its time. What was measured until then is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from engine.errors import RequestError, UnavailableError, one_line
from engine.run import deriving
from engine.run.context import RunState
from engine.run.recorder import say_last
from engine.run.state import Entry
from engine.worker.handle import WorkerError

T = TypeVar("T")


class DoesNotFit(Exception):
    """The variants do not fit in memory beside each other."""


def guarded(state: RunState, entry: Entry, work: Callable[..., T], *arguments: Any) -> T | None:
    """Return `work`'s result. A worker that fails or dies ends its variant, not the run: then None.

    Raises DoesNotFit where memory ran out while other variants were loaded.
    """
    try:
        return work(*arguments)
    except UnavailableError as error:
        end(state, entry, "unavailable", str(error))
    except WorkerError as error:
        others = any(other.worker is not None for other in state.entries if other is not entry)
        beside = state.schedule == "interleaved" and others
        # A resumed run must not start over: it would lose what it has.
        if error.out_of_memory and beside and not state.earlier_processes:
            raise DoesNotFit from error
        end(state, entry, "failed", str(error))
    return None


def end(state: RunState, entry: Entry, status: str, reason: str) -> None:
    """End a variant before the run ends, and store what it gave until then."""
    entry.ended = status
    if entry.worker is not None:
        entry.worker.close()
    for cell in entry.cells:
        if cell.kept:
            continue
        # Not compared with the baseline: it did not take part in all rounds.
        cell.values |= deriving.own_figures(state, entry, cell)
        state.recorder.finish(cell.id, {**cell.values, "status": status, "status_reason": reason})


def close(state: RunState, status: str, variants_reason: str, error: BaseException) -> None:
    """End a run because of `error`, which stays the one that counts where the end cannot be stored."""
    by_user = "cancelled by the user"
    reason = by_user if status == "cancelled" and not str(error) else one_line(error)
    state.recorder.patience_s = 0.0
    try:
        for entry in state.alive():
            end(state, entry, "cancelled", variants_reason)
        if status == "cancelled" and state.recorder.cancel_requested(state.id):
            reason = by_user
        state.recorder.end(state.id, status, reason)
    except RequestError:
        say_last(state.id, reason)
