"""The local engine: what it writes is what plain generation writes, whoever else is in the batch."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralForCausalLM, Qwen3ForCausalLM

import tiny
from tessy.adapters.local import LocalEngine, draw
from tessy.adapters.tokenizer import HFTokenizer
from tessy.core.prompt import TokenBuffer
from tessy.embedded import Member, path
from tessy.errors import DeadlineError, ModelError, RequestError, ServerError
from tessy.protocols import Completion, Sampling
from tessy.questions import Message

GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.3, top_p=0.9, top_k=50, min_p=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_speaker(tmp_path_factory.mktemp("speaker"), eos_token_id=[0, 17, 33])


def engine(folder: str, sampling: Sampling = GREEDY, **options: Any) -> LocalEngine:
    return LocalEngine(
        folder, HFTokenizer(folder), sampling, **{"device": "cpu", "dtype": "float64", **options}
    )


@pytest.fixture
async def greedy(folder: str) -> AsyncIterator[LocalEngine]:
    local = engine(folder)
    yield local
    await local.close()


async def ask(
    local: LocalEngine,
    ids: Sequence[int],
    tokens: int,
    seed: int | None = None,
    deadline: float | None = None,
) -> Completion:
    return await local.completer("key", seed=seed, deadline=deadline)(TokenBuffer(ids), tokens)


def requests(count: int = 64) -> list[tuple[list[int], int]]:
    """Prompts of mixed lengths, and how many tokens to write; fewer requests are the first of more."""
    rng = random.Random(4)
    return [
        ([rng.randrange(302) for _ in range(rng.choice([1, 2, rng.randint(3, 200)]))], rng.randint(1, 24))
        for _ in range(count)
    ]


def generated(folder: str, asked: Sequence[tuple[list[int], int]]) -> list[list[int]]:
    """What transformers' own greedy generation writes, one prompt at a time."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    return [
        model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        for ids, tokens in asked
    ]


@pytest.fixture(scope="module")
def expected(folder: str) -> list[list[int]]:
    """The answers to `requests()`."""
    return generated(folder, requests())


# --- what is written ----------------------------------------------------------------------------------------------


async def test_a_full_batch_writes_what_plain_generation_writes(
    greedy: LocalEngine, expected: list[list[int]]
) -> None:
    asked = requests()
    together = await asyncio.gather(*(ask(greedy, *request) for request in asked))
    assert [list(completion.ids or ()) for completion in together] == expected
    alone = [await ask(greedy, *request) for request in asked[:12]]
    assert alone == together[:12]


@pytest.mark.parametrize("name", ["student", "teacher"])
async def test_the_embedded_pair_writes_what_plain_generation_writes(name: Member) -> None:
    tokenizer = HFTokenizer(str(path(name)))
    text = tokenizer.encode(tiny.TEXT)
    head = tokenizer.render([Message("user", "Ida has 12 balls and buys 7 more. How many?")])
    asked = [(head + text[: 3 * n], 2 + 5 * (n % 7)) for n in range(64)]
    local = engine(str(path(name)))
    together = await asyncio.gather(*(ask(local, *request) for request in asked))
    assert [list(completion.ids or ()) for completion in together[::4]] == generated(
        str(path(name)), asked[::4]
    )
    assert [await ask(local, *request) for request in asked[::8]] == together[::8]
    await local.close()


async def test_the_end_of_the_turn_is_told_and_among_the_ids(greedy: LocalEngine, folder: str) -> None:
    asked = requests()
    tokenizer = HFTokenizer(folder)
    ended = 0
    for (_, tokens), completion in zip(
        asked, await asyncio.gather(*(ask(greedy, *r) for r in asked)), strict=True
    ):
        ids = completion.ids
        assert ids is not None
        assert completion.finished == (ids[-1] in (0, 17, 33))
        assert completion.finished or len(ids) == tokens
        assert not set(ids[:-1]) & {0, 17, 33}
        assert completion.text == tokenizer.decode(ids[:-1] if completion.finished else ids)
        ended += completion.finished
    assert 0 < ended < 64


