"""Does the bench time what others time, and are its variants as fast as the same libraries used by hand?

Workers of the bench, a bare loop over transformers, its `pipeline`, ONNX Runtime and OpenVINO as their documentation
has them, each in a process of its own, answer the same batches of a suite's texts in interleaved rounds of short
blocks. Each tool stands beside the bench's worker that does the same: its median call, and the ratio of the two, round
by round. A pipeline tokenises, so it stands beside a worker's call and tokenising together.

    python -m benchmarks.by_hand ../shared/suites/agnews-local.toml --model fp32

Two processes of one loop differ by some percent for as long as they live, whoever wrote the loop. --processes 5 starts
five bare loops and five workers and holds the mean of the ones against the mean of the others.

With --optimum-benchmark and the interpreter of an environment that has it, the ratio of two models is measured by it
too, a process each as it does by default, and by the bench; both are repeated, to see how far each moves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy import stats

from engine.artefacts.preparer import Prepared, Preparer
from engine.machine import devices, host
from engine.suite import corpus
from engine.suite.reading import load_suite
from engine.suite.spec import Suite, Variant
from engine.worker import handle, messages

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK_S = 0.5
BATCHES = 8
"""Batches that all go through, again and again."""
SETUP = """
    import json, sys, time
    import numpy as np
    given = json.loads(sys.argv[1])
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    padded = dict(padding="max_length", truncation=True, max_length=given["max_length"])
    batches = [dict(tokenizer(texts, **padded, return_tensors="np")) for texts in given["batches"]]
    batches = [{name: array.astype(np.int64) for name, array in batch.items()} for batch in batches]
"""
TIME = """
    for i in range(len(batches)):
        call(i)
    print("ready", flush=True)
    done = 0
    for line in sys.stdin:
        taken, end = [], time.perf_counter() + float(line)
        while time.perf_counter() < end:
            begun = time.perf_counter()
            call(done % len(batches))
            taken.append(time.perf_counter() - begun)
            done += 1
        print(json.dumps(taken), flush=True)
"""
BARE = """
    import torch
    from transformers import AutoModelForSequenceClassification
    torch.set_num_threads(given["threads"])
    model = AutoModelForSequenceClassification.from_pretrained(given["model"], dtype=torch.float32).eval()

    def call(i):
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in batches[i].items()}).logits.numpy()
"""
PIPELINE = """
    import torch
    from transformers import pipeline
    torch.set_num_threads(given["threads"])
    classify = pipeline("text-classification", model=given["model"], device="cpu", dtype=torch.float32)

    def call(i):
        return classify(given["batches"][i], batch_size=len(given["batches"][i]), **padded)
