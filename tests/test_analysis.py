"""Every figure of an analysis on synthetic data with a known answer; and what is left out, and what is refused."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import orjson
import pytest
import torch
import yaml
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tessy.adapters.export import write_export
from tessy.adapters.marks import Verdict, write_verdicts
from tessy.adapters.sources import split_response
from tessy.adapters.store import to_row
from tessy.adapters.tokenizer import HFTokenizer
from tessy.cli import app
from tessy.core.formats import FORMATS, Thinking
from tessy.errors import ConfigError, DataError, TessyError
from tessy.programs.analysis import Analysis, AnalysisOptions, Measured, analyze, measure, score
from tessy.programs.analysis.scoring import pieces, predict
from tessy.programs.analysis.sources import judged, open_sources
from tessy.programs.analysis.tokens import doubling, in_classes
from tessy.programs.analysis.vectors import Answered, plane, tf_idf
from tessy.protocols import Mark
from tessy.questions import Message, Question
from tessy.trajectory import Label, Span, Speaker, StopReason, Trajectory
from tiny import save_speaker

S, T = Speaker.STUDENT, Speaker.TEACHER
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small real student, with a chat template."""
    folder = tmp_path_factory.mktemp("student")
    save_speaker(folder)
    path = folder / "tokenizer_config.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"chat_template": TEMPLATE}))
    return str(folder)


def question(n: int, metadata: Mapping[str, Any] | None = None) -> Question:
    return Question((Message("user", f"What is {n} + {n}?"),), metadata or {})


def trajectory(
    n: int,
    spans: Sequence[tuple[Speaker, str, int]],
    answer: str = "It is 4.",
    *,
    answerer: Speaker = S,
    index: int = 0,
    stop: StopReason = StopReason.FINISHED,
    metadata: Mapping[str, Any] | None = None,
) -> Trajectory:
    """Spans are given as speaker, text and tokens; the answer has 5 tokens."""
    kept = tuple(Span(speaker, text, tokens, 1, tokens) for speaker, text, tokens in spans)
    return Trajectory(question(n, metadata), index, kept, Span(answerer, answer, 5, 1, 5), stop)


def run(
    folder: Path,
    rows: Sequence[Trajectory],
    student: str | None = None,
    strategy: str = "tessy",
    failed: Sequence[str] = (),
) -> Path:
    """A run directory as a run leaves it."""
    folder.mkdir(parents=True)
    made = {"made_with": {"strategy": strategy}}
    lines = [orjson.dumps(to_row(row) | made) + b"\n" for row in rows]
    (folder / "trajectories.jsonl").write_bytes(b"".join(lines))
    failures = [orjson.dumps({"id": "x", "reason": reason}) + b"\n" for reason in failed]
    (folder / "failures.jsonl").write_bytes(b"".join(failures))
    if student:
        section = {"model": student, "base_url": "local", "format": "qwen3", "predictor": "rules"}
        (folder / "config.yaml").write_text(yaml.safe_dump({"student": section, "teacher": section}))
    return folder


def table(analysis: Analysis | Measured, name: str) -> list[dict[str, Any]]:
    (found,) = [table for table in analysis.tables if table.name == name]
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def reasons(analysis: Analysis | Measured) -> dict[str, str]:
    return {each.name: each.reason for each in analysis.left_out}


def both(n: int, scale: int = 1) -> Trajectory:
    """30 of the student's tokens and 70 of the teacher's, answer included; 2 switches in 95 tokens of thinking."""
    spans = [
        (S, "Okay, let us see.", 15 * scale),
        (T, " 2 + 2 = 4.", 70 * scale),
        (S, " So that is it.", 10 * scale),
    ]
    return trajectory(n, spans)


# --- figures with a known answer -------------------------------------------------------------------------------


