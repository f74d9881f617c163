"""Models that stand in for real ones where only time matters: one that never ends its turn, and random classifiers.

Knows nothing of what is measured with them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import vllm_servers

MODEL = "smollm2-135m"
PARAMETERS = 134_515_008
"""Of that model."""
LAYERS, HIDDEN = 2, 176
"""Of a predictor with 7 % of these, which is the paper's proportion."""


def unending_model(folder: Path) -> Path:
    """SmolLM2 for which nothing is an end of its turn, since a model's own end would spoil the planned lengths."""
    source = vllm_servers.model_folder(MODEL)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    for name, change in (
        ("config.json", {"eos_token_id": 16}),
        ("generation_config.json", {"eos_token_id": 16}),
        ("tokenizer_config.json", {"eos_token": "<empty_output>"}),
    ):
        data = json.loads((source / name).read_text()) | change
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(data))
    return folder


def random_predictor(folder: Path, model: Path, layers: int, hidden: int, seed: int) -> int:
    """A token classifier of random weights over the models' vocabulary; how many parameters it has."""
    # Late, so that the number of threads can be set before.
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForTokenClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=1024,
        num_labels=2,
        pad_token_id=0,
    )
    classifier = Qwen3ForTokenClassification(config)
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in classifier.parameters())
