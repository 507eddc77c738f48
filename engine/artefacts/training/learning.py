"""The training loop: optimizer, schedule, loss and the teacher's logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from engine.artefacts.training import batches, starting, tokenizers
from engine.artefacts.training.batches import Encoded
from engine.artefacts.training.request import SOFT_WEIGHT, Progress, Request, enough_memory
from engine.errors import RequestError, one_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WARMUP = 0.1
"""The share of the steps over which the learning rate rises."""
TEACHER_BATCH = 32
"""Texts that a teacher answers together, at least: without gradients it needs less memory than its student."""


# Training


def learn(
    request: Request, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, progress: Progress
) -> dict[str, Any]:
    """Train `model` in place and bring it back to the host; facts about it."""
    import torch

    encoded = batches.encode_texts(tokenizer, request.texts, request.max_length, progress)
    try:
        soft = None if request.teacher is None else _teacher_logits(request, progress)
        # Loading a teacher draws random numbers too; the student's should not depend on that.
        torch.manual_seed(request.seed)
        remedy = f"lower batch_size, which is {request.batch_size}, or max_length, or free some of it"
        with enough_memory(request, f"training in batches of {request.batch_size}", remedy):
            facts = _train(request, model, encoded, soft, progress)
        # Not where it failed: a device that is full or broken gives nothing back, and that error hid the first.
        model.to("cpu")  # type: ignore[arg-type]
        return facts
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise RequestError(
            f"checkpoint {request.name!r}: {model.config.model_type} has no deterministic training on "
            f"{request.device}; make it on the cpu: {one_line(error, 160)}"
        ) from error


def _fast_bf16(device: str) -> bool:
    """Whether `device` multiplies bfloat16 in hardware."""
    import torch

    if device == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _autocast(device: str) -> torch.autocast:
    """bfloat16 arithmetic where the device is fast at it; the weights stay float32."""
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=_fast_bf16(device))


def _teacher_logits(request: Request, progress: Progress) -> torch.Tensor:
    """The teacher's float32 logits [texts, labels], in the order of `label_names`, on the device.

    Raises RequestError where the teacher is no trained classifier of these labels.
    """
    import torch

    assert request.teacher is not None
    model, info = starting.load_model("teacher", request.teacher)
    count = len(request.label_names)
    if info["missing_keys"]:
        raise RequestError(
            f"teacher {request.teacher}: is no trained classifier; its file lacks "
            f"{', '.join(sorted(info['missing_keys'])[:3])}"
        )
    if getattr(model.config, "inference_bench", {}).get("random_weights"):
        raise RequestError(f"teacher {request.teacher}: has random weights (epochs = 0): nothing to learn from it")
    if model.config.num_labels != count:
        raise RequestError(
            f"teacher {request.teacher}: has {model.config.num_labels} labels, the data set {count}: "
            f"{', '.join(request.label_names)}"
        )
    tokenizer = tokenizers.load_tokenizer(request.teacher)
    length = min(request.max_length, tokenizers.max_positions(model) or request.max_length)
    encoded = batches.encode_texts(tokenizer, request.texts, length, progress)
    order = encoded.lengths.argsort(stable=True)

    logits = torch.empty(len(request.texts), count)
    size, done = max(TEACHER_BATCH, request.batch_size), 0
    smaller = "lower batch_size or max_length" if request.batch_size > TEACHER_BATCH else "lower max_length"
    progress.report("teacher", done, len(order))
    with enough_memory(request, f"the teacher's answers to batches of {size}", f"{smaller}, or free some of it"):
        encoded = encoded.to(request.device)
        model.to(request.device).eval()  # type: ignore[arg-type]
        with torch.inference_mode(), _autocast(request.device):
            for indices in order.split(size):
                logits[indices] = model(**encoded.batch(indices)).logits.float().cpu()
                done += len(indices)
                progress.report("teacher", done, len(order))
    if request.teacher_mapping is not None:
        aligned = torch.empty_like(logits)
        aligned[:, request.teacher_mapping] = logits
        logits = aligned
    return logits.to(request.device)


def _train(
    request: Request,
    model: PreTrainedModel,
    encoded: Encoded,
    soft: torch.Tensor | None,
    progress: Progress,
) -> dict[str, Any]:
    """AdamW over `request.epochs`; loss, accuracy and agreement are means over the last epoch's examples.

    Of a mixed text, the label and the teacher's answer are those of the text with the larger share.
    """
    import torch
    from torch.nn.functional import log_softmax, one_hot

    device = request.device
    model.to(device).train()  # type: ignore[arg-type]
    changed = request.mixing > 0 or request.token_dropout > 0
    if not changed:
        encoded = encoded.to(device)
    labels = None if request.labels is None else torch.tensor(request.labels, device=device)
    # Log-probabilities [texts, labels] to learn; mixing needs them as such.
    hard_goals = None if labels is None else one_hot(labels, len(request.label_names)).float().log()
    soft_goals = None if soft is None else log_softmax(soft / request.temperature, -1)
    optimizer = _optimizer(model, request.learning_rate)
    generator = torch.Generator().manual_seed(request.seed)
    epoch_steps = math.ceil(len(request.texts) / request.batch_size)
    steps = max(1, round(request.epochs * epoch_steps))
    tail = max(0, steps - epoch_steps)

    # Sums over the last epoch stay on the device: reading them at every step would wait for it.
    loss_sum, right_sum, agree_sum = torch.zeros(3, dtype=torch.float64, device=device).unbind()
    seen = step = 0
    progress.report("training", 0, steps)
    while step < steps:
        for indices in batches.length_batches(encoded.lengths, request.batch_size, generator)[: steps - step]:
            for group in optimizer.param_groups:
                group["lr"] = request.learning_rate * _schedule(step, steps)
            partners, share = indices, None
            if changed:
                options = request.mixing, request.token_dropout
                inputs, partners, share = encoded.mixed(indices, *options, generator)
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
            else:
                inputs = encoded.batch(indices)
            with _autocast(device):
                logits = model(**inputs).logits
            hard_batch, soft_batch = (
                None if goals is None else _mixed_goals(goals, indices, partners, share)
                for goals in (hard_goals, soft_goals)
            )
            loss = _loss(logits.float(), hard_batch, soft_batch, request.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step >= tail:
                answers = logits.detach().argmax(-1)
                seen += len(indices)
                loss_sum += loss.detach() * len(indices)
                right_sum += 0 if hard_batch is None else (answers == hard_batch.argmax(-1)).sum()
                agree_sum += 0 if soft_batch is None else (answers == soft_batch.argmax(-1)).sum()
            step += 1
            progress.report("training", step, steps, loss.detach())
    final_loss = loss_sum.item() / seen
    if not math.isfinite(final_loss):
        raise RequestError(
            f"checkpoint {request.name!r}: training diverged (the loss is {final_loss}); "
            f"lower learning_rate, which is {request.learning_rate:g}"
        )
    return {
        "steps": steps,
        "final_loss": final_loss,
        "train_accuracy": None if labels is None else right_sum.item() / seen,
        "teacher_agreement": None if soft is None else agree_sum.item() / seen,
        "bf16_autocast": _fast_bf16(device),
    }


def _optimizer(model: PreTrainedModel, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices alone: biases and normalisation layers have one dimension."""
    import torch

    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def _schedule(step: int, steps: int) -> float:
    """The share of the learning rate at `step`: up linearly over the warm-up, then down to 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


def _mixed_goals(
    goals: torch.Tensor, indices: torch.Tensor, partners: torch.Tensor, share: torch.Tensor | None
) -> torch.Tensor:
    """The log-probabilities to learn for texts mixed with their partners; `share` None: not mixed."""
    import torch

    own = goals[indices.to(goals.device)]
    if share is None:
        return own
    share = share.to(goals.device)[:, None]
    return torch.logaddexp(own + share.log(), goals[partners.to(goals.device)] + (1 - share).log())


def _loss(
    logits: torch.Tensor, labels: torch.Tensor | None, soft: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """Cross-entropy with the labels, or distillation from the teacher's answers, or both.

    Both are log-probabilities [n, labels], the teacher's at the temperature. The KL term grows with the
    temperature's square, so that its gradient keeps its size (Hinton et al. 2015).
    """
    from torch.nn.functional import cross_entropy, kl_div, log_softmax

    if soft is None:
        assert labels is not None
        return cross_entropy(logits, labels.exp())
    student = log_softmax(logits / temperature, -1)
    distance = kl_div(student, soft, reduction="batchmean", log_target=True) * temperature**2
    if labels is None:
        return distance
    return SOFT_WEIGHT * distance + (1 - SOFT_WEIGHT) * cross_entropy(logits, labels.exp())
