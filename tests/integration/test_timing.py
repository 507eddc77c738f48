"""What is timed is true: the same variant twice, a bare loop over the same call, silence between blocks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import psutil
import pytest
from scipy import stats as scipy_stats

from engine.artefacts.preparer import Preparer
from engine.machine import devices
from engine.measurement import stats, summary
from engine.store import measurements, open_store
from engine.suite.reading import load_suite
from engine.worker import handle, silence
from engine.worker.messages import Encode, Evaluate, ReadAudit, TimeBlock

SAME_PAIRS, SAME_MOST = 8, 2
"""Pairs of one variant's workers, and how many of their intervals may leave out 1."""
QUIET_ATTEMPTS = 8
"""Until the machine leaves two processes alone for some seconds."""
TEXTS = ["Shares of the champion rose as the moon landing was put off until Monday, officials said."] * 4
LENGTH = 96
BLOCK_S = 0.05
"""Short, so that a neighbour's work falls on both of a pair."""
PAIRS = 40


def pairs_of(run_id: str, names: list[str]) -> list[stats.Interval]:
    """The speed-ups of every second variant over the one before, by the run's stored calls."""
    with open_store(create=False) as store, store.session() as session:
        raws = {}
        for row in measurements.measurements(session, run_id):
            blocks = measurements.blocks(session, row.id)
            raws[row.variant] = summary.Raw(blocks).rates()
    calm = stats.calm_rounds([raws[name] for name in names])
    found = [stats.speed_up(raws[other], raws[one], calm) for one, other in zip(names[::2], names[1::2], strict=True)]
    return [interval for interval in found if interval]


@pytest.mark.second_tier
def test_the_same_variant_shows_no_difference_to_itself(shaped_models, write_suite, measure, tmp_path):
    """One run of SAME_PAIRS pairs, with no worker in two of them, and no second try.

    Where each interval leaves out 1 in 5% of cases, more than SAME_MOST of the pairs do so in 0.6% of runs; where it
    were one of the rounds alone, which leaves it out in half of them, in 86%.
    """
    assert scipy_stats.binom.sf(SAME_MOST, SAME_PAIRS, 0.05) < 0.006
    assert scipy_stats.binom.sf(SAME_MOST, SAME_PAIRS, 0.5) > 0.85
    names = [f"v{index}" for index in range(2 * SAME_PAIRS)]
    suite = write_suite(
        tmp_path,
        [{"name": name, "model": shaped_models["heavy"], "backend": "onnxruntime"} for name in names],
        name="twice",
        workload={"examples": 32, "batch_size": 8, "max_length": LENGTH},
        protocol={"rounds": 30, "min_calls": 30, "block_seconds": 0.02, "max_seconds": 60.0, "threads": 1},
    )
    found = measure(suite, predictions=False)
    assert found.exit_code == 0, found.stderr
    for row in found.measurements:
        assert row["latency_p50_s"] > 1e-3 and row["calls"] >= 30 and row["agreement"] == 1
        if not row["baseline"]:
            # Two processes of one variant differ a little; an interval that knows is not a point.
            assert math.log(row["speedup_high"] / row["speedup_low"]) > 0.02
            assert (row["comparison"] == "no_difference") == (row["speedup_low"] <= 1 <= row["speedup_high"])
    intervals = pairs_of(found.run["id"], names)
    print(*(f"{one.low:.3f} to {one.high:.3f} around {one.estimate:.3f}" for one in intervals), sep="\n")
    assert len(intervals) == SAME_PAIRS
    assert sum(not one.low <= 1 <= one.high for one in intervals) <= SAME_MOST


# A bare loop


BARE = """
    import sys, time
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, length, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    texts = sys.argv[4:]
    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    batch = {name: array.astype(np.int64) for name, array in batch.items()}

    def call():
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
            return model(**inputs).logits.numpy()

    print(call().tolist(), flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            call()
        latencies, end = [], time.perf_counter() + float(line)
        while time.perf_counter() < end:
            start = time.perf_counter()
            call()
            latencies.append(time.perf_counter() - start)
        print(latencies, flush=True)
"""


