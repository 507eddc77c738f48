"""The model that training starts from: a base, or a new one of a given architecture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artefacts.training.request import Request, user_error_about
from engine.artefacts.training.tokenizers import max_positions
from engine.errors import RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

# Model


def make_model(request: Request, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The float32 model to train, on the host; new weights are drawn from torch's random numbers."""
    head = {
        "id2label": dict(enumerate(request.label_names)),
        "label2id": {name: index for index, name in enumerate(request.label_names)},
        "problem_type": "single_label_classification",
    }
    # On the CPU the backward pass of torch's fused attention is slow in bfloat16.
    attention = "eager" if request.device == "cpu" else None
    if request.base is not None:
        model = _load_base(request.base, head, attention)
        what = f"base {request.base}"
    else:
        model = _new_model(dict(request.architecture or {}), head, attention, tokenizer)
        what = "architecture"
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    if rows < len(tokenizer):
        raise RequestError(f"{what}: a vocab_size of {rows} is too small for the tokenizer's {len(tokenizer)} tokens")
    model.config.pad_token_id = tokenizer.pad_token_id
    positions = max_positions(model)
    if positions is not None and positions < request.max_length:
        raise RequestError(
            f"{what}: takes at most {positions} tokens, but max_length is {request.max_length}; "
            "lower max_length or raise max_position_embeddings"
        )
    return model


def _new_model(
    architecture: dict[str, Any],
    head: dict[str, Any],
    attention: str | None,
    tokenizer: PreTrainedTokenizerFast,
) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    padding = architecture.setdefault("pad_token_id", tokenizer.pad_token_id)
    if padding != tokenizer.pad_token_id:
        raise RequestError(
            f"architecture: pad_token_id is {padding}, but the tokenizer pads with {tokenizer.pad_token_id}; "
            "leave the key out"
        )
    architecture.setdefault("vocab_size", len(tokenizer))
    with user_error_about("architecture"):
        config: PretrainedConfig = AutoConfig.for_model(**architecture, **head)
        return AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )


def _load_base(folder: Path, head: dict[str, Any], attention: str | None) -> PreTrainedModel:
    """The encoder in `folder` with a head for the labels, new where the old one has another shape."""
    options = {**head, "attn_implementation": attention, "ignore_mismatched_sizes": True}
    model, info = load_model("base", folder, **options)
    encoder = model.base_model_prefix + "."
    lost = [key for key, *_ in info["mismatched_keys"] if key.startswith(encoder)]
    # Checkpoints made for other tasks often come without the pooler, which fine-tuning learns anew.
    lost += [key for key in info["missing_keys"] if key.startswith(encoder) and ".pooler." not in key]
    if lost:
        raise RequestError(
            f"base {folder}: {len(lost)} of its weights are missing or have another shape than config.json "
            f"says, {min(lost)} among them"
        )
    return model


def load_model(what: str, folder: Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The float32 classifier in `folder`, and transformers' account of what was found in it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if not folder.is_dir():
        raise RequestError(f"{what} {folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise RequestError(f"{what} {folder}: is no model folder, it has no config.json")
    with user_error_about(f"{what} {folder}"):
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
