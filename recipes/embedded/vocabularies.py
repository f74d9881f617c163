"""The two vocabularies of the embedded pair, with the chat templates of their families in a small form.

The student's looks like Qwen3's, the teacher's like GPT-OSS's: the same way to split text (but single digits), the
same control tokens with the same flags, other merges. Owns what is in a tokenizer folder, and how a prompt and a
response are spelled. Refuses to know models and training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CONTEXT = 4096

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_HARMONY_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_QWEN_TEMPLATE = """\
{%- set ns = namespace(asked=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set ns.asked = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.role == 'assistant' -%}
        {%- if loop.index0 > ns.asked and message.reasoning_content -%}
            {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' -}}
            {{- message.content.lstrip('\\n') -}}
        {%- elif loop.index0 > ns.asked -%}
            {{- message.content -}}
        {%- else -%}
            {{- message.content.split('</think>')[-1].lstrip('\\n') -}}
        {%- endif -%}
    {%- else -%}
        {{- message.content -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""

_HARMONY_TEMPLATE = """\
{%- set effort = reasoning_effort if reasoning_effort is defined and reasoning_effort else 'high' -%}
{{- '<|start|>system<|message|>Reasoning: ' + effort + '\\n\\n# Valid channels: analysis, final.<|end|>' -}}
{%- for message in messages -%}
    {%- if message.role == 'system' or message.role == 'developer' -%}
        {{- '<|start|>developer<|message|># Instructions\\n\\n' + message.content + '<|end|>' -}}
    {%- elif message.role == 'assistant' -%}
        {%- if loop.last and not add_generation_prompt -%}
            {%- if message.thinking -%}
                {{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' -}}
            {%- endif -%}
            {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|return|>' -}}
        {%- else -%}
            {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' -}}
        {%- endif -%}
    {%- else -%}
        {{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start|>assistant' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Dialect:
    """How a family splits text, what its control tokens are, and how it spells a response."""

    size: int
    """Entries at most, control tokens included."""
    split: str
    normalize: bool
    template: str
    control: tuple[str, ...]
    plain: tuple[str, ...]
    """Added tokens that are not special."""
    bos: str | None
    eos: str
    pad: str
    before_thinking: str
    after_thinking: str
    answer: str
    """How the final answer is worded."""
    preamble: str
    """What the template writes before the messages, for the vocabulary to know."""

    def response(self, thinking: str, answer: str) -> tuple[str, int]:
        """The text after the generation prompt, and where in it the thinking begins."""
        text = f"{self.before_thinking}{thinking}{self.after_thinking}{self.answer.format(answer)}{self.eos}"
        return text, len(self.before_thinking)


STUDENT = Dialect(
    size=768,
    split=_QWEN_SPLIT,
    normalize=True,
    template=_QWEN_TEMPLATE,
    control=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    plain=("<think>", "</think>"),
    bos=None,
    eos="<|im_end|>",
    pad="<|endoftext|>",
    before_thinking="<think>\n",
    after_thinking="\n</think>\n\n",
    answer="The answer is {}.",
    preamble="system\n",
)
TEACHER = Dialect(
    size=1024,
    split=_HARMONY_SPLIT,
    normalize=False,
    template=_HARMONY_TEMPLATE,
    control=(
        "<|startoftext|>",
        "<|endoftext|>",
        "<|return|>",
        "<|constrain|>",
        "<|channel|>",
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|call|>",
    ),
    plain=(),
    bos="<|startoftext|>",
    eos="<|return|>",
    pad="<|endoftext|>",
    before_thinking="<|channel|>analysis<|message|>",
    after_thinking="<|end|><|start|>assistant<|channel|>final<|message|>",
    answer="Answer: {}",
    preamble="Reasoning: high\n\n# Valid channels: analysis, final.\n# Instructions\n\n",
)


def learn(dialect: Dialect, texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE vocabulary of the dialect, from plain text."""
    tokenizer = Tokenizer(models.BPE())
    if dialect.normalize:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(dialect.split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(dialect.control) + len(dialect.plain)
    trainer = trainers.BpeTrainer(
        vocab_size=dialect.size - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in dialect.control])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in dialect.plain])
    return tokenizer


def save(dialect: Dialect, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files, in the form that transformers 4 and 5 both read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(dialect.template)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": dialect.bos,
        "eos_token": dialect.eos,
        "pad_token": dialect.pad,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