@pytest.fixture(scope="module")
def workers(shaped_models, write_suite, tmp_path_factory):
    """(torch or onnx, threads) -> a worker that has loaded "heavy" and the texts, for one and two threads."""
    folder = tmp_path_factory.mktemp("suite")
    heavy = shaped_models["heavy"]
    variants = [{"name": "torch", "model": heavy}, {"name": "onnx", "model": heavy, "backend": "onnxruntime"}]
    suite = load_suite(str(write_suite(folder, variants)))
    device = devices.resolve_device("cpu")
    with ExitStack() as stack:
        preparer = stack.enter_context(Preparer(suite))
        prepared = {variant.name: preparer.prepare(variant) for variant in suite.variant}
        made = {
            (variant.name, threads): stack.enter_context(
                handle.Worker(variant, device, threads, folder / f"{variant.name}-{threads}.log")
            )
            for variant in suite.variant
            for threads in (1, 2)
        }
        for worker in made.values():
            worker.start()
        for worker in made.values():
            worker.finish()
            worker.load(prepared[worker.variant.name], LENGTH)
            worker.ask(Encode(TEXTS))
        yield made


def block(worker: handle.Worker, seconds: float = BLOCK_S) -> np.ndarray:
    batches = [np.arange(len(TEXTS))]
    reply = worker.ask(TimeBlock(batches, "max_length", seconds, untimed_seconds=0.02))
    assert reply.samples == len(TEXTS) * len(reply.latencies_s)
    return reply.latencies_s


