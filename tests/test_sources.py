import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy.adapters.sources import read_questions, to_question
from tessy.errors import DataError
from tessy.questions import Message, Question

USER = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"question": "Why?"}, [("user", "Why?")]),
        ({"prompt": "Why?", "id": 3}, [("user", "Why?")]),
        ({"prompt": [USER]}, [("user", "Why?")]),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, USER]},
            [("system", "Be brief."), ("user", "Why?")],
        ),
        ({"dialogs": [USER, {"role": "assistant", "content": "Because."}]}, [("user", "Why?")]),
        (
            {
                "conversations": [
                    {"from": "human", "value": "A"},
                    {"from": "gpt", "value": "B"},
                    {"from": "human", "value": "C"},
                ]
            },
            [("user", "A"), ("assistant", "B"), ("user", "C")],
        ),
        ({"messages": None, "question": "Why?"}, [("user", "Why?")]),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}],
                    }
                ]
            },
            [("user", "Why?")],
        ),
    ],
)
def test_where_the_question_stands(row: dict[str, Any], messages: list[tuple[str, str]]) -> None:
    assert [(m.role, m.content) for m in to_question(row).messages] == messages


def test_the_other_fields_are_metadata() -> None:
    question = to_question({"question": "Why?", "answer": "42", "level": {"a": 1}})
    assert question.metadata == {"answer": "42", "level": {"a": 1}}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1], "expected an object with a question, found list"),
        (
            {"text": "Why?"},
            "expected one of the fields messages, dialogs, conversations, prompt, question; found text",
        ),
        ({"question": 3}, "question: expected text or a list of turns, found int"),
        ({"question": "  "}, "question: expected a user turn with text in it"),
        ({"messages": []}, "messages: expected a user turn"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages: expected a user turn"),
        ({"messages": ["Why?"]}, "messages[0]: expected role and content, found str"),
        (
            {"messages": [{"role": "user"}]},
            "messages[0]: expected role and content (or from and value) as text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0]: expected role and content",
        ),
    ],
)
def test_a_row_without_a_question(row: object, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        to_question(row)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"question": "Why?"', "line 3: is no JSON"),
        (b'{"question": "\xff"}', "line 3: is no JSON"),
        (b'{"question": "\\ud800"}', "line 3: is no JSON"),
        (b'{"q": 1}', "line 3: expected one of the fields"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"question": "A"}\n\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        list(read_questions(path))
    assert f"{path}: {expected}" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, text in (("none.jsonl", None), ("none.parquet", None), ("bad.parquet", b"PAR0")):
        if text:
            (tmp_path / name).write_bytes(text)
        with pytest.raises(DataError) as caught:
            list(read_questions(tmp_path / name))
        assert name in str(caught.value)


def test_parquet_and_jsonl_give_the_same_questions(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Q{n}"}], "gold": n} for n in range(300)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    assert list(read_questions(tmp_path / "q.jsonl")) == list(read_questions(tmp_path / "q.parquet"))


def test_a_questions_identity_is_its_messages() -> None:
    one = Question((Message("user", "Why?"),), {"a": 1})
    assert one.id == Question((Message("user", "Why?"),), {"b": 2}).id
    assert one.id != Question((Message("system", "x"), Message("user", "Why?"))).id
    # Written into run directories: it must never change.
    assert one.id == hashlib.sha256(b'[["user","Why?"]]').hexdigest()[:24]


@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_different_messages_have_different_ids(one: list[str], two: list[str]) -> None:
    ids = [Question(tuple(Message("user", text) for text in texts)).id for texts in (one, two)]
    assert (ids[0] == ids[1]) == (one == two)


ROWS = [{"question": f"Q{n}?"} for n in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def texts(path: Path) -> list[str]:
    return [question.text for question in read_questions(path)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", LINES.encode()),
        ("q.json", json.dumps(ROWS, indent=2).encode()),
        ("q.json", b" \n" + LINES.encode()),
        ("q.txt", LINES.encode()),
        # Without the time: each process that collects tests must name them alike.
        ("q.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("q.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
    ],
)
def test_the_forms_of_a_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert texts(tmp_path / name) == [f"Q{n}?" for n in range(5)]


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in (("b.jsonl", "B"), ("a.jsonl", "A"), ("sub/c.jsonl", "C"), (".hidden.jsonl", "no")):
        (tmp_path / name).write_text(json.dumps({"question": text}) + "\n")
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert texts(tmp_path) == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "expected a folder with JSONL, JSON or Parquet files, found none"),
        ({"a.csv": b"question\nWhy?\n"}, "expected a folder with JSONL, JSON or Parquet files, found none"),
        ({"a.jsonl": b"", "b.parquet": b""}, "expected files of one format, found a.jsonl and b.parquet"),
        ({"train.jsonl": b"", "test.jsonl": b""}, "holds several splits (test.jsonl and train.jsonl)"),
        ({"train-1.jsonl": b"", "dev/x.jsonl": b""}, "holds several splits"),
        ({"a.jsonl": b'{"question": "A"}\n', "b.jsonl": b'\n{"question": '}, "b.jsonl: line 2: is no JSON"),
        ({"a.json": b"[1, 2"}, "a.json: is no JSON"),
        ({"a.json": b"[1, 2]"}, "a.json: row 1: expected an object with a question, found int"),
        ({"a.jsonl.gz": b"no gzip"}, "a.jsonl.gz: cannot be read: Not a gzipped file"),
        (
            {"a.jsonl.gz": gzip.compress(b'{"question": "A"}', mtime=0)[:-6]},
            "a.jsonl.gz: cannot be read: Compressed file",
        ),
    ],
)
def test_a_folder_of_files_that_are_none(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        texts(tmp_path)
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_line_without_end_is_not_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(70):
            file.write(bytes(2**20))
    with pytest.raises(DataError, match="line 1: longer than 64 MiB"):
        texts(path)
