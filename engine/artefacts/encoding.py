"""Texts to token ids, with the `tokenizers` library alone, and token ids to batches.

The folder it reads is written by `engine.artefacts.preparer`, from whatever tokenizer files a model came with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_settings.json"


@dataclass(frozen=True)
class Encoded:
    """Token ids of some examples, unpadded."""

    columns: dict[str, list[list[int]]]
    """Input name -> one list of ids an example."""
    lengths: np.ndarray
    """int64 [examples]: tokens an example, special tokens included."""
    truncated: np.ndarray
    """bool [examples]: the text was longer than max_length."""

    def __len__(self) -> int:
        return len(self.lengths)


class Encoder:
    """One tokenizer at one maximum length."""

    def __init__(self, folder: Path, max_length: int) -> None:
        from tokenizers import Tokenizer

        settings = json.loads((folder / SETTINGS).read_text())
        self.pad: dict[str, int] = settings["pad_ids"]
        """Input name -> padding value; its keys are the model's inputs."""
        self.left = settings["padding_side"] == "left"
        self.max_length = max_length
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length, direction=settings["truncation_side"])

    def encode(self, texts: list[str]) -> Encoded:
        """Token ids of `texts`, cut to the maximum length."""
        found = self._tokenizer.encode_batch(texts)
        read = {
            "input_ids": lambda e: e.ids,
            "attention_mask": lambda e: e.attention_mask,
            "token_type_ids": lambda e: e.type_ids,
        }
        return Encoded(
            {name: [read[name](item) for item in found] for name in self.pad},
            np.array([len(item.ids) for item in found], dtype=np.int64),
            np.array([bool(item.overflowing) for item in found], dtype=bool),
        )

    def batch(self, encoded: Encoded, positions: Any, padding: str) -> dict[str, np.ndarray]:
        """The examples at `positions` as int64 [examples, tokens] arrays.

        `padding` is "max_length" or "longest" (of this batch); "packed" gives int64 [tokens] arrays, and "lengths".
        """
        if padding == "packed":
            columns = {n: c for n, c in encoded.columns.items() if n != "attention_mask"}
            flat = {n: np.array([i for p in positions for i in c[p]], dtype=np.int64) for n, c in columns.items()}
            return flat | {"lengths": encoded.lengths[np.asarray(positions)]}
        longest = max(int(encoded.lengths[i]) for i in positions)
        width = self.max_length if padding == "max_length" else longest
        arrays = {}
        for name, rows in encoded.columns.items():
            array = np.full((len(positions), width), self.pad[name], dtype=np.int64)
            for line, position in enumerate(positions):
                ids = rows[position]
                if self.left:
                    array[line, width - len(ids) :] = ids
                else:
                    array[line, : len(ids)] = ids
            arrays[name] = array
        return arrays