def test_shares_counts_switches_and_spans_are_those_of_the_construction(tmp_path: Path, student: str) -> None:
    path = run(tmp_path / "run", [both(n) for n in range(4)], student)
    made = measure([path])
    (share,) = table(made, "token_shares")
    assert (share["student_tokens"], share["teacher_tokens"]) == (120, 280)
    assert (share["student_share"], share["teacher_share"]) == (0.3, 0.7)
    (switches,) = table(made, "switches")
    assert switches["mean"] == pytest.approx(2000 / 95)
    assert switches["trajectories"] == 4
    spans = {(row["speaker"], row["from"]): row["spans"] for row in table(made, "span_lengths")}
    assert {key: count for key, count in spans.items() if count} == {("student", 9): 8, ("teacher", 65): 4}
    (by_student, by_teacher) = table(made, "span_lengths_summary")
    assert (by_student["spans"], by_student["mean"], by_student["median"]) == (8, 12.5, 12.5)
    assert (by_teacher["spans"], by_teacher["mean"], by_teacher["p95"]) == (4, 70, 70)


def test_tokens_are_counted_in_the_students_vocabulary(tmp_path: Path, student: str) -> None:
    rows = [trajectory(n, [(T, "word " * n, 1)], "answer") for n in range(1, 41)]
    made = measure([run(tmp_path / "run", rows, student)])
    tokenizer = HFTokenizer(student)
    thinking = np.array([len(tokenizer.encode(("word " * n).strip())) for n in range(1, 41)])
    found = {row["part"]: row for row in table(made, "token_counts")}
    assert found["thinking"]["mean"] == pytest.approx(thinking.mean())
    assert found["thinking"]["p95"] == pytest.approx(np.quantile(thinking, 0.95))
    assert found["answer"]["median"] == len(tokenizer.encode("answer"))
    assert found["response"]["mean"] == pytest.approx(thinking.mean() + len(tokenizer.encode("answer")))


def test_without_a_vocabulary_tokens_are_those_that_are_told(tmp_path: Path) -> None:
    made = measure([run(tmp_path / "run", [both(1), both(2, scale=2)])])
    (row,) = table(made, "token_counts")
    assert (row["part"], row["mean"]) == ("response", (100 + 195) / 2)
    assert "tokenizer" in reasons(made)["pca"]


def test_a_batch_of_texts_is_encoded_as_each_of_them(student: str) -> None:
    tokenizer = HFTokenizer(student)
    texts = ["", "Okay, let me think.", "a </think> b <|end|>", "你好 naïve 12 + 7"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert all(token < tokenizer.size for ids in tokenizer.encode_batch(texts) for token in ids)
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode_batch(texts)[2])


@pytest.mark.parametrize(
    ("longest", "classes"), [(1, [(1, 1)]), (2, [(1, 1), (2, 2)]), (5, [(1, 1), (2, 2), (3, 4), (5, 8)])]
)
def test_classes_double(longest: int, classes: list[tuple[int, int]]) -> None:
    assert doubling(longest) == classes


def test_every_length_falls_into_the_class_that_holds_it() -> None:
    classes = doubling(1000)
    for length in range(1, 1001):
        found = in_classes(Counter({length: 3}), classes)
        (place,) = [n for n, count in enumerate(found) if count]
        assert classes[place][0] <= length <= classes[place][1]
        assert found[place] == 3


def test_who_ends_the_thinking_and_why_trajectories_stop(tmp_path: Path) -> None:
    spans = [(S, "a", 1), (T, "b", 1)]
    rows = [
        *(trajectory(n, [*spans, (S, "c", 1)]) for n in range(5)),
        *(trajectory(n, spans) for n in range(5, 7)),
        trajectory(8, spans, stop=StopReason.CLOSED),
    ]
    path = run(tmp_path / "run", rows, failed=["repetition", "timeout", "repetition"])
    made = measure([path])
    assert table(made, "ended_by") == [{"source": "tessy", "student": 5, "teacher": 2, "nobody": 1}]
    stops = {(row["outcome"], row["reason"]): row["count"] for row in table(made, "stops")}
    assert stops == {
        ("kept", "finished"): 7,
        ("kept", "closed"): 1,
        ("failed attempt", "repetition"): 2,
        ("failed attempt", "timeout"): 1,
    }


