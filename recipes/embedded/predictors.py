"""Training of the pair's boundary predictors, on text whose every character's kind is known.

A predictor is a small causal token classifier in the vocabulary of the speaker it is for. It reads thinking that
either or both wrote, from any place on, and its head at token j tells the kind of token j+1. A token is style if
its first character lies in a style piece or a style piece starts inside it.

Refuses to know how the speakers are trained. (A predictor for real models has to be trained on annotated text.)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from speakers import Mixture, any_problem, descend, optimization, padded, save, shape
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, Qwen3ForTokenClassification

from tessy.embedded.voices import Response, Voice, respond
from tessy.embedded.world import Problem
from tessy.trajectory import Label

SHIFT = 1
WINDOW = 200
_BATCH = 24
_RATE = 2e-3
_S, _T = Voice.STUDENT, Voice.TEACHER
MIXTURES = {
    _S: (
        Mixture(0.40, (_S,), (_S,)),
        Mixture(0.35, (_S,), (_T,)),
        Mixture(0.15, (_S, _T), (_S, _T), clip=0.05),
        Mixture(0.10, tuple(Voice), tuple(Voice), clip=0.05),
    ),
    _T: (
        Mixture(0.35, (_T,), (_T,)),
        Mixture(0.30, (_S,), (_T,)),
        Mixture(0.25, (_S, _T), (_S, _T), clip=0.05),
        Mixture(0.10, tuple(Voice), tuple(Voice), clip=0.05),
    ),
}


@dataclass(frozen=True)
class Labelled:
    """Token ids of some thinking, and for each whether it is style."""

    ids: list[int]
    style: list[int]

    def window(self, start: int) -> Labelled:
        """`WINDOW` tokens from `start` on."""
        return Labelled(self.ids[start : start + WINDOW], self.style[start : start + WINDOW])


def labelled(tokenizer: Any, response: Response) -> Labelled:
    """Tokens of the thinking with their kinds; the newline before the end-of-thinking marker counts as style."""
    text = response.thinking + "\n"
    kinds = bytearray(b"\1" * len(text))
    starts = set()
    place = 0
    for piece in response.pieces:
        end = place + len(piece.text)
        if piece.label is Label.STYLE:
            starts.add(place)
        else:
            kinds[place:end] = bytes(len(piece.text))
        place = end
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    style = [
        int(bool(kinds[begin]) or any(inside in starts for inside in range(begin + 1, end)))
        for begin, end in encoded["offset_mapping"]
    ]
    return Labelled(encoded["input_ids"], style)


def train(voice: Voice, folder: Path, steps: int, seed: int, log: Callable[[str], None]) -> None:
    """Train the predictor of a speaker whose tokenizer is in `folder`, and save it there."""
    torch.manual_seed(seed)
    rng = random.Random(f"{seed}/{voice}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _new(tokenizer)
    optimizer, schedule = optimization(model, _RATE, steps, fall=0.25)
    for step in range(steps):
        batch = [_any_window(voice, tokenizer, rng) for _ in range(_BATCH)]
        ids = padded([row.ids for row in batch], 0)
        targets = padded([row.style for row in batch], -100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids).logits
        shifted = logits[:, :-SHIFT].flatten(0, 1).float(), targets[:, SHIFT:].flatten()
        loss = cross_entropy(*shifted, ignore_index=-100)
        descend(model, loss, optimizer, schedule)
        if step % 50 == 0 or step == steps - 1:
            log(f"{voice} predictor: step {step}, loss {loss.item():.4f}")
    save(model, folder)


def _any_window(voice: Voice, tokenizer: Any, rng: random.Random) -> Labelled:
    (mixture,) = rng.choices(MIXTURES[voice], [mix.weight for mix in MIXTURES[voice]])
    response = respond(any_problem(rng), rng, mixture.styles, mixture.solvers, clip=mixture.clip)
    text = labelled(tokenizer, response)
    return text.window(rng.choice((0, rng.randrange(max(1, len(text.ids) - 10)))))


def _new(tokenizer: Any) -> Qwen3ForTokenClassification:
    config = shape(
        tokenizer,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        intermediate_size=256,
    )
    config.tessy = {"shift": SHIFT, "window": WINDOW}
    config.num_labels = 2
    config.id2label = {0: Label.CAPABILITY.value, 1: Label.STYLE.value}
    config.label2id = {Label.CAPABILITY.value: 0, Label.STYLE.value: 1}
    return Qwen3ForTokenClassification(config)


def measure(voice: Voice, folder: Path, held_out: list[Problem], seed: int) -> dict[str, float]:
    """Style F1 and the share of exact cuts, in the voice's own and in cooperative text on held-out problems.

    A cut is exact if in a whole span of the voice's kind no token is taken for the other kind, and the first
    token after the span is.
    """
    rng = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3ForTokenClassification.from_pretrained(folder).eval()
    kind = int(voice is _S)
    hits = wrong = exact = cuts = 0
    for problem in held_out:
        styles, solvers = rng.choice((((voice,), (voice,)), ((_S,), (_T,))))
        text = labelled(tokenizer, respond(problem, rng, styles, solvers))
        said = _read(model, text)
        for predicted, true in zip(said[SHIFT:], text.style[SHIFT:], strict=True):
            hits += predicted & true
            wrong += predicted != true
        for begin, end in _spans(text.style, kind):
            cuts += 1
            exact += said[max(begin, SHIFT) : end + 1] == text.style[max(begin, SHIFT) : end + 1]
    return {"style_f1": round(2 * hits / (2 * hits + wrong), 4), "exact_cut": round(exact / cuts, 4)}


def _read(model: Any, text: Labelled) -> list[int]:
    """The predicted kind of each token; for the first, of which no head speaks, the true one."""
    said = text.style[:SHIFT]
    for start in range(SHIFT, len(text.ids), WINDOW // 2):
        head = max(0, start - WINDOW // 2)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([text.ids[head : start + WINDOW // 2]])).logits[0]
        said += logits.argmax(-1)[start - SHIFT - head : -SHIFT].tolist()
    return said


def _spans(style: list[int], kind: int) -> list[tuple[int, int]]:
    """Runs of a kind that another run follows, as begin and end."""
    edges = [0, *(i for i in range(1, len(style)) if style[i] != style[i - 1])]
    return [(a, b) for a, b in pairwise(edges) if style[a] == kind]
