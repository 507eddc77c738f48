"""Makes the repositories that the bundled suites ask the hub for, small: `python hub_repositories.py FOLDER`."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

NEWS = Path(__file__).resolve().parents[2] / "data" / "news"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
ROWS = 160
"""Of each split of the data set."""
SST2 = "distilbert-base-uncased-finetuned-sst-2-english"


def make(folder: Path) -> None:
    """The repositories' files, in a process with model libraries."""
    import pandas as pd
    import torch
    from conftest import _vocabulary
    from transformers import BertConfig, BertForPreTraining, DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(3)
    torch.set_num_threads(1)
    rows = {}
    for split in ("train", "test"):
        with (NEWS / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows[split] = list(csv.DictReader(file))[:ROWS]
    vocabulary = "\n".join(_vocabulary([row["text"] for row in rows["train"]]))
    size = len(vocabulary.splitlines())

    def place(name: str, config: dict[str, Any] | None = None) -> Path:
        made = folder / name
        made.mkdir(parents=True, exist_ok=True)
        (made / "vocab.txt").write_text(vocabulary, encoding="utf-8")
        if config is not None:
            (made / "config.json").write_text(json.dumps(config))
        return made

    def distilbert(labels: int, names: dict[int, str] | None = None) -> Any:
        more = {"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}
        config = DistilBertConfig(vocab_size=size, max_position_embeddings=512, dim=64, hidden_dim=128, n_layers=2,
                                  n_heads=4, initializer_range=0.2, num_labels=labels, **more)  # fmt: skip
        return DistilBertForSequenceClassification(config).eval()

    sst2 = place(f"distilbert/{SST2}")
    distilbert(2, {0: "NEGATIVE", 1: "POSITIVE"}).save_pretrained(sst2)
    (sst2 / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')

    news = place("textattack/distilbert-base-uncased-ag-news")
    distilbert(4).save_pretrained(news, safe_serialization=False)
    (news / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    (news / "special_tokens_map.json").write_text(json.dumps({"unk_token": "[UNK]", "pad_token": "[PAD]"}))

    config = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 4,
              "vocab_size": size, "type_vocab_size": 2, "max_position_embeddings": 512}  # fmt: skip
    about = {"model_type": "bert", "hidden_act": "gelu", "emb_size": 312, "cell": {}}
    student = place("huawei-noah/TinyBERT_General_4L_312D", about | config)
    weights = BertForPreTraining(BertConfig(**config)).state_dict()
    # What its own distillation left in the file.
    weights |= {"fit_dense.weight": torch.zeros(768, 48), "fit_dense.bias": torch.zeros(768)}
    torch.save(weights, student / "pytorch_model.bin")

    data = folder / "fancyzhx" / "ag_news"
    (data / "data").mkdir(parents=True)
    names = "".join(f"            '{i}': {name}\n" for i, name in enumerate(LABELS))
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in rows)
    (data / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:\n{names}configs:\n- config_name: default\n  data_files:\n{files}---\n"
    )
    for split, found in rows.items():
        table = pd.DataFrame({"text": [r["text"] for r in found], "label": [LABELS.index(r["label"]) for r in found]})
        out = io.BytesIO()
        table.to_parquet(out, index=False)
        (data / "data" / f"{split}-00000-of-00001.parquet").write_bytes(out.getvalue())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