def test_accuracy_is_from_verdicts_and_else_from_gold_answers(tmp_path: Path) -> None:
    gold = {"answer": "4", "answer_kind": "math"}
    rows = [
        trajectory(1, [(S, "a", 10)], "The answer is 4.", metadata=gold),
        trajectory(2, [(S, "a", 20)], "The answer is 5.", metadata=gold),
        trajectory(3, [(S, "a", 30)], "The answer is 4.", metadata=gold),
        trajectory(4, [(S, "a", 40)], "The answer is 4."),
        trajectory(5, [(S, "a", 50)], "The answer is 4.", metadata=gold),
    ]
    path = run(tmp_path / "run", rows)
    write_verdicts(path, [Verdict(rows[4].id, False, ("wrong_answer",))])
    made = measure([path])
    (row,) = table(made, "accuracy")
    assert (row["judged"], row["right"], row["accuracy"], row["not_judged"]) == (4, 2, 0.5, 1)
    # Of the four judged, with 15, 25, 35 and 55 tokens, the first and the third are right.
    curve = {row["tokens"]: row["accuracy"] for row in table(made, "accuracy_by_length")}
    for limit, share in curve.items():
        assert share == (0.5 if limit >= 35 else 0.25 if limit >= 15 else 0)
    assert max(curve) == 55


@pytest.mark.parametrize(
    ("metadata", "right"),
    [
        ({}, None),
        ({"answer": "4"}, True),
        ({"answer": 4}, True),
        ({"answer": 4.0, "answer_kind": "math"}, True),
        ({"answer": 5}, False),
        ({"answer": None}, None),
        ({"answer": ["4"]}, None),
        ({"answer": "??", "answer_kind": "choice"}, None),
    ],
)
def test_gold_answers_of_all_forms(metadata: dict[str, Any], right: bool | None) -> None:
    assert judged("The answer is 4.", metadata) is right


def sources_of_words(tmp_path: Path, student: str) -> list[Path]:
    """30 responses each: one says "okay" twice and "so" once, the other "thus" once and "so" once."""
    one = [trajectory(n, [(S, f"okay okay so {n}", 4)], "yes") for n in range(30)]
    other = [trajectory(n, [(T, f"thus so {n}", 4)], "yes") for n in range(30)]
    return [
        run(tmp_path / "one", one, student, "student_only"),
        run(tmp_path / "other", other, student, "teacher_only"),
    ]


def test_words_for_every_thousand_tokens(tmp_path: Path, student: str) -> None:
    made = measure(sources_of_words(tmp_path, student))
    rows = {row["word"]: row for row in table(made, "words_1_2")}
    assert list(rows) == ["okay", "thus"]  # "so" and "yes" are as frequent in both, as far as can be told
    tokenizer = HFTokenizer(student)
    one, other = (
        sum(len(tokenizer.encode(f"{words} {n}")) + len(tokenizer.encode("yes")) for n in range(30))
        for words in ("okay okay so", "thus so")
    )
    assert rows["okay"]["student_only"] == pytest.approx(60_000 / one)
    assert rows["okay"]["teacher_only"] == 0
    assert rows["okay"]["log2_ratio"] == pytest.approx(math.log2(60.5 / (one + 0.5) / (0.5 / (other + 0.5))))
    assert rows["thus"]["teacher_only"] == pytest.approx(30_000 / other)


# --- vectors ---------------------------------------------------------------------------------------------------


def rows_of(*rows: Sequence[float]) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows, np.float32))


def test_tf_idf_is_what_scikit_learn_says_over_all_sources_together() -> None:
    drawn = np.random.default_rng(0).poisson(0.7, (40, 25)).astype(np.float32)
    drawn[3] = 0
    parts = [rows_of(*drawn[:15]), rows_of(*drawn[15:])]
    tf_idf(parts)
    expected = TfidfTransformer().fit_transform(drawn).toarray()
    assert sparse.vstack(parts).toarray() == pytest.approx(expected, abs=1e-6)


def test_tf_idf_by_hand() -> None:
    # Token 0 is in both responses and weighs 1, token 1 in one of two: ln(3/2) + 1.
    rows = rows_of([1, 0], [2, 1])
    tf_idf([rows])
    weight = math.log(3 / 2) + 1
    length = math.hypot(2, weight)
    assert rows.toarray() == pytest.approx(np.array([[1, 0], [2 / length, weight / length]]), abs=1e-6)


