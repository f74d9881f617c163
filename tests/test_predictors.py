"""Boundary predictors: how a classifier is read and batched, and the rules that need no model."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    Qwen3ForTokenClassification,
)

import tiny
from tessy.adapters.memory import common
from tessy.adapters.predictors import (
    RuleBoundary,
    TokenClassifier,
    load_predictor,
    rule_marks,
)
from tessy.adapters.predictors.published import Reading, reading
from tessy.adapters.predictors.rereading import _Seen
from tessy.embedded import Member, path
from tessy.errors import ModelError
from tessy.protocols import Mark


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
async def classifier(folder: str) -> AsyncIterator[TokenClassifier]:
    classifier = TokenClassifier(folder, device="cpu")
    yield classifier
    await classifier.close()


def alone(folder: str, context: str, draft: str) -> list[Mark]:
    """One plain forward over the window, read as rule 1 of the cut says."""
    model = Qwen3ForTokenClassification.from_pretrained(folder).eval()
    text, begin = context + draft, 0
    while len(text) - begin >= 200 * 8 + 512:  # it moves on by 512 characters, not with every draft
        begin += 512
    encoding = tiny.backend().encode(text[begin:], add_special_tokens=False)
    ids, starts = encoding.ids, [begin + start for start, _ in encoding.offsets]
    while len(ids) > 200:  # and by a third of the window
        ids, starts = ids[66:], starts[66:]
    with torch.no_grad():
        style = model(torch.tensor([ids])).logits.softmax(-1)[0, :, 1].tolist()
    return [
        Mark(start - len(context), style[n - 1])
        for n, start in enumerate(starts)
        if n > 0 and start >= len(context)
    ]


def model_of(classifier: TokenClassifier) -> Any:
    """What computes it, by torch."""
    return classifier._shares._memory._model  # type: ignore[attr-defined]


def assert_same(marks: list[Mark], expected: list[Mark]) -> None:
    assert [mark.start for mark in marks] == [mark.start for mark in expected]
    assert [mark.style for mark in marks] == pytest.approx([mark.style for mark in expected], abs=1e-4)


# --- a classifier -----------------------------------------------------------------------------------------------

DRAFTS = [
    ("", "Okay, let me think"),
    ("Okay,", " so we have 12"),
    (tiny.TEXT * 3, " apples and a 你好 é pear"),
    (tiny.TEXT * 40, " So the answer"),
    ("x", "y"),
    ("", "a"),
    ("\ue000" * 900, "half a cha\U0001f600racter"),
    ("short", tiny.TEXT * 2),
]


@pytest.mark.parametrize(("context", "draft"), DRAFTS)
async def test_marks_are_those_of_one_plain_forward(
    classifier: TokenClassifier, folder: str, context: str, draft: str
) -> None:
    assert_same(await classifier(context, draft), alone(folder, context, draft))


async def test_a_batch_gives_what_each_request_gives_alone(classifier: TokenClassifier) -> None:
    requests = [(tiny.TEXT[: 7 * n], tiny.TEXT[7 * n : 7 * n + 3 * n + 1]) for n in range(20)]
    together = await asyncio.gather(*(classifier(*request) for request in requests * 5))
    for request, marks in zip(requests * 5, together, strict=True):
        assert_same(marks, await classifier(*request))


async def test_a_small_token_budget_changes_nothing(classifier: TokenClassifier, folder: str) -> None:
    narrow = TokenClassifier(folder, device="cpu", max_batch=7, max_tokens=90)
    requests = [(tiny.TEXT[:n], tiny.TEXT[n:]) for n in range(0, 160, 9)]
    for request, marks in zip(requests, await asyncio.gather(*(narrow(*r) for r in requests)), strict=True):
        assert_same(marks, await classifier(*request))
    await narrow.close()


async def test_an_empty_draft_has_no_marks(classifier: TokenClassifier) -> None:
    assert await classifier("context", "") == []


async def test_cancelled_requests_leave_the_others_alone(classifier: TokenClassifier) -> None:
    tasks = [asyncio.create_task(classifier(tiny.TEXT, f" draft {n}")) for n in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert all(isinstance(result, list) and result for result in results[1::2])


async def test_the_event_loop_goes_on_while_a_forward_runs(classifier: TokenClassifier) -> None:
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(classifier(tiny.TEXT * 5, f" draft {n}") for n in range(64)))
    ticking.cancel()
    assert turns > 10


async def test_closed_means_closed(folder: str) -> None:
    classifier = TokenClassifier(folder, device="cpu")
    name = f"classifier {folder}"
    waiting = [asyncio.create_task(classifier(tiny.TEXT, "a")) for _ in range(200)]
    await asyncio.sleep(0)
    await classifier.close()
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert all(isinstance(result, list | ModelError) for result in results)
    with pytest.raises(ModelError, match="is closed"):
        await classifier("", "a")
    assert name not in {thread.name for thread in threading.enumerate()}


async def test_a_forward_that_fails_is_told_and_survived(classifier: TokenClassifier) -> None:
    with pytest.raises(ModelError, match="lone surrogate"):
        await classifier("", "a\ud800")
    embedding = model_of(classifier).model.embed_tokens
    model_of(classifier).model.embed_tokens = None
    with pytest.raises(ModelError, match=r"boundary predictor .* failed: "):
        await classifier("a", "b")
    model_of(classifier).model.embed_tokens = embedding
    assert len(await classifier("a", "b")) == 1


def test_one_classifier_serves_several_event_loops(folder: str) -> None:
    classifier = TokenClassifier(folder, device="cpu")
    first = asyncio.run(classifier("a", " b"))
    second = asyncio.run(classifier("a", " b"))
    assert first == second
    asyncio.run(classifier.close())


@pytest.mark.parametrize(
    ("name", "style", "substance"),
    [("student_predictor", "Hmm, okay", "100*2=200"), ("teacher_predictor", "Continue:", "100*2=200")],
)
async def test_the_embedded_predictors_tell_style_from_substance(
    name: Member, style: str, substance: str
) -> None:
    predictor = load_predictor(str(path(name)), device="cpu")
    context = "Ida starts with 100 balls. "
    for draft, kind in ((style, True), (substance, False)):
        marks = await predictor(context if kind else f"{context}So Ida has ", draft)
        assert sum(mark.style > 0.5 for mark in marks) / len(marks) == pytest.approx(float(kind), abs=0.34)
    await predictor.close()


# --- what a config may say ----------------------------------------------------------------------------------------


@pytest.fixture
def changed(folder: str, tmp_path: Path) -> dict[str, object]:
    """The classifier's config, to be changed; `saved` writes it."""
    for file in Path(folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config: dict[str, object] = json.loads((tmp_path / "config.json").read_text())
    return config


def saved(config: dict[str, object], folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


async def test_style_is_the_class_that_is_named_so(
    classifier: TokenClassifier, changed: dict[str, object], tmp_path: Path
) -> None:
    changed["id2label"] = {"0": "Style", "1": "Capability"}
    other = TokenClassifier(saved(changed, tmp_path), device="cpu")
    here, there = await classifier("Okay,", " so"), await other("Okay,", " so")
    assert [mark.style for mark in there] == pytest.approx([1 - mark.style for mark in here], abs=1e-5)
    await other.close()


async def test_the_window_comes_from_the_config(
    classifier: TokenClassifier, changed: dict[str, object], tmp_path: Path
) -> None:
    changed["tessy"] = {"window": 8, "shift": 1}
    short = TokenClassifier(saved(changed, tmp_path), device="cpu")
    # 8 tokens are a window; of 9 it leaves a third out, which is 2 of them: 7 are read.
    read = tiny.backend().encode(tiny.TEXT[:40]).ids
    nine, seven = (tiny.backend().decode(ids) for ids in (read[:9], read[2:9]))
    assert_same(await short(nine[:-3], nine[-3:]), await classifier(seven[:-3], seven[-3:]))
    assert short.window == 8
    await short.close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id2label": {"0": "O", "1": "B-PER"}}, r"names its classes \['B-PER', 'O'\]; expected 'style'"),
        ({"tessy": {"shift": 0}}, "labels shifted by 0; tessy reads heads shifted by 1"),
        ({"tessy": {"window": "all"}}, "'tessy.window' in its config is 'all'"),
        ({"tessy": [200]}, "'tessy' in its config is a list; expected a table"),
    ],
)
def test_a_config_that_means_something_else_is_refused(
    changed: dict[str, object], tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ModelError, match=complaint) as error:
        TokenClassifier(saved(changed | change, tmp_path), device="cpu")
    assert "\n" not in str(error.value)


