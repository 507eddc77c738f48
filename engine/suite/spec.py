"""What to measure: suites as data, read from TOML and validated.

A suite names one workload, one protocol, one baseline and several variants. Everything here is
immutable and knows no model library. A mistake in a file becomes one `RequestError` line that names
the file, the key, what was found, what is allowed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from engine import paths
from engine.errors import RequestError, did_you_mean, one_line

Precision = Literal["fp32", "tf32", "fp16", "bf16", "nf4", "fp4", "int8"]
Padding = Literal["max_length", "longest", "packed"]
Order = Literal["given", "length"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
CHECKPOINT = "checkpoint:"
DATA_FILES = (".csv", ".parquet", ".jsonl", ".json")


QUICK = {"rounds": 8, "block_seconds": 0.05, "min_calls": 16, "max_seconds": 15.0, "processes": 1}
"""What a first look takes at most of a protocol ..."""
QUICK_EXAMPLES = 200
"""... and of the examples."""


class Spec(BaseModel):
    """What a TOML file of ours may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Workload(Spec):
    """The input: which examples, in which batches."""

    dataset: Text
    """A hub id, or a path to CSV, Parquet or JSONL."""
    config: str | None = None
    """The hub data set's configuration ("subset"), where it has several."""
    revision: str | None = None
    split: Text = "test"
    text: Text = "text"
    label: str | None = None
    """The label column; without one, variants are compared by agreement with the baseline."""
    labels: list[Text] | None = None
    """Label names in index order, where the data set does not name them."""
    examples: Annotated[int, Field(ge=0)] = 0
    """How many examples, taken after a shuffle by `seed`; 0 takes all."""
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: list[Positive] = [8]
    """Examples a batch; several values give one measurement each."""
    max_batch_tokens: Positive | None = None
    """Tokens a batch, padding included, at most; `batch_size` then is the most examples of a batch."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens an example is cut to, special tokens included."""
    padding: Padding = "max_length"
    order: Order = "given"

    @field_validator("batch_size", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("batch_size")
    @classmethod
    def _not_empty(cls, value: list[int]) -> list[int]:
        if not value:
            raise ValueError("is empty; give a number or a list of numbers")
        return sorted(set(value))

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (len(value) < 2 or len(set(value)) < len(value)):
            raise ValueError("needs at least two different names")
        return value


class Protocol(Spec):
    """How it is measured."""

    rounds: Positive = 30
    block_seconds: Annotated[float, Field(gt=0, le=60)] = 0.1
    min_calls: Positive = 60
    max_seconds: Annotated[float, Field(gt=0)] = 120.0
    processes: Annotated[int, Field(ge=1, le=32)] = 1
    threads: Annotated[int, Field(ge=0)] = 0
    ceilings: bool = True
    """Whether a run measures first what the device can do: some seconds."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 900.0
    """The longest that a worker may take for one answer, loading included; then it counts as hung and is ended."""
    quick: bool = False
    """A first look (`Suite.shortened`): said wherever its figures are shown."""


class Load(Spec):
    """A service's load, which a run puts every measured variant under (`engine.run.load`)."""

    p99_ms: Annotated[float, Field(ge=0.001, le=3_600_000)]
    """What the 99th percentile of the time from a text's arrival to its answer must be within."""
    max_batch: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Texts answered together, at most; a variant's own `batch_size` stands before it."""
    max_wait_ms: Annotated[float, Field(ge=0)] = 0.0
    """How long a text waits for others, at most."""

    @model_validator(mode="after")
    def _in_time(self) -> Load:
        if self.max_wait_ms >= self.p99_ms:
            raise ValueError(
                f"max_wait_ms: found {self.max_wait_ms:g}; allowed: less than p99_ms, {self.p99_ms:g}, as who has "
                "waited so long is late"
            )
        return self


class NewTokenizer(Spec):
    """A WordPiece tokenizer trained on the checkpoint's data set."""

    vocab_size: Annotated[int, Field(ge=100)]


class Checkpoint(Spec):
    """A model that the suite makes when it is not there yet."""

    name: Name
    base: str | None = None
    """A hub id or folder whose weights to start from."""
    architecture: dict[str, Any] | None = None
    """A transformers configuration (`model_type` and its fields) to start from random weights."""
    teacher: str | None = None
    """A hub id, folder or "checkpoint:NAME" to distil from; without one, plain fine-tuning."""
    teacher_labels: list[Text] | dict[str, Text] | Literal["by-order"] | None = None
    """What the teacher's outputs mean, as in a variant's `labels`, where its own names do not say."""
    revision: str | None = None
    """Of the base."""
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    text: str | None = None
    label: str | None = None
    labels: list[Text] | None = None
    examples: Annotated[int, Field(ge=0)] = 0
    max_length: Annotated[int, Field(ge=2)] | None = None
    tokenizer: str | NewTokenizer | None = None
    """"teacher", a hub id, a folder, or { vocab_size = N }; by default the base's or the teacher's."""
    epochs: Annotated[float, Field(ge=0)] = 3.0
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    batch_size: Positive = 32
    temperature: Annotated[float, Field(gt=0)] = 2.0
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of training texts mixed with another, tokens and answer in one proportion (CutMix)."""
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of tokens left out of the training texts at random, anew at every step."""
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("teacher_labels", mode="before")
    @classmethod
    def _teacher_labels(cls, value: object) -> object:
        return _declared_labels(value)

    @model_validator(mode="after")
    def _one_start(self) -> Checkpoint:
        if (self.base is None) == (self.architecture is None):
            raise ValueError("needs either 'base' or 'architecture', not both")
        if self.architecture is not None and not isinstance(self.architecture.get("model_type"), str):
            raise ValueError('architecture needs model_type, such as "distilbert" or "bert"')
        if self.tokenizer == "teacher" and self.teacher is None:
            raise ValueError('tokenizer = "teacher" needs a teacher')
        if self.architecture is not None and self.tokenizer is None and self.teacher is None:
            raise ValueError("needs a tokenizer: an id, a folder, or { vocab_size = N }")
        return self

    @property
    def needs(self) -> dict[str, str]:
        """Those of its references that name other checkpoints of the suite, by key."""
        return _of_the_suite(teacher=self.teacher, base=self.base, tokenizer=self.tokenizer)


def _of_the_suite(**references: object) -> dict[str, str]:
    """Those of `references` that name checkpoints of the same suite."""
    return {key: ref for key, ref in references.items() if isinstance(ref, str) and ref.startswith(CHECKPOINT)}


def _declared_labels(value: object) -> object:
    """`value`, if it may declare what a model's outputs mean. Raises ValueError otherwise."""
    ok = value is None or value == "by-order"
    ok = ok or (isinstance(value, list) and all(isinstance(item, str) and item for item in value))
    ok = ok or (isinstance(value, dict) and all(isinstance(item, str) and item for item in value.values()))
    if not ok:
        raise ValueError(
            f"found {value!r}; allowed: a list of names, a map from the model's labels to the "
            'data set\'s, or "by-order"'
        )
    return value


class Variant(Spec):
    """One way of running one model: the unit compared."""

    name: Name
    title: str = ""
    model: Text
    """A hub id, a folder, or "checkpoint:NAME" of the same suite."""
    backend: Text
    precision: Precision
    revision: str | None = None
    tokenizer: str | None = None
    labels: list[Text] | dict[str, Text] | Literal["by-order"] | None = None
    batch_size: Positive | None = None
    max_batch_tokens: Positive | None = None
    padding: Padding | None = None
    order: Order | None = None
    options: dict[str, Any] = {}
    published: str | None = None
    """The published row to stand beside, as "study/title"."""

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        return _declared_labels(value)

    @model_validator(mode="after")
    def _known_backend(self) -> Variant:
        from engine import backends

        cls = backends.get(self.backend)
        if self.precision not in cls.precisions:
            raise ValueError(
                f"precision {self.precision!r} is not one of backend {self.backend!r}; "
                f"allowed: {', '.join(cls.precisions)}"
            )
        cls.parse_options(self.options)
        if self.precision != "int8" and (idle := [key for key in cls.int8_options if key in self.options]):
            raise ValueError(f"options.{idle[0]}: is for precision 'int8'; this variant's is {self.precision!r}")
        return self

    @property
    def needs(self) -> dict[str, str]:
        """Those of its references that name checkpoints of the suite, by key."""
        return _of_the_suite(model=self.model, tokenizer=self.tokenizer)

    @property
    def shown(self) -> str:
        """The title, or the name where there is none."""
        return self.title or self.name


class Suite(Spec):
    """One workload, one protocol, one baseline, several variants."""

    name: Name
    title: str = ""
    description: str = ""
    baseline: Name
    workload: Workload
    protocol: Protocol = Protocol()
    load: Load | None = None
    """None: the variants are not put under load."""
    checkpoint: list[Checkpoint] = []
    variant: Annotated[list[Variant], Field(min_length=1)]
    folder: Path = Field(default=Path(), exclude=True, strict=False)
    """The folder of the suite file: relative paths start there."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A suite without load is stored as it was before there was any: it is known again by what is stored."""
        made: dict[str, Any] = write(self)
        if made.get("load", made) is None:
            del made["load"]
        return made

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        for kind, names in (
            ("variant", [v.name for v in self.variant]),
            ("checkpoint", [c.name for c in self.checkpoint]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two of [[{kind}]] are named {name!r}; names must differ")
        names = [v.name for v in self.variant]
        if self.baseline not in names:
            raise ValueError(
                f"baseline {self.baseline!r} is not a variant of this suite; allowed: "
                + ", ".join(names)
                + did_you_mean(self.baseline, names)
            )
        made = [c.name for c in self.checkpoint]
        for where, ref in [
            *((f"variant {v.name!r}: {key}", ref) for v in self.variant for key, ref in v.needs.items()),
            *((f"checkpoint {c.name!r}: {key}", ref) for c in self.checkpoint for key, ref in c.needs.items()),
        ]:
            if ref.removeprefix(CHECKPOINT) not in made:
                raise ValueError(
                    f"{where} {ref!r} names no [[checkpoint]] of this suite; "
                    f"allowed: {', '.join(made) or 'none is declared'}"
                    + did_you_mean(ref.removeprefix(CHECKPOINT), made)
                )
        for variant in self.variant:
            self._check_budget(variant)
        self._order_of_making()
        return self

    def _check_budget(self, variant: Variant) -> None:
        """Raises ValueError for a token budget that no batch could keep, or that none would notice."""
        workload = self.workload
        budget = variant.max_batch_tokens or workload.max_batch_tokens
        if budget is None:
            return
        own = variant.max_batch_tokens is not None
        where = f"variant {variant.name!r}: max_batch_tokens" if own else "workload.max_batch_tokens"
        most = variant.batch_size or max(workload.batch_size)
        if (variant.padding or workload.padding) == "max_length":
            raise ValueError(
                f"{where}: of texts padded to max_length all batches are alike: batch_size = "
                f"{max(1, budget // workload.max_length)} says the same; for variant {variant.name!r} set padding = "
                '"longest" or "packed"'
            )
        if not workload.max_length <= budget < most * workload.max_length:
            raise ValueError(
                f"{where}: found {budget}; allowed: from max_length, {workload.max_length}, to below what the largest "
                f"batch of variant {variant.name!r} can hold, {most} x {workload.max_length} tokens (batch_size is the "
                "most examples of a batch)"
            )

    def _order_of_making(self) -> list[Checkpoint]:
        """The checkpoints, each after those that it needs. Raises ValueError on a cycle."""
        by_name = {c.name: c for c in self.checkpoint}
        done: list[Checkpoint] = []

        def visit(checkpoint: Checkpoint, above: tuple[str, ...]) -> None:
            if checkpoint.name in above:
                raise ValueError(f"checkpoints need each other: {' -> '.join((*above, checkpoint.name))}")
            for ref in checkpoint.needs.values():
                visit(by_name[ref.removeprefix(CHECKPOINT)], (*above, checkpoint.name))
            if checkpoint not in done:
                done.append(checkpoint)

        for checkpoint in self.checkpoint:
            visit(checkpoint, ())
        return done

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """Checkpoints by name, in an order in which they can be made."""
        return {c.name: c for c in self._order_of_making()}

    @property
    def variants(self) -> dict[str, Variant]:
        """Variants by name, in the file's order."""
        return {v.name: v for v in self.variant}

    @property
    def reference(self) -> str:
        """What to call this suite on a command line: its name, its file, or SUITE where neither is known."""
        file = self.folder / f"{self.name}.toml"
        if suite_files().get(self.name) == file:
            return self.name
        return str(file) if file.is_file() else "SUITE"

    def locate(self, reference: str) -> Path | None:
        """The absolute path that `reference` means beside this suite, or None for a hub id."""
        spelled = reference.startswith((".", "/", "~")) or reference.lower().endswith(DATA_FILES)
        try:
            path = self.folder / Path(reference).expanduser()
            return path.resolve() if spelled or path.exists() else None
        except (OSError, ValueError, RuntimeError) as error:
            raise RequestError(f"{reference!r} is no usable path: {one_line(error)}") from error

    def select(self, names: list[str]) -> Suite:
        """This suite with the variants `names` and the baseline alone, in the file's order.

        Raises RequestError for a name that the suite has not.
        """
        known = list(self.variants)
        for name in names:
            if name not in known:
                raise RequestError(
                    f"suite {self.name!r} has no variant {name!r}; allowed: {', '.join(known)}"
                    + did_you_mean(name, known)
                )
        keep = {*names, self.baseline}
        return self.model_copy(update={"variant": [v for v in self.variant if v.name in keep]})

    def each_batch_size(self) -> list[Suite]:
        """This suite once for each batch size of its workload."""
        sizes = [self.workload.model_copy(update={"batch_size": [size]}) for size in self.workload.batch_size]
        return [self.model_copy(update={"workload": workload}) for workload in sizes]

    def shortened(self, count: int) -> Suite:
        """This suite as a first look at it: fewer rounds and examples of the `count` there are, so wider intervals."""
        least = max(*self.workload.batch_size, *(v.batch_size or 1 for v in self.variant))
        protocol = {key: min(value, getattr(self.protocol, key)) for key, value in QUICK.items()}
        return self.model_copy(
            update={
                "workload": self.workload.model_copy(update={"examples": min(count, max(least, QUICK_EXAMPLES))}),
                "protocol": self.protocol.model_copy(update=protocol | {"ceilings": False, "quick": True}),
            }
        )

    def checkpoint_workload(self, checkpoint: Checkpoint) -> Workload:
        """The examples that `checkpoint` learns from: its own keys over the workload's."""
        own = {
            key: value
            for key in ("dataset", "config", "split", "text", "label", "labels", "max_length")
            if (value := getattr(checkpoint, key)) is not None
        }
        if "dataset" in own:
            # The workload's configuration and revision belong to another data set.
            own = {"config": None, "revision": None} | own
        return self.workload.model_copy(update=own | {"examples": checkpoint.examples, "seed": checkpoint.seed})


def suite_files() -> dict[str, Path]:
    """The suites that come with the bench: name -> file."""
    return {path.stem: path for path in sorted(paths.SUITES.glob("*.toml"))}


def toml_key(part: object) -> str:
    """A key as TOML has it: in quotes where it is no plain word."""
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else repr(text)