def test_similarities_by_hand() -> None:
    one = Answered(rows_of([1, 0], [0, 1], [0.6, 0.8]), ["a", "b", "a"])
    other = Answered(rows_of([0.8, 0.6], [1, 0]), ["a", "c"])
    # Question a: (1, 0) and (0.6, 0.8) with (0.8, 0.6): 0.8 and 0.96. Nobody else answers b or c.
    assert one.alike(other).mean == pytest.approx(0.88)
    assert one.alike(other).questions == 1
    assert one.alike_itself().mean == pytest.approx(0.6)
    assert one.alike_itself().questions == 1
    assert other.alike_itself().mean is None


def test_similarities_are_those_of_all_pairs() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.random((2, 30, 8))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    asked = [[str(n) for n in draw.integers(0, 9, 30)] for _ in range(2)]
    one, other = (Answered(rows_of(*vectors[n]), asked[n]) for n in range(2))
    means = []
    for name in sorted({*asked[0]} & {*asked[1]}):
        mine, theirs = (vectors[n][np.array(asked[n]) == name] for n in range(2))
        means.append((mine @ theirs.T).mean())
    assert one.alike(other).mean == pytest.approx(np.mean(means), abs=1e-6)
    assert other.alike(one).mean == pytest.approx(np.mean(means), abs=1e-6)


def test_the_plane_is_that_of_the_centred_matrix() -> None:
    draw = np.random.default_rng(2)
    dense = draw.poisson(0.5, (60, 20)).astype(np.float32) + np.arange(20, dtype=np.float32)
    found = plane([rows_of(*dense[:25]), rows_of(*dense[25:])])
    assert found is not None
    left, sizes, _ = np.linalg.svd(dense - dense.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * sizes[:2]
    points = np.vstack(found.points)
    for axis in range(2):
        sign = np.sign(points[:, axis] @ expected[:, axis])
        assert points[:, axis] == pytest.approx(sign * expected[:, axis], abs=2e-3)
    assert found.explained == pytest.approx(tuple(sizes[:2] ** 2 / (sizes**2).sum()), abs=1e-4)
    assert found.centroids[0] == pytest.approx(found.points[0].mean(axis=0))
    weighted = 25 * found.centroids[0] + 35 * found.centroids[1]
    assert weighted == pytest.approx(np.zeros(2), abs=1e-2)  # the mean of all is the origin


@pytest.mark.parametrize("rows", [[[1, 0]], [[1, 0], [0, 1]], [[1, 2]] * 5, [[0, 0]] * 5])
def test_where_there_is_no_plane_there_is_none(rows: list[list[float]]) -> None:
    assert plane([rows_of(*rows)]) is None


def test_points_on_a_line_have_a_plane() -> None:
    found = plane([rows_of(*([n, 2 * n, 0.0] for n in range(6)))])
    assert found is not None
    assert found.explained == pytest.approx((1, 0), abs=1e-5)
    assert np.isfinite(np.vstack(found.points)).all()


def test_one_source_between_two_others_lies_between_them(tmp_path: Path, student: str) -> None:
    """The paper's picture: half the student's words, half the teacher's."""
    okay, thus = "okay hmm wait let me see now ", "thus hence we obtain directly "
    texts = {"student_only": okay * 4, "tessy": okay * 3 + thus, "teacher_only": thus * 4}
    paths = [
        run(tmp_path / name, [trajectory(n, [(S, f"{text}{n}", 9)]) for n in range(12)], student, name)
        for name, text in texts.items()
    ]
    made = measure(paths)
    x = {row["source"]: row["x"] for row in table(made, "pca")}
    shift = (x["tessy"] - x["student_only"]) / (x["teacher_only"] - x["student_only"])
    assert 0 < shift < 0.5
    alike = {(row["source"], row["other"]): row for row in table(made, "similarity")}
    assert alike["tessy", "student_only"]["questions"] == 12
    assert alike["tessy", "student_only"]["similarity"] > alike["teacher_only", "tessy"]["similarity"]
    assert alike["teacher_only", "tessy"]["similarity"] > alike["teacher_only", "student_only"]["similarity"]
    assert alike["tessy", "tessy"]["similarity"] is None


def test_an_export_of_a_run_measures_as_the_run_does(tmp_path: Path, student: str) -> None:
    rows = [trajectory(n, [(S, "\nokay " * n, n), (T, f" thus {n} ", 2)]) for n in range(1, 9)]
    path = run(tmp_path / "run", rows, student)
    write_export(rows, tmp_path / "set.jsonl")
    made = measure([path, tmp_path / "set.jsonl"])
    for name in ("token_counts", "token_shares", "pca"):
        one, other = (
            [row for row in table(made, name) if row["source"] == source] for source in ("tessy", "set")
        )
        assert [row | {"source": ""} for row in one] == [row | {"source": ""} for row in other]
    alike = {(row["source"], row["other"]): row["similarity"] for row in table(made, "similarity")}
    assert alike["set", "tessy"] == pytest.approx(1, abs=1e-6)


# --- on-policyness ---------------------------------------------------------------------------------------------


def nats(student: str, trajectory: Trajectory) -> tuple[list[float], list[float], list[int]]:
    """The oracle: one forward. Nats of the thinking's and of the answer's tokens, and where the former begin."""
    tokenizer = HFTokenizer(student)
    thinking, answer = (
        trajectory.thinking.strip(),
        trajectory.answer.text.strip() if trajectory.answer else "",
    )
    prompt = Thinking(FORMATS["qwen3"], tokenizer).prompt(trajectory.messages)
    parts = [
        prompt,
        tokenizer.encode(thinking),
        tokenizer.encode_markup("\n</think>\n\n"),
        tokenizer.encode(answer),
    ]
    ids = [token for part in parts for token in part]
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).eval()
        log = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    read = [-float(log[at - 1, ids[at]]) for at in range(1, len(ids))]
    first = len(prompt) - 1
    starts = [len(tokenizer.decode(parts[1][:n])) for n in range(len(parts[1]))]
    return read[first : first + len(parts[1])], read[len(read) - len(parts[3]) :], starts