def read_config(folder: Path, text: str) -> Reading:
    """How a classifier with this config.json reads; without its weights."""
    tiny.save_classifier(folder)
    (folder / "config.json").write_text(text)
    return reading(str(folder))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{}", (200, 1)),
        ('{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}', (200, 1)),
        ('{"id2label": {"0": "STYLE", "1": "capability"}, "tessy": {"window": 64}}', (64, 0)),
        ('{"tessy": {"window": 300, "shift": 1}, "max_position_embeddings": 128}', (128, 1)),
    ],
)
def test_a_config_is_read_as_it_was_published(tmp_path: Path, config: str, expected: tuple[int, int]) -> None:
    read = read_config(tmp_path, config)
    assert (read.window, read.style) == expected


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("[]", "its config.json holds a list; expected a table"),
        ("{", "cannot load the boundary predictor"),
        ('{"id2label": ["style"]}', "'id2label' in its config is no table"),
        ('{"id2label": {"a": "style", "b": "capability"}}', "'id2label' in its config is no table"),
        ('{"tessy": {"window": true}}', "'tessy.window' in its config is True"),
    ],
)
def test_a_config_that_is_broken_is_one_line(tmp_path: Path, config: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint) as error:
        read_config(tmp_path, config)
    assert "\n" not in str(error.value)


