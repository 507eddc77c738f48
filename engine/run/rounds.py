"""The rounds of one experiment: timed blocks of every variant, interleaved in shuffled order.

One worker works at a time. In a round every variant works through the same examples. Blocks are written down round by
round, so that nothing measured is lost, whatever ends the run.
"""

from __future__ import annotations

import math
import time

import numpy as np

from engine.machine.conditions import disturbances
from engine.measurement.blocks import Block
from engine.measurement.doubts import Code, doubt
from engine.run import ending
from engine.run.context import RunState
from engine.run.position import RoundPosition
from engine.run.state import Cell, Entry, Pairs
from engine.suite import batching
from engine.worker.messages import TimeBlock, WarmUp

UNTIMED_SECONDS = 0.02
"""How long a block works before it is timed."""
WARM_UP_SECONDS = 0.5
"""How long a warm-up lasts at least."""
WARM_UP_MAX_SECONDS = 10.0
"""Time limit of a warm-up that does not settle."""


def time_experiment(state: RunState, pairs: Pairs, process: int, passes: int, share: float) -> None:
    """Warm up the cells of one experiment, then time them in rounds.

    `process`: the number of these workers among the run's; `passes`: over how many passes the protocol's rounds are
    spread; `share`: which part of a pass is still to be done, 1 for a new run, 0 for nothing.
    """
    if not share:
        return
    protocol = state.plan.suite.protocol
    rounds = math.ceil(protocol.rounds / passes * share)
    min_calls = math.ceil(protocol.min_calls / passes * share)
    max_seconds = protocol.max_seconds / passes * share
    windows = batching.timed_windows(state.windows(pairs))
    seed = (state.plan.suite.workload.seed, process, pairs[0][1].batching.batch_size)
    shuffle = np.random.default_rng(seed)
    for entry, cell in pairs:
        state.wait_for_silence(entry)
        ending.guarded(state, entry, _warm_up, state, entry, cell, windows, process)
    calls = dict.fromkeys((cell.id for _, cell in pairs), 0)
    watch = state.watch()
    began_s = time.monotonic()
    index = 0
    while True:
        window = windows[index % len(windows)]
        timed: list[tuple[Cell, Block]] = []
        for turn in shuffle.permutation(len(pairs)):
            entry, cell = pairs[turn]
            if entry.ended is not None:
                continue
            silent = state.wait_for_silence(entry)
            block = ending.guarded(state, entry, _block, state, entry, cell, window, process, index)
            if block is not None:
                cell.disturbed += not silent
                timed.append((cell, block))
                calls[cell.id] += len(block.latencies_s)
        state.recorder.blocks(timed)
        # Only stored blocks count: a figure that is computed again later sees the same calls.
        for cell, block in timed:
            cell.blocks.append(block)
        index += 1
        elapsed_s = time.monotonic() - began_s
        fewest = min((calls[cell.id] for entry, cell in pairs if entry.ended is None), default=min_calls)
        done = max(min(index / rounds, fewest / min_calls), elapsed_s / max_seconds)
        alive = any(entry.ended is None for entry, _ in pairs)
        if done >= 1 or not alive:
            break
        position = RoundPosition(index + 1, rounds, process + 1, max(passes, process + 1))
        state.tell("timing", position.words, done, elapsed_s / done - elapsed_s, position=position)
    conditions = watch.stop()
    for _, cell in pairs:
        cell.conditions.append({"process": process, **conditions.to_json()})
        cell.doubts += disturbances(conditions, state.plan.device.kind)


def _warm_up(state: RunState, entry: Entry, cell: Cell, windows: list[np.ndarray], process: int) -> None:
    """Call a worker until its latency settles, and show it every shape that will be timed."""
    reply = entry.running().ask(
        WarmUp(
            batches=entry.batches(cell, windows[0]),
            to_come=_shapes(entry, cell, windows),
            padding=cell.batching.padding,
            seconds=WARM_UP_SECONDS,
            max_seconds=WARM_UP_MAX_SECONDS,
        )
    )
    if reply.settled is None:
        cell.doubts.append(doubt(Code.SHORT_WARM_UP, calls=len(reply.latencies_s)))
    elif not reply.settled:
        cell.doubts.append(doubt(Code.UNSETTLED_WARM_UP, seconds=WARM_UP_MAX_SECONDS))
    began_s = state.since_begin_s(reply.started_ns)
    block = Block(process, -1, began_s, reply.latencies_s, 0, 0, 0, "warmup")
    state.recorder.blocks([(cell, block)])


def _shapes(entry: Entry, cell: Cell, windows: list[np.ndarray]) -> list[np.ndarray]:
    """One batch of every shape among those that are timed: int64 [examples in the batch] each."""
    assert entry.lengths is not None
    lengths = entry.lengths
    longest = cell.batching.padding == "longest"
    batches = [batch for window in windows for batch in entry.batches(cell, window)]
    return list({(len(batch), int(lengths[batch].max()) if longest else 0): batch for batch in batches}.values())


def _block(state: RunState, entry: Entry, cell: Cell, window: np.ndarray, process: int, index: int) -> Block:
    """Time one block of a worker over `window`."""
    reply = entry.running().ask(
        TimeBlock(
            batches=entry.batches(cell, window),
            padding=cell.batching.padding,
            seconds=state.plan.suite.protocol.block_seconds,
            untimed_seconds=UNTIMED_SECONDS,
        )
    )
    return Block(
        process,
        index,
        state.since_begin_s(reply.started_ns),
        reply.latencies_s,
        reply.samples,
        reply.tokens,
        reply.padded_tokens,
    )