async def test_log_likelihoods_are_those_of_a_direct_forward_split_by_speaker(
    tmp_path: Path, student: str
) -> None:
    # The student is trained under the system prompt that a row has, so it reads it under that.
    rows = [both(0), both(1), replace(both(2), system="Be brief.")]
    path = run(tmp_path / "run", rows, student)
    scores = await score([path], AnalysisOptions())
    made = measure([path], scores=scores)
    found = {row["kind"]: row for row in table(made, "on_policy")}
    expected: dict[str, list[float]] = {"style": [], "capability": [], "answer": []}
    for row in rows:
        thinking, answer, starts = nats(student, row)
        turns = len(row.spans[0].text), len(row.spans[0].text) + len(row.spans[1].text)
        for value, start in zip(thinking, starts, strict=True):
            expected["capability" if turns[0] <= start < turns[1] else "style"].append(value)
        expected["answer"] += answer
    expected["thinking"] = expected["style"] + expected["capability"]
    expected["all"] = expected["thinking"] + expected["answer"]
    for kind, values in expected.items():
        assert found[kind]["tokens"] == len(values)
        assert found[kind]["nll"] == pytest.approx(np.mean(values), abs=1e-4)
        assert found[kind]["perplexity"] == pytest.approx(math.exp(found[kind]["nll"]))
        assert found[kind]["responses"] == 3


async def test_one_speaker_alone_is_split_by_a_predictor(tmp_path: Path, student: str) -> None:
    text = "Okay, let me think. 17 + 4 = 21 and 3 * 7 = 21. Wait, but 21 is fine. " * 2
    path = run(tmp_path / "run", [trajectory(1, [(T, text, 50)], answerer=T)], student, "teacher_only")
    scores = await score([path], AnalysisOptions(scored=5))
    assert scores.predicted == {"teacher_only"}
    made = measure([path], scores=scores)
    found = {row["kind"]: row["tokens"] for row in table(made, "on_policy")}
    assert found["style"] > 0
    assert found["capability"] > 0
    assert found["style"] + found["capability"] == found["thinking"]