def test_three_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 3 classes"):
        TokenClassifier(tiny.save_classifier(tmp_path, num_labels=3), device="cpu")


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no trained token classifier: it has no weights for 'score\.bias'"):
        TokenClassifier(tiny.save_speaker(tmp_path), device="cpu")


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the boundary predictor") as error:
        load_predictor(str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)


def test_torch_missing_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tessy.adapters.predictors import load_predictor\n"
        "load_predictor('rules')\n"
        "try: load_predictor('x')\n"
        "except Exception as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'tessy[local]'" in out


# --- what is read again -----------------------------------------------------------------------------------------


def thinking(seed: int, words: int) -> list[str]:
    """Words with the space before them, as a trajectory's drafts would bring them."""
    rng = random.Random(seed)
    return [" " + rng.choice(tiny.TEXT.split()) for _ in range(words)]


def drafts(seed: int, words: int) -> list[tuple[str, str]]:
    """What a predictor is asked while a thinking grows: of each draft the beginning is kept, the rest written anew."""
    rng, whole = random.Random(seed), thinking(seed, words)
    asked, kept = [], 0
    while kept < words:
        context = "".join(whole[:kept])
        other = [rng.choice(whole) for _ in range(rng.randint(0, 4))]
        keep = rng.randint(1, 6)
        asked.append((context, "".join([*whole[kept : kept + keep], *other])))
        kept += keep
    return asked


@pytest.mark.parametrize(
    "options",
    [
        *({"cache_tokens": tokens} for tokens in (32_768, 800, 1, 0)),
        {"runtime": "onnx"},
        {"runtime": "onnx", "cache_tokens": 800},
    ],
    ids=str,
)
async def test_reading_on_gives_the_marks_of_plain_forwards(folder: str, options: dict[str, Any]) -> None:
    classifier = TokenClassifier(folder, device="cpu", **options)

    async def follow(seed: int) -> None:
        for n, (context, draft) in enumerate(drafts(seed, 160)):
            marks = await classifier(context, draft)
            if n % 7 == seed % 7:
                assert_same(marks, alone(folder, context, draft))

    await asyncio.gather(*(follow(seed) for seed in range(7)))
    await classifier.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda"}, "expected device auto or cpu and dtype auto or float32, found cuda and auto"),
        ({"dtype": "bfloat16"}, "found auto and bfloat16"),
        ({"cache_tokens": 0}, "expected torch"),
    ],
)
def test_what_onnx_does_not_do_is_said(folder: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match="predictor_runtime onnx") as error:
        TokenClassifier(folder, runtime="onnx", **options)
    assert said in str(error.value)
    assert repr(folder) in str(error.value)


