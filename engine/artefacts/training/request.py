"""Reads and checks the request to a training process."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import RequestError, did_you_mean, one_line, says_out_of_memory

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised whenever the same request would give other weights or another tokenizer: checkpoints are cached by it."""
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SOFT_WEIGHT = 0.7
"""The share of the teacher's answers in the loss; the labels, where there are any, have the rest."""
REPORT_SECONDS = 0.3


class TokenizerFolder(BaseModel):
    """An existing tokenizer."""

    model_config = ConfigDict(extra="forbid")
    folder: Path


class TokenizerSize(BaseModel):
    """A WordPiece tokenizer to train on the texts."""

    model_config = ConfigDict(extra="forbid")
    vocab_size: Annotated[int, Field(ge=len(SPECIAL_TOKENS) + 1)]


class Request(BaseModel):
    """All that one checkpoint needs; references are already resolved to folders."""

    model_config = ConfigDict(extra="forbid")

    target: Path
    """An existing, empty folder."""
    name: str
    base: Path | None = None
    architecture: dict[str, Any] | None = None
    teacher: Path | None = None
    teacher_mapping: list[int] | None = None
    """The teacher's label index -> index in `label_names`; None where both have the same order."""
    tokenizer: TokenizerFolder | TokenizerSize
    texts: list[str]
    labels: list[int] | None = None
    label_names: Annotated[list[str], Field(min_length=2)]
    max_length: Annotated[int, Field(ge=2)]
    epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of the training texts that are mixed with another, drawn anew at every step: see `Encoded.mixed`."""
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of the tokens left out of the training texts, drawn anew at every step."""
    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    threads: Annotated[int, Field(ge=0)] = 0

    @property
    def method(self) -> Literal["random", "fine-tuned", "distilled"]:
        if self.epochs == 0:
            return "random"
        return "distilled" if self.teacher else "fine-tuned"


class Progress:
    """Writes the JSON lines; several times a second at most within a phase."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self.write = write
        self.phase = ""
        self.began = self.last = 0.0

    def report(self, phase: str, done: int, total: int, loss: torch.Tensor | None = None) -> None:
        """Write a line where one is due: a phase's first, its last, and some between.

        `loss` is read from its device only then. `seconds_left` is this phase's, None before it can be told.
        """
        now = time.perf_counter()
        if phase != self.phase:
            self.phase, self.began = phase, now
        elif done < total and now - self.last < REPORT_SECONDS:
            return
        self.last = now
        spent = now - self.began
        value = math.nan if loss is None else loss.item()
        self.write(
            {
                "phase": phase,
                "done": done,
                "total": total,
                "loss": round(value, 4) if math.isfinite(value) else None,
                "seconds_left": round(spent / done * (total - done), 1) if done and spent else None,
            }
        )


def check_request(request: Request) -> None:
    """Raises RequestError where parts of the request contradict each other."""
    if (request.base is None) == (request.architecture is None):
        raise RequestError(f"checkpoint {request.name!r}: needs either a base or an architecture, not both")
    if isinstance(request.tokenizer, TokenizerSize) and not any(text.strip() for text in request.texts):
        raise RequestError(f"checkpoint {request.name!r}: there are no texts to train a tokenizer on")
    if request.labels is not None:
        if len(request.labels) != len(request.texts):
            raise RequestError(
                f"checkpoint {request.name!r}: {len(request.labels)} labels for {len(request.texts)} texts"
            )
        known = len(request.label_names)
        wrong = next((label for label in request.labels if not 0 <= label < known), None)
        if wrong is not None:
            raise RequestError(
                f"checkpoint {request.name!r}: label {wrong} is none of the {known} labels: "
                f"{', '.join(request.label_names)}"
            )
    if not request.epochs:
        return
    if not request.texts:
        raise RequestError(f"checkpoint {request.name!r}: there are no texts to learn from")
    if request.labels is None and request.teacher is None:
        raise RequestError(
            f"checkpoint {request.name!r}: the texts have no labels, so it needs a teacher; "
            "name the label column, give a teacher, or set epochs = 0 for random weights"
        )
    if request.teacher_mapping is not None and sorted(request.teacher_mapping) != list(range(len(request.label_names))):
        raise RequestError(
            f"checkpoint {request.name!r}: teacher_mapping {request.teacher_mapping} is not an order of "
            f"the {len(request.label_names)} labels"
        )


def check_architecture(architecture: dict[str, Any]) -> None:
    """Raises RequestError for a model type or key that transformers does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    kind = architecture.get("model_type")
    kinds = list(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    if kind not in kinds:
        raise RequestError(
            f"architecture: model_type {kind!r} is not a text classifier of transformers; "
            f"allowed: bert, distilbert and {len(kinds) - 2} more{did_you_mean(str(kind), kinds)}"
        )
    config_class = CONFIG_MAPPING[kind]
    parameters = inspect.signature(config_class.__init__).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    known += [alias for alias in config_class.attribute_map if alias not in known]
    for key in architecture:
        if key != "model_type" and key not in known:
            raise RequestError(
                f"architecture: unknown key {key!r} of model_type {kind!r}; "
                f"allowed: {', '.join(known)}{did_you_mean(key, known)}"
            )


@contextmanager
def user_error_about(what: str) -> Iterator[None]:
    """Turn whatever a library raises about a user's folder or settings into one line about `what`."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"{what}: {one_line(error)}") from error


@contextmanager
def enough_memory(request: Request, what: str, remedy: str) -> Iterator[None]:
    """Turn memory that is not there, in whoever's words, into one line: no room for `what`, and the `remedy`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not says_out_of_memory(f"{type(error).__name__} {error}"):
            raise
        raise RequestError(
            f"checkpoint {request.name!r}: the memory of {request.device} has no room for {what}; {remedy}"
        ) from error


def soft_weight(request: Request) -> float:
    return 1.0 if request.labels is None else SOFT_WEIGHT


def read_request(path: Path) -> Request:
    """The request in the file `path`. Raises RequestError where it is not one."""
    try:
        return Request.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RequestError(f"request {path}: {one_line(error)}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"request {path}: {key}: {first['msg']}") from error