async def test_kinds_are_predicted_piece_by_piece() -> None:
    """A predictor that knows the answer, whatever the pieces: words of lower case are style."""
    text = "so WE have it " * 400 + "x" * 3000 + " okay THEN"

    async def knows(context: str, draft: str) -> list[Mark]:
        assert text.startswith(context[-10:] + draft) or (context + draft) in text
        return [Mark(word.start(), float(word[0].islower())) for word in re.finditer(r"\S+", draft)]

    kinds = await predict(knows, text, 0.5)
    assert kinds is not None
    for word in re.finditer(r"\S+", text):
        expected = Label.STYLE if word[0].islower() else Label.CAPABILITY
        assert {kinds.at(n) for n in range(*word.span())} == {expected}
    assert await predict(knows, "", 0.5) is None
    assert "".join(text[start:end] for start, end in pieces(text)) == text


async def test_published_rows_are_read_as_the_runs_they_come_from(tmp_path: Path, student: str) -> None:
    rows = [both(n) for n in range(2)]
    path = run(tmp_path / "run", rows, student)
    write_export(rows, tmp_path / "set.jsonl", "messages")
    scores = await score([path, tmp_path / "set.jsonl"], AnalysisOptions())
    whole = {
        name: [each["all"] for each in sorted(scored, key=lambda each: each["all"].nats)]
        for name, scored in scores.by_source.items()
    }
    assert whole["tessy"] == whole["set"]
    assert "style" not in scores.by_source["set"][0]