"""
ONNX = """
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given["threads"]
    session = onnxruntime.InferenceSession(given["file"], options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def call(i):
        return session.run(None, {name: batches[i][name] for name in names})[0]
"""
QUANTISED = """
    import os, tempfile
    from onnxruntime.quantization import QuantType, quantize_dynamic
    made = os.path.join(tempfile.mkdtemp(dir=given["scratch"]), "int8.onnx")
    quantize_dynamic(given["file"], made, weight_type=QuantType.QInt8)
    given["file"] = made
"""
OPENVINO = """
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(given["file"], "CPU", {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": given["threads"]})
    names = [one.any_name for one in compiled.inputs]

    def call(i):
        return compiled({name: batches[i][name] for name in names})[0]
"""
OTHER_BENCHMARK = """
    import json, sys
    from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, ProcessConfig, PyTorchConfig
    from optimum_benchmark.backends.pytorch import backend

    # Of DistilBERT's inputs it makes up one that the model does not take. Its process imports this anew.
    prepare = backend.PyTorchBackend.prepare_inputs
    backend.PyTorchBackend.prepare_inputs = lambda self, inputs: prepare(
        self, {name: made for name, made in inputs.items() if name != "position_ids"})

    if __name__ == "__main__":
        given = json.loads(sys.argv[1])
        scenario = InferenceConfig(latency=True, memory=False, duration=given["seconds"], warmup_runs=10, iterations=10,
            input_shapes={"batch_size": given["batch_size"], "sequence_length": given["max_length"]})
        chosen = PyTorchConfig(model=given["model"], task="text-classification", library="transformers", device="cpu",
            inter_op_num_threads=1, intra_op_num_threads=given["threads"])
        report = Benchmark.launch(BenchmarkConfig("one", launcher=ProcessConfig(), scenario=scenario, backend=chosen))
        print(json.dumps(report.to_dict()["forward"]["latency"]["values"]))
"""


@dataclass
class Tool:
    """What is timed: `time` gives seconds a call over so many seconds."""

    name: str
    beside: str
    """The worker of the bench that does the same."""
    time: Callable[[float], list[float]]
    latencies_s: list[list[float]] = field(default_factory=list)
    """By round."""

    def medians_s(self) -> np.ndarray:
        """float64 [rounds]."""
        return np.array([np.median(taken) for taken in self.latencies_s])


def by_hand(stack: ExitStack, name: str, beside: str, code: str, given: dict[str, Any]) -> Tool:
    """A process of its own that runs `code`."""
    parts = map(textwrap.dedent, (SETUP, code, TIME))
    command = [sys.executable, "-c", "".join(parts), json.dumps(given)]
    return Tool(name, beside, speaking(stack, name, command, REPOSITORY))


def speaking(stack: ExitStack, name: str, command: list[str], folder: Path) -> Callable[[float], list[float]]:
    """Starts `command` in `folder`; once it is ready it is told seconds, and says the seconds of each call in them."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = stack.enter_context(subprocess.Popen(command, text=True, cwd=folder, **streams))
    assert process.stdin and process.stdout
    stack.callback(process.stdin.close)
    sent, said = process.stdin, process.stdout
    if said.readline().strip() != "ready":
        raise SystemExit(f"{name} did not start")

    def time(seconds: float) -> list[float]:
        sent.write(f"{seconds}\n")
        sent.flush()
        return json.loads(said.readline())

    return time


def of_bench(stack: ExitStack, variant: Variant, prepared: Prepared, suite: Suite, texts: list[str]) -> handle.Worker:
    """A worker of the bench that has loaded, encoded and warmed up."""
    log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "worker.log"
    worker = stack.enter_context(handle.Worker(variant, devices.resolve_device("cpu"), host.usable_cores(), log))
    worker.start()
    worker.finish()
    worker.load(prepared, suite.workload.max_length)
    worker.ask(messages.Encode(texts))
    made = numbers(suite, texts)
    worker.ask(messages.WarmUp(made, made, "max_length", seconds=0.5, max_seconds=10.0))
    return worker


def numbers(suite: Suite, texts: list[str]) -> list[np.ndarray]:
    """Batches of `texts` as a worker is asked for them: int64 [texts] each."""
    size = suite.workload.batch_size[0]
    return [np.arange(start, start + size) for start in range(0, len(texts), size)]


def calls_of(worker: handle.Worker, batches: list[np.ndarray]) -> Callable[[float], list[float]]:
    """Has the worker time calls for so many seconds."""
    return lambda seconds: list(worker.ask(messages.TimeBlock(batches, "max_length", seconds, 0.02)).latencies_s)


def rounds(tools: list[Tool], count: int, seed: int) -> None:
    """`count` blocks of each, in an order that is shuffled anew each time."""
    shuffle = np.random.default_rng(seed)
    for _ in range(count):
        for turn in shuffle.permutation(len(tools)):
            tools[turn].latencies_s.append(tools[turn].time(BLOCK_S))


def table(tools: list[Tool], tokenizing_s: float) -> Table:
    """Each tool beside the bench's."""
    made = Table("Tool", "Median ms", "Beside", "Ratio, median", "Quartiles", "Rounds")
    workers = {tool.name: tool for tool in tools if tool.name == tool.beside}
    for tool in tools:
        mine = tool.medians_s()
        if tool.name == tool.beside:
            made.add_row(f"bench: {tool.name}", f"{np.median(mine) * 1e3:.1f}", "", "", "", f"{len(mine)}")
            continue
        texts_too = tool.name.startswith("pipeline")
        ratio = mine / (workers[tool.beside].medians_s() + tokenizing_s * texts_too)
        low, middle, high = np.percentile(ratio, [25, 50, 75])
        beside = tool.beside + (", tokenising too" if texts_too else "")
        quartiles = f"{low:.3f} to {high:.3f}"
        made.add_row(tool.name, f"{np.median(mine) * 1e3:.1f}", beside, f"{middle:.3f}", quartiles, f"{len(mine)}")
    return made


def across_processes(first: list[Tool], second: list[Tool], names: tuple[str, str]) -> str:
    """The second mean of medians over the first, with a 95% interval from the differences between processes."""
    mine, theirs = (np.log([np.median(tool.medians_s()) for tool in tools]) for tools in (first, second))
    apart = stats.ttest_ind(theirs, mine, equal_var=False).confidence_interval(0.95)
    ratio, low, high = np.exp([theirs.mean() - mine.mean(), apart.low, apart.high])
    listed = [", ".join(f"{value:.4g}" for value in np.exp(sorted(one)) * 1e3) for one in (mine, theirs)]
    return (
        f"{names[1]} over {names[0]}: {ratio:.3f} (95%: {low:.3f} to {high:.3f}); {names[0]} {listed[0]} ms; "
        f"{names[1]} {listed[1]} ms ({len(first)} processes each, {len(first[0].latencies_s)} rounds)"
    )


def ratios_of_other(interpreter: str, models: list[Path], given: dict[str, Any], repeats: int) -> list[float]:
    """The first model's median call over the second's by optimum-benchmark, `repeats` times."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "other.py"
        script.write_text(textwrap.dedent(OTHER_BENCHMARK))
        for _ in range(repeats):
            medians = []
            for model in models:
                command = [interpreter, str(script), json.dumps(given | {"model": str(model)})]
                done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
                medians.append(np.median(json.loads(done.stdout.splitlines()[-1])))
            found.append(float(medians[0] / medians[1]))
    return found


def spread(name: str, ratios: list[float]) -> str:
    """How far repeated ratios moved from their median."""
    middle = float(np.median(ratios))
    moved = [abs(ratio / middle - 1) for ratio in ratios]
    return f"{name}: {middle:.2f}, moved {np.mean(moved):.1%} on average, {max(moved):.1%} at most (n = {len(ratios)})"


def main(
    suite: Annotated[str, typer.Argument(help="A suite whose workload and model are taken.")],
    model: Annotated[str, typer.Option(help="The variant whose model is taken.")],
    second: Annotated[str | None, typer.Option(help="The variant whose model is held against it.")] = None,
    optimum_benchmark: Annotated[str | None, typer.Option(help="An interpreter that has it; needs --second.")] = None,
    count: Annotated[int, typer.Option("--rounds")] = 40,
    repeats: int = 5,
    processes: Annotated[int, typer.Option(min=1, help="Above 1: so many bare loops beside as many workers.")] = 1,
) -> None:
    read = load_suite(suite)
    read = read.model_copy(update={"workload": read.workload.model_copy(update={"padding": "max_length"})})
    base = read.variants[model]
    threads, size = host.usable_cores(), read.workload.batch_size[0]
    texts = corpus.load(read, read.workload).texts[: size * BATCHES]
    pairs = [("pytorch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32")]
    console = Console(width=None if sys.stdout.isatty() else 140)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        preparer = stack.enter_context(Preparer(read, threads=threads))
        variants = [
            base.model_copy(update={"name": f"{backend} {precision}", "title": None, "backend": backend,
                                    "precision": precision, "options": {}})
            for backend, precision in pairs
        ]  # fmt: skip
        prepared = {variant.name: made for variant, made in preparer.prepare_all(variants)}
        wrong = [f"{name}: {made}" for name, made in prepared.items() if not isinstance(made, Prepared)]
        if wrong:
            raise SystemExit("\n".join(wrong))
        source = prepared["pytorch fp32"].source.folder
        given = {
            "model": str(source), "threads": threads, "max_length": read.workload.max_length, "scratch": scratch,
            "batches": [texts[start : start + size] for start in range(0, len(texts), size)],
            "file": str(prepared["onnxruntime fp32"].folder / "model.onnx"),
        }  # fmt: skip
        workers = [of_bench(stack, variant, prepared[variant.name], read, texts) for variant in variants]
        timed = numbers(read, texts)
        tools = [Tool(one.variant.name, one.variant.name, calls_of(one, timed)) for one in workers]
        reply = workers[0].ask(messages.Tokenize(given["batches"] * 4, "max_length"))
        tokenizing_s = float(np.median(reply.latencies_s))
        for name, beside, code in (
            ("transformers, a bare loop", "pytorch fp32", BARE),
            ("pipeline of transformers", "pytorch fp32", PIPELINE),
            ("ONNX Runtime by hand", "onnxruntime fp32", ONNX),
            ("ONNX Runtime by hand, quantize_dynamic", "onnxruntime int8", QUANTISED + ONNX),
            ("OpenVINO by hand", "openvino fp32", OPENVINO),
        ):
            tools.append(by_hand(stack, name, beside, code, given))
        rounds(tools, count, read.workload.seed)
        console.print(table(tools, tokenizing_s))
    if processes > 1:
        with ExitStack() as stack:
            started = [of_bench(stack, variants[0], prepared[variants[0].name], read, texts) for _ in range(processes)]
            own = [Tool("worker", "worker", calls_of(one, timed)) for one in started]
            loops = [by_hand(stack, "loop", "worker", BARE, given) for _ in range(processes)]
            rounds([*own, *loops], count, read.workload.seed)
            console.print(across_processes(own, loops, ("workers", "bare loops")))
    if optimum_benchmark and second:
        with Preparer(read, threads=threads) as preparer:
            models = [preparer.source(read.variants[name].model).folder for name in (model, second)]
        shape = {"seconds": 10, "batch_size": size, "max_length": read.workload.max_length, "threads": threads}
        other = ratios_of_other(optimum_benchmark, models, shape, repeats)
        console.print(spread("optimum-benchmark, one model after the other", other))
        mine = [ratio_of_bench(read, [model, second], shape["seconds"]) for _ in range(repeats)]
        console.print(spread("the bench, interleaved for as long", mine))


def ratio_of_bench(suite: Suite, names: list[str], seconds: float) -> float:
    """The second model's speed-up over the first, both in PyTorch FP32, by a run that gives each so many seconds."""
    from engine.run import runner
    from engine.store import measurements, open_store

    plain = {"backend": "pytorch", "precision": "fp32", "options": {}}
    chosen = [suite.variants[name].model_copy(update=plain) for name in names]
    protocol = suite.protocol.model_copy(update={"max_seconds": 2.0 * seconds, "processes": 1, "ceilings": False})
    made = suite.model_copy(
        update={"name": f"{suite.name}-by-hand", "variant": chosen, "baseline": names[0], "protocol": protocol}
    )
    run_id = runner.run(made, "cpu")
    with open_store(create=False) as store, store.session() as session:
        row = next(row for row in measurements.measurements(session, run_id) if row.variant == names[1])
        assert row.speedup is not None
        return row.speedup


if __name__ == "__main__":
    typer.run(main)
