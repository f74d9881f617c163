"""Small real models for tests: a byte-level vocabulary and random Qwen3 weights, saved as ordinary folders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForTokenClassification,
)

TEXT = """Okay, let me think about this. We have 12 apples and 7 pears, so there are 19 pieces of fruit in all.
Wait, but that is not what is asked: how many are left when five are eaten? 19 - 5 = 14. So the answer is 14."""


@cache
def backend() -> Tokenizer:
    """300 byte-level tokens and two control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=302,
        special_tokens=["<|end|>", "</think>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def config(**options: Any) -> Qwen3Config:
    """Two layers of 32; random weights are spread wide, so that greedy choices are no near ties."""
    return Qwen3Config(
        vocab_size=302,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.3,
        **{"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None, **options},
    )


def mistral_config(sliding_window: int | None) -> MistralConfig:
    """Of a model that may see only the last so many tokens."""
    return MistralConfig(
        vocab_size=302,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        sliding_window=sliding_window,
    )


def save_classifier(folder: Path, **options: Any) -> str:
    """A token classifier with random weights, in `folder`."""
    torch.manual_seed(0)
    Qwen3ForTokenClassification(config(num_labels=2) if not options else config(**options)).save_pretrained(
        folder
    )
    PreTrainedTokenizerFast(tokenizer_object=backend()).save_pretrained(folder)
    return str(folder)


def save_speaker(folder: Path, **options: Any) -> str:
    """A causal language model with random weights, in `folder`."""
    torch.manual_seed(1)
    Qwen3ForCausalLM(config(**options)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend(), eos_token="<|end|>").save_pretrained(folder)
    return str(folder)