async def test_responses_longer_than_the_context_are_told(tmp_path: Path, student: str) -> None:
    rows = [trajectory(1, [(S, "abc " * 400, 5)]), trajectory(2, [(S, "abc", 5)])]
    path = run(tmp_path / "run", rows, student)
    scores = await score([path], AnalysisOptions())
    assert scores.refused == {"tessy": 1}
    made = measure([path], scores=scores)
    (figure,) = [figure for figure in made.parts if figure.name == "on_policy"]
    assert "Not read, since longer than the student's context: 1 of tessy." in figure.caption


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (AnalysisOptions(scored=0), "not asked"),
        (AnalysisOptions(), "no source says which model"),
        (AnalysisOptions(model="nobody/nothing-of-that-name"), "no server"),
        (
            AnalysisOptions(model="x", base_urls=("http://127.0.0.1:9/v1",), tokenizer="STUDENT"),
            "connection refused",
        ),
    ],
)
async def test_a_student_that_cannot_be_asked_is_a_reason(
    tmp_path: Path, student: str, options: AnalysisOptions, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if options.tokenizer:
        options = AnalysisOptions(model=options.model, base_urls=options.base_urls, tokenizer=student)
    path = run(tmp_path / "run", [both(1)])
    scores = await score([path], options)
    assert reason in scores.reason
    assert reason in reasons(measure([path], scores=scores))["on_policy"]


# --- what is left out, and what is refused ---------------------------------------------------------------------


def test_an_empty_run_leaves_out_everything(tmp_path: Path, student: str) -> None:
    made = measure([run(tmp_path / "run", [], student)])
    assert made.parts == ()
    assert set(reasons(made)) == {
        "token_shares", "token_counts", "switches", "span_lengths", "ended_by", "stops", "accuracy",
        "pca", "similarity", "words", "on_policy",
    }  # fmt: skip
    assert all(reasons(made).values())
    assert table(made, "sources")[0]["responses"] == 0


def test_an_empty_source_beside_another_changes_nothing(tmp_path: Path, student: str) -> None:
    full, empty = run(tmp_path / "full", [both(n) for n in range(4)], student), run(tmp_path / "empty", [])
    alone, beside = measure([full]), measure([full, f"empty={empty}"])
    assert {part.name for part in alone.parts} == {part.name for part in beside.parts}
    assert table(alone, "token_shares") == [
        row | {"source": "tessy"} for row in table(beside, "token_shares")
    ]


def test_one_source_has_nothing_to_be_compared_with(tmp_path: Path, student: str) -> None:
    rows = [trajectory(n, [(S, "so " * n, n), (T, f" thus {n}", 2)]) for n in range(1, 5)]
    left_out = reasons(measure([run(tmp_path / "run", rows, student)]))
    assert set(left_out) == {"accuracy", "similarity", "words", "on_policy"}
    assert "gold" in left_out["accuracy"]
    assert "same question" in left_out["similarity"]
    assert "two sources" in left_out["words"]


def test_sources_without_shared_questions_and_without_a_teacher(tmp_path: Path, student: str) -> None:
    paths = [
        run(
            tmp_path / str(start),
            [trajectory(n, [(S, f"so {n}", 2)]) for n in range(start, start + 4)],
            student,
        )
        for start in (0, 10)
    ]
    left_out = reasons(measure(paths))
    assert "same question" in left_out["similarity"]
    assert "two speakers" in left_out["switches"]
    assert "two speakers" in left_out["span_lengths"]


def test_several_responses_to_a_question_are_alike_to_one_another(tmp_path: Path, student: str) -> None:
    rows = [trajectory(1, [(S, "okay then", 2)], index=index) for index in range(3)]
    made = measure([run(tmp_path / "run", rows, student)])
    assert table(made, "similarity") == [
        {"source": "tessy", "other": "tessy", "similarity": pytest.approx(1, abs=1e-6), "questions": 1}
    ]


@pytest.mark.parametrize(
    ("content", "apart", "expected"),
    [
        ("<think>\na\nb\n</think>\n\nc", None, ("a\nb", "c")),
        ("a</think>c", None, ("a", "c")),
        ("c", None, ("", "c")),
        ("<think>a", None, ("", "<think>a")),
        ("c", "a", ("a", "c")),
        ("<think></think>c</think>", None, ("", "c</think>")),
    ],
)
def test_responses_fall_into_thinking_and_answer(
    content: str, apart: str | None, expected: tuple[str, str]
) -> None:
    assert split_response(content, apart) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "line 1: expected an object"),
        ({"question": "q"}, "line 1: expected a response"),
        ({"messages": [{"role": "user", "content": "q"}]}, "ends with the assistant"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]}, "as text"),
        ({"dialogs": []}, "line 1: dialogs: expected a user turn"),
    ],
)
def test_published_rows_that_are_none(tmp_path: Path, row: object, message: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    with pytest.raises(DataError, match=message):
        measure([path])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["nothing"], "nothing: expected a run directory or"),
        (["a=nothing"], "nothing: expected a run directory or"),
        (["a=run", "a=other"], "two sources have this name"),
    ],
)
def test_sources_that_are_none(
    tmp_path: Path, sources: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run", "other"):
        run(tmp_path / name, [both(1)])
    with pytest.raises(DataError, match=message):
        open_sources(sources)


def test_sources_get_names_of_their_own(tmp_path: Path) -> None:
    paths = [run(tmp_path / name / "run", [both(1)], strategy=strategy) for name, strategy in
             (("x", "tessy"), ("y", "tessy"), ("z", "student_only"))]  # fmt: skip
    assert [source.name for source in open_sources(paths)] == ["x/run", "y/run", "student_only"]
    assert [source.name for source in open_sources([paths[0], f"mine={paths[1]}"])] == ["tessy", "mine"]
    assert [source.name for source in open_sources([paths[0], paths[0]])] == ["x/run 1", "x/run 2"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("trajectories.jsonl", b"{}\n", "is no row of a run"),
        ("failures.jsonl", b"no\n", "failures.jsonl: line 1: is no JSON"),
        ("failures.jsonl", b"[]\n", "failures.jsonl: line 1: expected a failed attempt"),
        ("marks.jsonl", b"[]\n", "marks.jsonl: line 1"),
        ("config.yaml", b"a: [", "config.yaml: cannot be read"),
        ("config.yaml", b"student: {model: x, format: nothing}", "format"),
        ("config.yaml", b"student: {model: ''}", "model"),
    ],
)
def test_runs_with_something_broken(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    path = run(tmp_path / "run", [both(1)])
    (path / file).write_bytes(content)
    with pytest.raises(TessyError, match=message):
        measure([path])


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = run(tmp_path / "run", [both(1)], failed=["timeout"])
    for name in ("trajectories.jsonl", "failures.jsonl"):
        with (path / name).open("ab") as file:
            file.write(b'{"id": "ha')
    made = measure([path])
    assert table(made, "sources")[0]["responses"] == 1
    assert table(made, "sources")[0]["failed_attempts"] == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cannot be written"):
        analyze([run(tmp_path / "run", [both(1)])], tmp_path / "file" / "out")


def test_an_option_that_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="student: format"):
        measure([run(tmp_path / "run", [both(1)])], AnalysisOptions(model="x", format="klingon"))


