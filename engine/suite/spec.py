"""What to measure: suites as data, read from TOML and validated.

A suite names one workload, one protocol, one baseline and several variants. Everything here is
immutable and independent of any model library. A mistake in a file becomes one `RequestError` line with
the file, the key, the value found and the allowed values.
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
"""Upper limits on a protocol for a first look."""
QUICK_EXAMPLES = 200
"""The most examples for a first look."""


class Spec(BaseModel):
    """The base of all models of the bench's TOML files."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Workload(Spec):
    """The input: the examples and how they are batched."""

    dataset: Text
    """A hub id, or a path to CSV, Parquet or JSONL."""
    config: str | None = None
    """The hub data set's configuration ("subset"), if it has several."""
    revision: str | None = None
    split: Text = "test"
    text: Text = "text"
    label: str | None = None
    """The label column. Without it, variants are compared by agreement with the baseline."""
    labels: list[Text] | None = None
    """Label names in index order, if the data set does not name them."""
    examples: Annotated[int, Field(ge=0)] = 0
    """The number of examples, taken after a shuffle by `seed`; 0 takes all."""
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: list[Positive] = [8]
    """Examples per batch; each of several values gives its own measurement."""
    max_batch_tokens: Positive | None = None
    """The most tokens per batch, with padding. `batch_size` is then the most examples per batch."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """The number of tokens that an example is cut to, with special tokens."""
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
    """How the variants are measured."""

    rounds: Positive = 30
    block_seconds: Annotated[float, Field(gt=0, le=60)] = 0.1
    min_calls: Positive = 60
    max_seconds: Annotated[float, Field(gt=0)] = 120.0
    processes: Annotated[int, Field(ge=1, le=32)] = 1
    threads: Annotated[int, Field(ge=0)] = 0
    ceilings: bool = True
    """Whether a run first measures the device's ceilings, which takes some seconds."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 900.0
    """The longest time that a worker may take for one reply, even for loading. A worker that takes longer is ended."""
    quick: bool = False
    """Whether this is a first look (`Suite.shortened`), which is mentioned wherever its figures are shown."""


class Load(Spec):
    """A service's load, which a run applies to every measured variant (`engine.run.load`)."""

    p99_ms: Annotated[float, Field(ge=0.001, le=3_600_000)]
    """The limit on the 99th percentile of the time from a text's arrival to its answer."""
    max_batch: Annotated[int, Field(ge=1, le=65_536)] = 32
    """The most texts in one batch; a variant's own `batch_size` takes precedence."""
    max_wait_ms: Annotated[float, Field(ge=0)] = 0.0
    """The longest time that a text waits for others to join its batch."""

    @model_validator(mode="after")
    def _in_time(self) -> Load:
        if self.max_wait_ms >= self.p99_ms:
            raise ValueError(
                f"max_wait_ms: found {self.max_wait_ms:g}; allowed: less than p99_ms, {self.p99_ms:g}, because a "
                "text that waits that long is late"
            )
        return self


class NewTokenizer(Spec):
    """A WordPiece tokenizer trained on the checkpoint's data set."""

    vocab_size: Annotated[int, Field(ge=100)]