def test_onnx_runtime_missing_names_the_extra(folder: str) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from tessy.adapters.predictors import load_predictor\n"
        f"try: load_predictor({folder!r}, runtime='onnx')\n"
        "except Exception as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'tessy[onnx]'" in out
    assert folder in out


def tokens_read(classifier: TokenClassifier) -> list[int]:
    """How many tokens each forward from now on reads, padding included."""
    read: list[int] = []
    embeddings = model_of(classifier).get_input_embeddings()
    embeddings.register_forward_hook(lambda _, ids, __: read.append(ids[0].numel()))
    return read


async def test_only_what_is_new_is_read(classifier: TokenClassifier) -> None:
    text = tiny.TEXT
    read = tokens_read(classifier)
    for context, draft in ((text[:100], text[100:110]), (text[:105], text[105:120]), (text[:105], " but")):
        await classifier(context, draft)
    ids = [tiny.backend().encode(each).ids for each in (text[:110], text[:120], text[:105] + " but")]
    assert read == [
        len(ids[0]),
        len(ids[1]) - common(ids[0], ids[1]),
        len(ids[2]) - common(ids[1], ids[2]),
    ]
    assert sum(read[1:]) < len(ids[0]) / 2


async def test_texts_that_begin_alike_do_not_take_from_one_another(classifier: TokenClassifier) -> None:
    """As two trajectories of one question do, whose drafts come in turn."""
    one, other = (tiny.TEXT[:60] + "".join(thinking(seed, 40)) for seed in range(2))
    for text in (one, other):
        await classifier(text, " so")
    read = tokens_read(classifier)
    for _ in range(3):
        for text in (one, other):
            await classifier(text, " but then")
    assert max(read) <= 8


async def read_in_turn(folder: str, trajectories: int, in_flight: int) -> list[int]:
    """How many tokens are read for drafts of so many trajectories, each of which was asked for before."""
    classifier = load_predictor(folder, device="cpu", in_flight=in_flight)
    assert isinstance(classifier, TokenClassifier)
    texts = ["".join(thinking(seed, 20)) for seed in range(trajectories)]
    for text in texts:
        await classifier(text, " so")
    read = tokens_read(classifier)
    for text in texts:
        await classifier(text, " but then")
    await classifier.close()
    return read


async def test_there_is_room_for_the_trajectories_in_flight(folder: str) -> None:
    assert sum(await read_in_turn(folder, 160, in_flight=64)) > 160 * 50
    assert max(await read_in_turn(folder, 160, in_flight=160)) <= 8