# --- files -----------------------------------------------------------------------------------------------------


def everything(folder: Path, student: str, out: Path) -> Analysis:
    """An analysis with every figure but that of on-policyness, and with hostile names and words."""
    evil = 'Wait <script>alert("1")</script> $x^2$ 你好 \u202e =1+1 '
    paths = [
        run(
            folder / name,
            [
                trajectory(
                    n,
                    [(S, first, 4), (T, f"{text}{n}", 9), (S, " so", 1)],
                    f"The answer is {2 * n}.",
                    metadata={"answer": str(2 * n)},
                )
                for n in range(25)
            ],
            student,
            failed=["a $ reason", "</svg>"],
        )
        for name, first, text in (("one", "okay ", evil * 2), ("two", "thus ", "hence " * 60))
    ]
    return analyze([f"$1$ 你好={paths[0]}", paths[1]], out)


def test_figures_and_tables_are_on_disk_and_the_same_each_time(tmp_path: Path, student: str) -> None:
    made = everything(tmp_path / "a", student, tmp_path / "out")
    again = everything(tmp_path / "b", student, tmp_path / "again")
    assert {figure.name for figure in made.figures} == {
        "token_shares", "token_counts", "switches", "span_lengths", "ended_by", "stops", "accuracy",
        "pca", "similarity", "words_1_2",
    }  # fmt: skip
    for one, other in zip(made.figures, again.figures, strict=True):
        assert one.svg.read_bytes() == other.svg.read_bytes()
        assert one.png.read_bytes() == other.png.read_bytes()
        assert one.png.read_bytes().startswith(b"\x89PNG")
    index = orjson.loads((tmp_path / "out" / "analysis.json").read_bytes())
    assert [figure["svg"] for figure in index["figures"]] == [f"{figure.name}.svg" for figure in made.figures]
    assert index["left_out"][0]["reason"]
    for entry in index["tables"]:
        with (tmp_path / "out" / entry["csv"]).open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        rows = orjson.loads((tmp_path / "out" / entry["json"]).read_bytes())["rows"]
        (expected,) = [each for each in made.tables if each.name == entry["name"]]
        assert lines[0] == list(expected.columns)
        assert len(lines) - 1 == len(rows) == len(expected.rows)


def test_model_text_cannot_run_in_a_figure(tmp_path: Path, student: str) -> None:
    made = everything(tmp_path / "runs", student, tmp_path / "out")
    for figure in made.figures:
        tree = ElementTree.fromstring(figure.svg.read_text(encoding="utf-8"))
        tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
        assert not tags & {"script", "foreignObject", "a", "text"}
        assert not [
            name for element in tree.iter() for name in element.attrib if name.lower().startswith("on")
        ]
    words = {row["word"] for row in table(made, "words_1_2")}
    assert "script" in words
    assert "你好" in words


def test_a_formula_in_a_table_is_text_in_the_csv(tmp_path: Path) -> None:
    path = run(tmp_path / "run", [both(1)], failed=["=cmd()"])
    analyze([path], tmp_path / "out")
    assert "'=cmd()" in (tmp_path / "out" / "stops.csv").read_text(encoding="utf-8")


def test_the_command(tmp_path: Path, student: str) -> None:
    path = run(tmp_path / "run", [both(n) for n in range(3)], student)
    result = CliRunner().invoke(app, ["analyze", str(path), "--to", str(tmp_path / "out"), "--scored", "2"])
    assert result.exit_code == 0, result.output
    assert "on_policy.png" in result.output
    assert "left out: Right answers: no source has gold answers" in result.output
    assert (tmp_path / "out" / "analysis.json").exists()