@pytest.mark.parametrize("options", [{"max_batch": 3}, {"cache_tokens": 300}, {"threads": 1}])
async def test_a_small_batch_or_cache_changes_nothing(
    folder: str, expected: list[list[int]], options: dict[str, Any]
) -> None:
    small = engine(folder, **options)
    asked = requests(40)
    together = await asyncio.gather(*(ask(small, *request) for request in asked))
    assert [list(completion.ids or ()) for completion in together] == expected[:40]
    await small.close()


async def test_newcomers_join_while_others_run(greedy: LocalEngine, expected: list[list[int]]) -> None:
    asked = requests(30)

    async def later(n: int) -> Completion:
        await asyncio.sleep(0.004 * n)
        return await ask(greedy, *asked[n])

    arrived = await asyncio.gather(*(later(n) for n in range(30)))
    assert [list(completion.ids or ()) for completion in arrived] == expected[:30]


async def test_a_seed_makes_draws_repeatable_in_any_company(folder: str) -> None:
    warm = engine(folder, WARM)
    asked = requests(24)
    together = await asyncio.gather(*(ask(warm, *request, seed=7) for request in asked))
    alone = [await ask(warm, *request, seed=7) for request in reversed(asked)]
    assert together == alone[::-1]
    other = await asyncio.gather(*(ask(warm, *request, seed=8) for request in asked))
    assert other != together
    free = [(await ask(warm, [5, 6, 7], 20)).ids for _ in range(4)]
    assert len(set(free)) > 1
    await warm.close()


async def test_single_precision_and_grouped_heads(folder: str, expected: list[list[int]]) -> None:
    single = engine(folder, dtype="auto")
    asked = requests(16)
    together = await asyncio.gather(*(ask(single, *request) for request in asked))
    assert [list(completion.ids or ()) for completion in together] == expected[:16]
    await single.close()


# --- what is kept between completions ---------------------------------------------------------------------------


