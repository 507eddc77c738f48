"""Training texts as encoded batches of like length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.artefacts.training.request import Progress
from engine.artefacts.training.tokenizers import CHUNK_TEXTS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

PADDING_STEP = 8
"""Batches are padded to a multiple of this, so that few shapes occur."""
POOL_BATCHES = 16
"""Examples are sorted by length within shuffled pools of this many batches."""


@dataclass
class Encoded:
    """Tokenised texts, padded on the right."""

    ids: torch.Tensor
    """int32 [texts, longest] on any device, padding included."""
    lengths: torch.Tensor
    """int64 [texts] on the host: tokens of each, padding not included."""
    frame: list[int]
    """Tokens that texts begin, end and are padded with; the padding comes first."""

    def to(self, device: str) -> Encoded:
        return Encoded(self.ids.to(device), self.lengths, self.frame)

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model's inputs for the texts at `indices` (on the host), padded to the longest of them."""
        import torch

        device = self.ids.device
        lengths = self.lengths[indices]
        longest = -(-int(lengths.max()) // PADDING_STEP) * PADDING_STEP
        longest = min(longest, self.ids.shape[1])
        mask = torch.arange(longest) < lengths[:, None]
        ids = self.ids[indices.to(device), :longest]
        return {"input_ids": ids.long(), "attention_mask": mask.long().to(device)}

    def mixed(
        self, indices: torch.Tensor, mixing: float, dropout: float, generator: torch.Generator
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """The inputs for the texts at `indices` changed at random, their partners' indices, and their own share.

        A share `mixing` of them are mixed with a partner (CutMix, Yun et al. 2019, on tokens): each token of
        the one is kept with a random chance, each of the other with the chance that is left. The answer to
        learn is mixed in proportion. A few hundred texts are soon known by heart otherwise. A share
        `dropout` of all tokens is left out besides. The drawn numbers are the host's on every device.
        """
        import torch

        count, width = len(indices), self.ids.shape[1]
        partners = torch.randint(len(self.lengths), (count,), generator=generator)
        share = torch.rand(count, generator=generator)
        share[torch.rand(count, generator=generator) >= mixing] = 1.0
        ids = torch.cat([self.ids[indices], self.ids[partners]], 1)
        lengths = torch.stack([self.lengths[indices], self.lengths[partners]], 1)
        chance = torch.stack([share, 1 - share], 1) * (1 - dropout)

        place = torch.arange(width).repeat(2)
        framing = torch.isin(ids, torch.tensor(self.frame, dtype=ids.dtype))
        keep = torch.rand(ids.shape, generator=generator) < chance.repeat_interleave(width, 1)
        keep &= (place < lengths.repeat_interleave(width, 1)) & ~framing
        # Two long texts may together exceed the width, of which the frame takes two.
        keep &= keep.cumsum(1) <= width - 2
        kept = torch.stack([keep[:, :width].sum(1), keep[:, width:].sum(1)], 1).float()
        share = torch.where(kept.sum(1) > 0, kept[:, 0] / kept.sum(1).clamp(min=1), share)
        keep[:, 0] |= framing[:, 0]
        rows, last = torch.arange(count), width + lengths[:, 1] - 1
        keep[rows, last] |= framing[rows, last]

        total = keep.sum(1)
        ids = ids.gather(1, (~keep).to(torch.uint8).argsort(dim=1, stable=True))
        ids = ids.masked_fill(torch.arange(2 * width) >= total[:, None], self.frame[0])[:, :width]
        return Encoded(ids, total, self.frame).batch(rows), partners, share


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int, progress: Progress) -> Encoded:
    """`texts` tokenised, each cut to `max_length` tokens."""
    import torch

    rows: list[list[int]] = []
    for start in range(0, len(texts), CHUNK_TEXTS):
        progress.report("tokenizing", start, len(texts))
        chunk = texts[start : start + CHUNK_TEXTS]
        rows += tokenizer(chunk, truncation=True, max_length=max_length)["input_ids"]
    progress.report("tokenizing", len(texts), len(texts))
    # The call above leaves its truncation in the tokenizer, and saving would write it out.
    tokenizer.backend_tokenizer.no_truncation()
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), tokenizer.pad_token_id, dtype=torch.int32)
    for row, target in zip(rows, ids, strict=True):
        target[: len(row)] = torch.tensor(row, dtype=torch.int32)
    frame = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    return Encoded(ids, lengths, [tokenizer.pad_token_id, *(token for token in frame if token is not None)])


def length_batches(lengths: torch.Tensor, batch_size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """One epoch: index tensors of examples of similar length, in shuffled order."""
    import torch

    batches: list[torch.Tensor] = []
    for pool in torch.randperm(len(lengths), generator=generator).split(POOL_BATCHES * batch_size):
        batches += pool[lengths[pool].argsort(stable=True)].split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