class Checkpoint(Spec):
    """A model that the suite trains if it does not exist yet."""

    name: Name
    base: str | None = None
    """A hub id or folder with the weights to start from."""
    architecture: dict[str, Any] | None = None
    """A transformers configuration (`model_type` and its fields) to start from random weights."""
    teacher: str | None = None
    """A hub id, folder or "checkpoint:NAME" to distil from; without one, plain fine-tuning."""
    teacher_labels: list[Text] | dict[str, Text] | Literal["by-order"] | None = None
    """The meaning of the teacher's outputs, as in a variant's `labels`, if its own label names do not tell."""
    revision: str | None = None
    """The revision of the base."""
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
    """The share of training texts mixed with another text, tokens and target in the same proportion (CutMix)."""
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of tokens dropped from the training texts at random, drawn anew at every step."""
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
        """The references to other checkpoints of the suite, by key."""
        return _of_the_suite(teacher=self.teacher, base=self.base, tokenizer=self.tokenizer)


def _of_the_suite(**references: object) -> dict[str, str]:
    """The `references` that name checkpoints of the same suite."""
    return {key: ref for key, ref in references.items() if isinstance(ref, str) and ref.startswith(CHECKPOINT)}


def _declared_labels(value: object) -> object:
    """Return `value` if it is a valid declaration of a model's outputs, else raise ValueError."""
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
    """One way of running one model: the unit of comparison."""

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
    """The published row to compare with, as "study/title"."""

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
        """The references to checkpoints of the suite, by key."""
        return _of_the_suite(model=self.model, tokenizer=self.tokenizer)

    @property
    def shown(self) -> str:
        """The title, or the name if there is no title."""
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
        """Leave out `load` if it is None. Suites are matched by their stored form, and older ones have no `load`."""
        values: dict[str, Any] = write(self)
        if values.get("load", values) is None:
            del values["load"]
        return values

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
        """Raise ValueError for a token budget that a batch cannot keep, or that never limits a batch."""
        workload = self.workload
        budget = variant.max_batch_tokens or workload.max_batch_tokens
        if budget is None:
            return
        own = variant.max_batch_tokens is not None
        where = f"variant {variant.name!r}: max_batch_tokens" if own else "workload.max_batch_tokens"
        most = variant.batch_size or max(workload.batch_size)
        if (variant.padding or workload.padding) == "max_length":
            raise ValueError(
                f"{where}: with texts padded to max_length all batches are alike: batch_size = "
                f"{max(1, budget // workload.max_length)} does the same; for variant {variant.name!r} set padding = "
                '"longest" or "packed"'
            )
        if not workload.max_length <= budget < most * workload.max_length:
            raise ValueError(
                f"{where}: found {budget}; allowed: from max_length, {workload.max_length}, to below what the largest "
                f"batch of variant {variant.name!r} can hold, {most} x {workload.max_length} tokens (batch_size is the "
                "most examples of a batch)"
            )

    def _order_of_making(self) -> list[Checkpoint]:
        """The checkpoints, each after the checkpoints that it needs. Raises ValueError on a cycle."""
        by_name = {c.name: c for c in self.checkpoint}
        ordered: list[Checkpoint] = []

        def visit(checkpoint: Checkpoint, above: tuple[str, ...]) -> None:
            if checkpoint.name in above:
                raise ValueError(f"checkpoints need each other: {' -> '.join((*above, checkpoint.name))}")
            for ref in checkpoint.needs.values():
                visit(by_name[ref.removeprefix(CHECKPOINT)], (*above, checkpoint.name))
            if checkpoint not in ordered:
                ordered.append(checkpoint)

        for checkpoint in self.checkpoint:
            visit(checkpoint, ())
        return ordered

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
        """How to refer to this suite on a command line: its name, its file, or SUITE if neither is known."""
        file = self.folder / f"{self.name}.toml"
        if suite_files().get(self.name) == file:
            return self.name
        return str(file) if file.is_file() else "SUITE"

    def locate(self, reference: str) -> Path | None:
        """The absolute path that `reference` names, relative to the suite's folder; None for a hub id."""
        spelled = reference.startswith((".", "/", "~")) or reference.lower().endswith(DATA_FILES)
        try:
            path = self.folder / Path(reference).expanduser()
            return path.resolve() if spelled or path.exists() else None
        except (OSError, ValueError, RuntimeError) as error:
            raise RequestError(f"{reference!r} is not a usable path: {one_line(error)}") from error

    def select(self, names: list[str]) -> Suite:
        """This suite with only the variants `names` and the baseline, in the file's order.

        Raises RequestError for a name that is not in the suite.
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
        """This suite as a first look: fewer rounds and fewer of its `count` examples, so wider intervals."""
        least = max(*self.workload.batch_size, *(v.batch_size or 1 for v in self.variant))
        protocol = {key: min(value, getattr(self.protocol, key)) for key, value in QUICK.items()}
        return self.model_copy(
            update={
                "workload": self.workload.model_copy(update={"examples": min(count, max(least, QUICK_EXAMPLES))}),
                "protocol": self.protocol.model_copy(update=protocol | {"ceilings": False, "quick": True}),
            }
        )

    def checkpoint_workload(self, checkpoint: Checkpoint) -> Workload:
        """The examples that `checkpoint` is trained on: its own keys override the workload's."""
        own = {
            key: value
            for key in ("dataset", "config", "split", "text", "label", "labels", "max_length")
            if (value := getattr(checkpoint, key)) is not None
        }
        if "dataset" in own:
            # The configuration and revision of the workload belong to its own data set.
            own = {"config": None, "revision": None} | own
        return self.workload.model_copy(update=own | {"examples": checkpoint.examples, "seed": checkpoint.seed})


def suite_files() -> dict[str, Path]:
    """The suites that come with the bench: name -> file."""
    return {path.stem: path for path in sorted(paths.SUITES.glob("*.toml"))}


def toml_key(part: object) -> str:
    """A key as written in TOML: in quotes if it is not a bare key."""
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else repr(text)
