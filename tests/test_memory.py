"""What is kept of texts under a model: what is read on gives what reading all of it gives, in bounded room."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from transformers import (
    BertConfig,
    BertForTokenClassification,
    MistralForCausalLM,
    Qwen3ForCausalLM,
    Qwen3ForTokenClassification,
)
from transformers.modeling_utils import AttentionInterface

import tiny
from tessy.adapters.memory import Memory, Part, Places, Strand, common, compiled, reads_on
from tessy.adapters.memory.compiled import Compiled
from tessy.errors import ModelError

IDS = st.lists(st.integers(0, 3), max_size=40)


@cache
def plain() -> Any:
    """The model itself."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(tiny.config()).double().eval()


def model_with_memory() -> Any:
    """The same weights once more, for a memory to take over."""
    model = Qwen3ForCausalLM(tiny.config()).double().eval()
    model.load_state_dict(plain().state_dict())
    return model


class Calls(TorchFunctionMode):  # type: ignore[misc]  # torch is not followed
    """Counts calls of torch by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function.__name__] += 1
        return function(*args, **kwargs or {})


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=0, atol=1e-9))


# --- prefixes -------------------------------------------------------------------------------------------------


@given(IDS, IDS, IDS)
def test_what_two_texts_have_in_common(head: list[int], one: list[int], other: list[int]) -> None:
    one, other = head + one, head + other
    same = common(one, other)
    assert same >= len(head)
    assert one[:same] == other[:same]
    assert same in (len(one), len(other)) or one[same] != other[same]


@given(IDS, IDS.filter(bool))
def test_recall_keeps_what_holds_and_leaves_something_to_read(known: list[int], ids: list[int]) -> None:
    strand = Strand()
    strand.ids = list(known)
    kept = strand.recall(ids)
    assert strand.ids == ids[:kept]
    assert kept == min(common(known, ids), len(ids) - 1)


# --- places ---------------------------------------------------------------------------------------------------


def held(places: Places, count: int, tokens: int) -> list[Strand]:
    """Strands that have a place, each read in its turn."""
    strands = [Strand() for _ in range(count)]
    for strand in strands:
        places.reserve([strand], tokens)
        places.note(strand, [1] * tokens)
    return strands


def test_the_longest_unused_goes_first() -> None:
    places = Places(4 * 256, layers=1)
    first, second, third, fourth = held(places, 4, 200)
    places.note(first, [2])
    fifth = Strand()
    places.reserve([fifth, third], 200)
    assert [len(strand.ids) for strand in (first, second, third, fourth)] == [201, 0, 200, 200]
    assert second.place == -1
    assert len({strand.place for strand in (first, third, fourth, fifth)}) == places.rows == 4


def test_what_nobody_holds_any_more_is_free() -> None:
    places = Places(100 * 256, layers=1)
    strands = held(places, 8, 100)
    kept = strands.pop()
    strands.clear()
    gc.collect()
    assert places.strands == [kept]
    more = held(places, 7, 100)
    assert places.rows == 8
    assert len({strand.place for strand in (kept, *more)}) == 8


def test_a_long_text_takes_the_room_of_short_ones() -> None:
    places = Places(1000, layers=1)
    short = held(places, 3, 100)
    long = Strand()
    places.reserve([long], 900)
    assert places.rows * places.width <= 1000
    assert [strand.place for strand in short] == [-1] * 3
    again = Strand()
    places.reserve([again, Strand()], 500)
    assert (places.rows, places.width) == (2, 500)


def test_room_that_shrinks_leaves_the_beginning_of_a_text() -> None:
    places = Places(1000, layers=1)
    (long,) = held(places, 1, 700)
    others = [Strand() for _ in range(3)]
    places.reserve(others, 250)
    assert (places.rows, places.width) == (4, 250)
    assert long.ids == [1] * 250


@settings(max_examples=60, deadline=None)
@given(
    st.integers(64, 2000),
    st.lists(st.tuples(st.sets(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 600)), max_size=12),
)
def test_the_bound_holds_and_places_are_one_each(limit: int, asked: list[tuple[set[int], int]]) -> None:
    places, strands = Places(limit, layers=1), [Strand() for _ in range(10)]
    for wanted, tokens in asked:
        mine = [strands[n] for n in sorted(wanted)][: max(1, limit // tokens)]
        if len(mine) * tokens > limit:
            continue
        places.reserve(mine, tokens)
        assert places.rows * places.width <= limit
        assert places.width >= tokens
        for strand in mine:
            strand.recall([0] * tokens)
            places.note(strand, [0] * (tokens - len(strand.ids)))
        taken = [strand.place for strand in strands if strand.place >= 0]
        assert len(set(taken)) == len(taken)
        assert all(0 <= place < places.rows for place in taken)
        assert {strand.place for strand in mine} <= set(taken)
        assert all(len(strand.ids) <= places.width for strand in strands)


@pytest.mark.parametrize("together", [1, 2**28])
def test_keys_and_values_go_with_their_text_in_layers_of_any_shape(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessy.adapters.memory.places.STACK_BYTES", together)
    shapes = [(2, 4, 3), (2, 4, 3), (1, 5, 5)]  # heads, sizes of keys and of values
    places, strands = Places(100 * 256, layers=len(shapes)), [Strand() for _ in range(3)]

    def buffers(strand: Strand) -> list[torch.Tensor]:
        new = [[torch.empty(1, heads, 1, size) for size in sizes] for heads, *sizes in shapes]
        layers = [places.layer(number, *pair) for number, pair in enumerate(new)]
        return [buffer[strand.place, :, :5] for layer in layers for buffer in layer]

    places.reserve(strands, 10)
    for n, strand in enumerate(strands):
        places.note(strand, [1] * 5)
        for kind, buffer in enumerate(buffers(strand)):
            buffer.fill_(10 * n + kind)
    places.bring([strands[2], strands[1]], 0)  # changes places with another text
    places.bring([strands[0]], 7)  # a free one
    places.reserve(strands, 300)
    assert places.width >= 300
    for n, strand in enumerate(strands):
        assert all((buffer == 10 * n + kind).all() for kind, buffer in enumerate(buffers(strand)))


@pytest.mark.parametrize(("together", "pieces"), [(1, 16), (3 * 2000 * 2 * 4 * 4, 6), (2**28, 2)])
def test_what_grows_is_there_twice_piece_by_piece(
    together: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessy.adapters.memory.places.STACK_BYTES", together)
    places, strand, new = Places(2000, layers=8), Strand(), torch.empty(1, 2, 1, 4)

    def held() -> int:
        return sum(type(each) is torch.Tensor and each.dim() == 5 for each in gc.get_objects())

    class Watch(Calls):
        most = 0

        def __torch_function__(self, function: Any, *rest: Any) -> Any:
            made = super().__torch_function__(function, *rest)
            self.most = max(self.most, held()) if function.__name__ == "new_zeros" else self.most
            return made

    places.reserve([strand], 10)
    for number in range(8):
        places.layer(number, new, new)
    assert held() == pieces
    with Watch() as watch:
        places.reserve([strand], 1000)
    assert watch.most == pieces + 1
    assert places.layer(7, new, new)[0].shape == (1, 2, 1024, 4)


# --- reading ----------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([300, 1200, 5000]))
def test_reading_on_gives_what_reading_all_gives(seed: int, limit: int) -> None:
    rng = random.Random(seed)
    memory = Memory(model_with_memory(), limit)
    strands: list[Strand] = [Strand() for _ in range(8)]
    texts: list[list[int]] = [[] for _ in strands]
    with torch.inference_mode():
        for _ in range(12):
            who = rng.sample(range(8), rng.randint(1, min(5, limit // 60)))
            for n in who:
                del texts[n][rng.randint(0, len(texts[n])) if rng.random() < 0.4 else 60 :]
                texts[n] += [rng.randrange(302) for _ in range(rng.choice([1, 1, 2, 3, 9, 30]))]
                del texts[n][60:]
            memory.places.reserve([strands[n] for n in who], 60)
            parts = [Part(strands[n], texts[n][strands[n].recall(texts[n]) :]) for n in who]
            for n, logits in zip(who, memory.read(parts), strict=True):
                assert close(logits, plain()(torch.tensor([texts[n]])).logits[0, -1])
                assert strands[n].ids == texts[n]
            assert memory.places.rows * memory.places.width <= limit


def test_all_logits_of_what_is_new() -> None:
    memory, strands = Memory(model_with_memory(), 5000), [Strand() for _ in range(4)]
    texts = [[*range(n, n + 20)] for n in range(4)]
    with torch.inference_mode():
        memory.places.reserve(strands, 20)
        memory.read([Part(strand, text[:6]) for strand, text in zip(strands, texts, strict=True)])
        stops = [20, 7, 12, 20]
        parts = [Part(s, t[6:stop]) for s, t, stop in zip(strands, texts, stops, strict=True)]
        for text, stop, logits in zip(texts, stops, memory.read_all(parts), strict=True):
            assert close(logits, plain()(torch.tensor([text[:stop]])).logits[0, 6:])


def test_only_what_is_new_is_computed() -> None:
    model = model_with_memory()
    memory, strand, read = Memory(model, 5000), Strand(), []
    model.get_input_embeddings().register_forward_hook(lambda _, ids, __: read.append(ids[0].numel()))
    text = list(range(100))
    with torch.inference_mode():
        memory.places.reserve([strand], 200)
        for end in (50, 51, 80, 80):
            ids = text[:end]
            memory.read([Part(strand, ids[strand.recall(ids) :])])
        changed = [*text[:70], 7, 7]
        memory.read([Part(strand, changed[strand.recall(changed) :])])
    assert read == [50, 1, 29, 1, 2]


class OtherNorm(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Has what an RMS norm has, and is another one."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.norm = norm.weight, norm.variance_epsilon, norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 1.5 * self.norm(hidden)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_a_norm_is_one_call_if_that_gives_the_same(other: bool, dtype: torch.dtype, close: float) -> None:
    alone, model = (Qwen3ForCausalLM(tiny.config()).to(dtype).eval() for _ in range(2))
    for each in (alone, model):
        each.load_state_dict(plain().state_dict())
        if other:
            each.model.norm = OtherNorm(each.model.norm)
    norms = 4 * model.config.num_hidden_layers + 1
    memory, strand, text = Memory(model, 2000), Strand(), [5, 6, 7, 8]
    with torch.inference_mode(), Calls() as calls:
        memory.places.reserve([strand], 10)
        (logits,) = memory.read_all([Part(strand, text)])
    expected = alone(torch.tensor([text])).logits[0]
    assert (logits - expected).abs().max() <= close * expected.abs().max()
    # Of the other one the norm that it has is one call, too.
    assert (calls.counts["rms_norm"], calls.counts["rsqrt"]) == (norms, 0)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: Qwen3ForCausalLM(tiny.config()), True),
        (lambda: Qwen3ForTokenClassification(tiny.config(num_labels=2)), True),
        (lambda: BertForTokenClassification(small_bert()), False),
        (lambda: MistralForCausalLM(tiny.mistral_config(sliding_window=32)), False),
        (lambda: MistralForCausalLM(tiny.mistral_config(sliding_window=None)), True),
    ],
)
def test_which_models_can_be_read_in_pieces(model: Any, expected: bool) -> None:
    assert reads_on(model()) == expected


def small_bert() -> BertConfig:
    return BertConfig(
        vocab_size=302, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )


def test_another_architecture_reads_on_too() -> None:
    torch.manual_seed(3)
    alone, model = (
        MistralForCausalLM(tiny.mistral_config(sliding_window=None)).double().eval() for _ in range(2)
    )
    model.load_state_dict(alone.state_dict())
    memory, strands = Memory(model, 2000), [Strand(), Strand()]
    texts: Sequence[list[int]] = ([5, 6, 7, 8], [9, 3])
    with torch.inference_mode():
        memory.places.reserve(strands, 10)
        memory.read([Part(strands[0], texts[0][:3])])
        logits = memory.read([Part(strands[0], texts[0][3:]), Part(strands[1], texts[1])])
        for row, text in zip(logits, texts, strict=True):
            assert close(row, alone(torch.tensor([text])).logits[0, -1])


# --- as one graph -----------------------------------------------------------------------------------------------


@cache
def graph() -> Compiled:
    """Of the same weights, in float32."""
    return Compiled(model_with_memory(), 1000)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_a_graph_reads_on_as_the_model_does(seed: int) -> None:
    rng, memory = random.Random(seed), graph()
    strands: list[Strand] = [Strand() for _ in range(6)]
    texts: list[list[int]] = [[] for _ in strands]
    for _ in range(8):
        who = rng.sample(range(6), rng.randint(1, 5))
        for n in who:
            del texts[n][rng.randint(0, len(texts[n])) if rng.random() < 0.4 else 40 :]
            texts[n] += [rng.randrange(302) for _ in range(rng.choice([1, 1, 2, 3, 9, 30]))]
            del texts[n][60:]
        memory.places.reserve([strands[n] for n in who], 60)
        known = [strands[n].recall(texts[n]) for n in who]
        parts = [Part(strands[n], texts[n][before:]) for n, before in zip(who, known, strict=True)]
        with torch.inference_mode():
            for n, before, logits in zip(who, known, memory.read_all(parts), strict=True):
                expected = plain()(torch.tensor([texts[n]])).logits[0, before:]
                assert torch.allclose(logits.double(), expected, rtol=1e-4, atol=1e-4)
                assert strands[n].ids == texts[n]


def test_a_graph_of_another_architecture() -> None:
    """One whose heads' size is not in its config."""
    torch.manual_seed(3)
    alone, model = (MistralForCausalLM(tiny.mistral_config(sliding_window=None)).eval() for _ in range(2))
    model.load_state_dict(alone.state_dict())
    memory, strand = Compiled(model, 2000), Strand()
    memory.places.reserve([strand], 10)
    memory.read_all([Part(strand, [5, 6, 7])])
    with torch.no_grad():
        expected = alone(torch.tensor([[5, 6, 7, 8]])).logits[0, -1:]
    assert torch.allclose(memory.read_all([Part(strand, [8])])[0], expected, atol=1e-4)


def test_a_graph_that_is_not_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose attention does what a graph knows nothing of."""
    attention = compiled._attention
    monkeypatch.setitem(
        AttentionInterface._global_mapping,
        compiled._ATTENTION,
        lambda *args, scaling, **options: attention(*args, scaling=scaling / 2, **options),
    )
    with pytest.raises(ModelError, match="is off by"):
        Compiled(model_with_memory(), 1000)


def test_a_model_that_cannot_be_exported_is_refused() -> None:
    class Moody(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
        """What it computes hangs on what it is given."""

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden if float(hidden.sum()) > 0 else -hidden

    model = model_with_memory()
    model.lm_head = Moody()
    with pytest.raises(ModelError, match="no graph for predictor_runtime onnx"):
        Compiled(model, 1000)