def turns(count: int, seed: int = 0) -> list[list[tuple[list[int], int]]]:
    """For each of `count` texts what a speaker sees, turn by turn: what it kept of its own, and what another wrote."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        ids = [rng.randrange(302) for _ in range(rng.randint(1, 60))]
        asked = []
        for _ in range(5):
            asked.append((list(ids), rng.randint(1, 8)))
            ids += [rng.randrange(302) for _ in range(rng.choice([0, 1, 4, 25]))]
        texts.append(asked)
    return texts


@pytest.mark.parametrize("options", [{}, {"cache_tokens": 700}, {"max_batch": 2}])
async def test_turn_after_turn_is_what_plain_generation_writes(folder: str, options: dict[str, Any]) -> None:
    local = engine(folder, **options)

    async def talk(asked: Sequence[tuple[list[int], int]]) -> list[list[int]]:
        complete, written = local.completer("key", seed=None, deadline=None), []
        own: list[int] = []
        for ids, tokens in asked:
            completion = await complete(TokenBuffer([*ids, *own]), tokens)
            written.append(list(completion.ids or ()))
            own += written[-1][: len(written[-1]) // 2 + 1]
            complete.let_go()
        return written

    def plainly(asked: Sequence[tuple[list[int], int]]) -> list[list[int]]:
        own: list[int] = []
        written = []
        for ids, tokens in asked:
            written += generated(folder, [([*ids, *own], tokens)])
            own += written[-1][: len(written[-1]) // 2 + 1]
        return written

    texts = turns(8)
    together = await asyncio.gather(*(talk(text) for text in texts))
    assert together == [plainly(text) for text in texts]
    places = local._batch._memory.places
    assert places.rows * places.width <= options.get("cache_tokens", 65_536)
    await local.close()


def tokens_read(local: LocalEngine) -> list[int]:
    """How many tokens each forward from now on reads."""
    read: list[int] = []
    local._model.get_input_embeddings().register_forward_hook(lambda _, ids, __: read.append(ids[0].numel()))
    return read


async def test_a_speaker_reads_only_what_the_other_wrote(greedy: LocalEngine) -> None:
    complete = greedy.completer("key", seed=None, deadline=None)
    read = tokens_read(greedy)
    prompt = [40, 41] * 60
    own = (await complete(TokenBuffer(prompt), 6)).ids
    assert own
    assert read == [120, *[1] * (len(own) - 1)]
    complete.let_go()
    read.clear()
    await complete(TokenBuffer([*prompt, *own[:3], 7, 8, 9, 10]), 1)
    assert read == [4], "its own three tokens were there, and what it wrote after them is cut off"
    read.clear()
    await complete(TokenBuffer([*prompt, *own[:3], 7, 8, 9, 10]), 1)
    assert read == [1]
    other = greedy.completer("key", seed=None, deadline=None)
    read.clear()
    await other(TokenBuffer(prompt), 1)
    assert read == [120]


async def test_what_was_read_goes_with_its_completer(greedy: LocalEngine) -> None:
    completers = [greedy.completer(str(n), seed=None, deadline=None) for n in range(9)]
    for complete in completers:
        await complete(TokenBuffer([40] * 30), 2)
    places = greedy._batch._memory.places
    assert len(places.strands) == 9
    del completers[:8], complete
    gc.collect()
    assert len(places.strands) == 1
    await ask(greedy, [40] * 30, 2)
    assert places.rows <= 12


async def test_a_long_prompt_is_read_in_several_turns(
    folder: str, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessy.adapters.local.TURN_TOKENS", 48)
    local = engine(folder)
    read = tokens_read(local)
    together = await asyncio.gather(*(ask(local, *request) for request in requests(24)))
    assert [list(completion.ids or ()) for completion in together] == expected[:24]
    assert max(read) <= 48
    await local.close()
    warm = engine(folder, WARM)
    assert len((await ask(warm, [40] * 200, 3)).ids or ()) in (1, 2, 3)
    await warm.close()


async def test_a_completer_that_is_asked_again_while_it_still_runs(
    greedy: LocalEngine, expected: list[list[int]]
) -> None:
    complete = greedy.completer("key", seed=None, deadline=None)
    asked = requests(6)
    running = [asyncio.create_task(complete(TokenBuffer(ids), tokens)) for ids, tokens in asked]
    given_up = asyncio.create_task(complete(TokenBuffer([40] * 9), 400))
    await asyncio.sleep(0.01)
    given_up.cancel()
    assert [list((await task).ids or ()) for task in running] == expected[:6]
    assert list((await complete(TokenBuffer(asked[0][0]), asked[0][1])).ids or ()) == expected[0]


# --- drawing ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0.05, 3),
        top_p=st.floats(0.01, 1),
        top_k=st.integers(0, 40),
        min_p=st.floats(0, 1),
    ),
)
def test_only_allowed_tokens_are_drawn(seed: int, sampling: Sampling) -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(seed)) * 3
    drawn = draw(logits, sampling, [random.Random(n) for n in range(4)])
    likely = (logits / sampling.temperature).softmax(-1)
    for row, token in zip(likely.tolist(), drawn, strict=True):
        order = sorted(row, reverse=True)[: sampling.top_k or None]
        above = sum(p for p in order if p > row[token]) / sum(order)
        assert row[token] >= order[-1]
        assert above < sampling.top_p + 1e-5
        assert row[token] >= sampling.min_p * order[0] - 1e-6


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(4000, -1)
    drawn = draw(logits, Sampling(1, 1, 0, 0), [random.Random(n) for n in range(4000)])
    assert [drawn.count(token) / 4000 for token in range(4)] == pytest.approx(
        [0.5, 0.3, 0.15, 0.05], abs=0.03
    )
    assert draw(logits[:5], GREEDY, []) == [0] * 5
    assert set(draw(logits, Sampling(1, 0.6, 0, 0), [random.Random(n) for n in range(4000)])) == {0, 1}


# --- requests that end otherwise --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "tokens", "complaint"),
    [
        ([], 1, "a prompt of 0 tokens and 1 to write"),
        ([1], 0, "a prompt of 1 tokens and 0 to write"),
        ([1] * 512, 1, "a prompt of 512 tokens; the model's context holds 512"),
        ([1, 302], 1, "token id 302 in the prompt; the model has ids below 302"),
    ],
)
async def test_what_cannot_be_asked(greedy: LocalEngine, ids: list[int], tokens: int, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        await ask(greedy, ids, tokens)
    assert greedy.stats.in_flight == 0


async def test_a_completion_ends_at_the_context(greedy: LocalEngine, folder: str) -> None:
    completion = await ask(greedy, [40] * 505, 1000)
    assert list(completion.ids or ()) == generated(folder, [([40] * 505, 7)])[0]
    small = engine(folder, cache_tokens=100)
    with pytest.raises(RequestError, match="context holds 100"):
        await ask(small, [1] * 100, 1)
    await small.close()


async def test_a_deadline(greedy: LocalEngine) -> None:
    with pytest.raises(DeadlineError, match="the deadline has passed"):
        await ask(greedy, [1, 2], 5, deadline=time.monotonic() - 1)
    other = asyncio.create_task(ask(greedy, [40] * 9, 20))
    with pytest.raises(DeadlineError):
        await ask(greedy, [40] * 5, 500, deadline=time.monotonic() + 0.01)
    assert (await other).ids
    assert (await ask(greedy, [1, 2], 5, deadline=time.monotonic() + 60)).ids


async def test_cancelled_requests_leave_and_harm_nobody(
    greedy: LocalEngine, expected: list[list[int]]
) -> None:
    asked = requests(40)
    tasks = [asyncio.create_task(ask(greedy, *request)) for request in asked]
    await asyncio.sleep(0.01)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for n, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) or list(result.ids or ()) == expected[n]  # type: ignore[union-attr]
    assert greedy.stats.in_flight == 0
    assert (await ask(greedy, *asked[0])).ids == tuple(expected[0])


async def test_the_event_loop_goes_on(greedy: LocalEngine) -> None:
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(ask(greedy, *request) for request in requests()))
    ticking.cancel()
    assert turns > 50


async def test_what_it_counts(greedy: LocalEngine) -> None:
    completions = await asyncio.gather(*(ask(greedy, *request) for request in requests(10)))
    assert greedy.stats.requests == 10
    assert greedy.stats.generated == sum(len(completion.ids or ()) for completion in completions)
    assert (greedy.stats.in_flight, greedy.stats.retries, greedy.stats.limit) == (0, 0, 64)


async def test_closed_means_closed(folder: str) -> None:
    local = engine(folder)
    running = [asyncio.create_task(ask(local, [40] * 300, 200)) for _ in range(100)]
    await asyncio.sleep(0.02)
    await local.close()
    results = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
    assert all(isinstance(result, ServerError | Completion) for result in results)
    with pytest.raises(ServerError, match="it is closed"):
        await ask(local, [1], 1)
    assert f"model {folder}" not in {thread.name for thread in threading.enumerate()}


async def test_a_step_that_fails_is_told_and_survived(greedy: LocalEngine) -> None:
    before = await ask(greedy, [1, 2, 3], 4)
    norm = greedy._model.model.norm
    greedy._model.model.norm = None
    results = await asyncio.gather(*(ask(greedy, [1, 2, 3], 4) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, ServerError) and "in this process" in str(result) for result in results)
    greedy._model.model.norm = norm
    assert await ask(greedy, [1, 2, 3], 4) == before


async def test_nan_is_an_error_and_does_not_stay(greedy: LocalEngine) -> None:
    before = await ask(greedy, [1, 2, 3], 4)
    norm = greedy._model.model.norm.weight
    kept = norm.data.clone()
    norm.data.fill_(float("nan"))
    with pytest.raises(ServerError, match="computed NaN"):
        await ask(greedy, [1, 2, 3], 4)
    norm.data.copy_(kept)
    assert await ask(greedy, [1, 2, 3], 4) == before


# --- what cannot be loaded ----------------------------------------------------------------------------------------


def test_what_is_not_there_is_one_line(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load the model '.*nowhere'") as error:
        LocalEngine(str(tmp_path / "nowhere"), HFTokenizer(folder))
    assert "\n" not in str(error.value)


def test_a_classifier_is_no_causal_model(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights for 'lm_head\.weight'"):
        LocalEngine(tiny.save_classifier(tmp_path), HFTokenizer(folder))


def test_sliding_windows_are_refused(folder: str, tmp_path: Path) -> None:
    config = tiny.mistral_config(sliding_window=32)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not use plain full attention"):
        LocalEngine(str(tmp_path), HFTokenizer(folder))


def test_torch_missing_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "try: import tessy.adapters.local\n"
        "except Exception as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'tessy[local]'" in out