async def test_room_beyond_the_usual_is_bounded_by_bytes(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, heads, size, float32 = 2, 2, 8, 4
    window = 256 * 2 * layers * heads * size * float32
    monkeypatch.setattr("tessy.adapters.predictors.classifier.CACHE_TOKENS", 1024)
    monkeypatch.setattr("tessy.adapters.predictors.classifier.CACHE_BYTES", 20 * window)
    assert max(await read_in_turn(folder, 18, in_flight=90)) <= 8
    assert sum(await read_in_turn(folder, 30, in_flight=90)) > 30 * 50


async def test_what_is_forgotten_is_not_held(folder: str) -> None:
    small = TokenClassifier(folder, device="cpu", cache_tokens=800)
    for seed in range(60):
        await small("".join(thinking(seed, 40)), " so")
    gc.collect()
    held = sum(type(each) is _Seen for each in gc.get_objects())
    await small.close()
    assert 0 < held < 30


async def test_a_failure_leaves_nothing_behind(classifier: TokenClassifier) -> None:
    before = await classifier(tiny.TEXT, " so")
    norm, model_of(classifier).model.norm = model_of(classifier).model.norm, None
    with pytest.raises(ModelError, match="failed: "):
        await classifier(tiny.TEXT, " and")
    model_of(classifier).model.norm = norm
    assert_same(await classifier(tiny.TEXT, " so"), before)


async def test_a_classifier_that_sees_both_ways_reads_each_window_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=302, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertForTokenClassification(config).eval()
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tiny.backend()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot read on"):
        TokenClassifier(str(tmp_path), runtime="onnx")
    encoder = TokenClassifier(str(tmp_path), device="cpu", max_tokens=100)
    asked = [(tiny.TEXT[:n], tiny.TEXT[n : n + 15]) for n in range(1, 90, 9)]
    for (context, draft), marks in zip(
        asked, await asyncio.gather(*(encoder(*a) for a in asked)), strict=True
    ):
        encoding = tiny.backend().encode(context + draft)
        with torch.no_grad():
            style = model(torch.tensor([encoding.ids])).logits.softmax(-1)[0, :, 1].tolist()
        starts = [start for start, _ in encoding.offsets]
        assert_same(
            marks,
            [Mark(s - len(context), style[n - 1]) for n, s in enumerate(starts) if n and s >= len(context)],
        )
    await encoder.close()


@pytest.fixture(scope="module")
def tiny_reading(folder: str) -> Reading:
    return reading(folder)


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, 6000), draft=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_window_is_the_end_of_the_text_and_moves_in_steps(
    tiny_reading: Reading, length: int, draft: int, seed: int
) -> None:
    text = "".join(thinking(seed, 2000))[: length + draft]
    excerpt = tiny_reading.excerpt(text[:length], text[length:])
    window = tiny_reading.tokens(excerpt)
    assert (len(text) - len(excerpt.text)) % 512 == 0
    assert text.endswith(excerpt.text)
    assert len(excerpt.text) < 200 * 8 + 512
    whole = tiny.backend().encode(excerpt.text, add_special_tokens=False).ids
    assert window.ids == whole[len(whole) - len(window.ids) :]
    assert (len(whole) - len(window.ids)) % 66 == 0
    assert len(window.ids) <= 200
    assert len(window.ids) > 200 - 66 or window.ids == whole
    # What begins where a handed context begins does not depend on how much of it is handed.
    skip = max(0, length - 2600) // 512 * 512
    assert tiny_reading.excerpt(text[skip:length], text[length:]) == excerpt


# --- rules --------------------------------------------------------------------------------------------------------


def style_of(context: str, draft: str) -> str:
    """`draft` with its style words in brackets."""
    marks = rule_marks(context, draft)
    ends = [*(mark.start for mark in marks), len(draft)][1:]
    pieces = [(draft[mark.start : end].strip(), mark.style) for mark, end in zip(marks, ends, strict=True)]
    return " ".join(f"[{piece}]" if style else piece for piece, style in pieces).replace("] [", " ")


@pytest.mark.parametrize(
    ("context", "draft", "expected"),
    [
        ("", "Okay, let's see. 3 + 4 = 7.", "[Okay, let's see.] 3 + 4 = 7."),
        ("", "So the total is 7. Wait, that is wrong", "[So] the total is 7. [Wait,] that is wrong"),
        ("", "Hmm... So now let me think\nWe sort", "[Hmm... So now let me think] We sort"),
        ("", "Let me compute 3*4 here", "[Let me compute] 3*4 here"),
        ("The sum", " is 12, but wait, no", "is 12, [but wait,] no"),
        ("The sum is 12.", " But the list so far", "[But] the list so far"),
        ("I said wait", " so long", "so long"),
        ("Let me think", " about it. Then x", "[about it. Then] x"),
        ("x " * 300, "wait for it", "wait for it"),
        ("x " * 300 + "\n", "wait for it", "[wait] for it"),
        ("", "“Well, however…”", "[“Well, however…”]"),
        ("", "嗯，三个苹果。等等，四个", "[嗯 ，] 三 个 苹 果 。 [等 等 ，] 四 个"),
        ("So", "", ""),
    ],
)
def test_rules(context: str, draft: str, expected: str) -> None:
    assert style_of(context, draft) == expected


async def test_rules_are_a_predictor() -> None:
    predictor = load_predictor("rules")
    assert isinstance(predictor, RuleBoundary)
    assert await predictor("", "So 7") == [Mark(0, 1.0), Mark(3, 0.0)]
    await predictor.close()