@pytest.mark.second_tier
def test_a_worker_times_what_a_bare_loop_takes(shaped_models, workers):
    """Blocks of both, in turn. One thread: what two do on a shared machine is up to its scheduler."""
    ours = workers["torch", 1]
    command = [sys.executable, "-c", textwrap.dedent(BARE), str(shaped_models["heavy"]), str(LENGTH), "1", *TEXTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bare:
        assert bare.stdin and bare.stdout
        logits = np.array(json.loads(bare.stdout.readline()))
        answer = ours.ask(Evaluate([np.arange(len(TEXTS))], "max_length")).logits
        assert np.abs(answer - logits).max() < 1e-4, "both call the same model"
        figures = []
        for _ in range(QUIET_ATTEMPTS):
            mine, theirs = [], []
            for _ in range(PAIRS):
                mine.append(block(ours))
                assert silence.wait_for_silence([ours])
                bare.stdin.write(f"{BLOCK_S}\n")
                bare.stdin.flush()
                theirs.append(np.array(json.loads(bare.stdout.readline())))
            ratio = np.median([np.median(a) / np.median(b) for a, b in zip(mine, theirs, strict=True)])
            figures.append(float(ratio))
            print(f"worker / bare loop: {ratio:.3f} at {np.median(np.concatenate(theirs)) * 1e3:.2f} ms")
            if 0.9 < ratio < 1.1:
                break
        bare.stdin.close()
    assert 0.9 < figures[-1] < 1.1, f"worker / bare loop: {figures}"


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_worker_is_silent_after_a_block(workers, name):
    one = workers[name, 2]
    silent = []
    for _ in range(5):
        before = one.cpu_ns()
        block(one, 0.05)
        assert silence.wait_for_silence([one])
        after = one.cpu_ns()
        time.sleep(0.2)
        silent.append(one.cpu_ns() == after)
        assert after > before + 10_000_000, "a block does use the CPU"
    # A thread may still be on its way to sleep when the first look is taken.
    assert sum(silent) >= 4


def test_silence_is_not_found_while_a_worker_computes(workers):
    one = workers["onnx", 1]
    one.begin(TimeBlock([np.arange(len(TEXTS))], "max_length", seconds=1.5, untimed_seconds=0.02))
    began = time.monotonic()
    assert not silence.wait_for_silence([one])
    assert 0.4 < time.monotonic() - began < 1.4
    one.finish()
    assert silence.wait_for_silence([one])


def test_as_many_threads_compute_as_were_asked_for(workers):
    def used_s(worker: handle.Worker) -> dict[int, float]:
        return {t.id: t.user_time + t.system_time for t in psutil.Process(worker.process.pid).threads()}

    computing = {}
    for (name, threads), worker in workers.items():
        block(worker, 0.1)
        before = used_s(worker)
        block(worker, 1.0)
        spent = {number: now - before.get(number, 0) for number, now in used_s(worker).items()}
        print(name, threads, "threads:", spent)
        computing[name, threads] = sum(s > 0.1 * sum(spent.values()) for s in spent.values())
        assert worker.ask(ReadAudit()).settings["threads"] == threads
    assert computing == {("torch", 1): 1, ("torch", 2): 2, ("onnx", 1): 1, ("onnx", 2): 2}


# Rounds, and processes


@pytest.mark.second_tier
def test_two_processes_give_blocks_of_two(shaped_models, write_suite, measure, tmp_path):
    wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
    suite = write_suite(
        tmp_path,
        [{"name": "fp32", **wide}, {"name": "int8", **wide, "precision": "int8"}],
        name="processes",
        protocol={"processes": 2, "rounds": 8, "min_calls": 8},
    )
    found = measure(suite)
    assert found.exit_code == 0, found.stderr
    with open_store(create=False) as store, store.session() as session:
        for row in measurements.measurements(session, found.run["id"]):
            for kind in ("timed", "warmup"):
                blocks = measurements.blocks(session, row.id, kind)
                assert {block.process for block in blocks} == {0, 1}
            blocks = measurements.blocks(session, row.id)
            for process in (0, 1):
                assert len([b for b in blocks if b.process == process]) >= 4, "half of the rounds each"
            # One clock for all: the second process came after the first.
            first, second = ([b.started_s for b in blocks if b.process == p] for p in (0, 1))
            assert max(first) < min(second) and first == sorted(first)
            assert row.calls == sum(len(b.latencies_s) for b in blocks)
            median = np.median(np.concatenate([b.latencies_s for b in blocks]))
            assert row.latency_p50_s == pytest.approx(median)
    logs = {path.name for path in handle.paths.local_data().glob(f"logs/{found.run['id']}/*-*.log")}
    assert logs == {"fp32-0.log", "fp32-1.log", "int8-0.log", "int8-1.log"}


def test_rounds_visit_the_variants_in_shuffled_order_over_the_same_examples(
    shaped_models, write_suite, measure, tmp_path
):
    wide = {"model": shaped_models["wide"], "backend": "onnxruntime", "padding": "longest"}
    suite = write_suite(
        tmp_path,
        [{"name": "one", **wide}, {"name": "two", **wide}, {"name": "big", **wide, "batch_size": 8}],
        name="rounds",
        workload={"examples": 40, "max_length": 120},
        protocol={"rounds": 20, "min_calls": 20, "block_seconds": 0.001},
    )
    found = measure(suite, predictions=False)
    with open_store(create=False) as store, store.session() as session:
        blocks = {
            r.variant: measurements.blocks(session, r.id) for r in measurements.measurements(session, found.run["id"])
        }
    rounds = range(len(blocks["one"]))
    assert len(rounds) >= 20 and all([b.round for b in made] == list(rounds) for made in blocks.values())
    orders = {tuple(sorted(blocks, key=lambda name: blocks[name][index].started_s)) for index in rounds}
    assert len(orders) > 2
    for index in rounds:
        # However many calls a block makes, it goes through the same texts as often as it likes.
        tokens = {name: made[index].tokens * 8 / made[index].samples for name, made in blocks.items()}
        assert tokens["one"] == tokens["two"] == tokens["big"]
    for earlier, later in pairwise(rounds):
        ended = max(made[earlier].started_s + made[earlier].latencies_s.sum() for made in blocks.values())
        assert ended <= min(made[later].started_s for made in blocks.values()) + 1e-6, "one works at a time"
    assert len({blocks["one"][index].tokens / blocks["one"][index].samples for index in rounds}) > 2, "windows differ"
