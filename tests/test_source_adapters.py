"""Each data set's real schema: what its rows become, and what is said of a row that is not what it should be."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from published import published
from tessy.adapters.sources import ADAPTERS, Asked, Fields, Source, open_source
from tessy.adapters.sources.sets import BOXED, CHOICE, FUNCTION_PROGRAM, STDIN_PROGRAM, recognised
from tessy.adapters.sources.template import MAX_PROMPT, PromptTemplate
from tessy.errors import ConfigError, DataError

SUPERGPQA = {
    "uuid": "u1",
    "question": "Colors in a soap bubble result from light",
    "options": ["dispersion", "interference", "diffraction"],
    "answer": "interference",
    "answer_letter": "B",
    "discipline": "Science",
    "field": "Physics",
    "subfield": "Optics",
    "difficulty": "easy",
    "is_calculation": False,
}
DEEPMATH = {
    "question": "Evaluate the limit.",
    "final_answer": "0",
    "difficulty": 4.5,
    "topic": "Mathematics -> Precalculus",
    "r1_solution_1": "Okay, so …",
    "r1_solution_2": "Hmm …",
    "r1_solution_3": "First …",
}
OPENTHOUGHTS = {
    "system": "Your role as an assistant involves …",
    "conversations": [
        {"from": "user", "value": f"{BOXED}What is 2+2?"},
        {"from": "assistant", "value": "<|begin_of_thought|> …"},
    ],
}
OPENTHOUGHTS_PROBLEM = {
    "problem": "What is 2+2?",
    "deepseek_reasoning": "Okay …",
    "deepseek_solution": "4",
    "ground_truth_solution": "It is \\boxed{1} or rather \\boxed{\\frac{8}{2}}.",
    "domain": "math",
    "source": "numina_math",
    "test_cases": None,
    "starter_code": None,
}
OPENTHOUGHTS_3 = {
    "difficulty": 7,
    "source": "stackexchange_codegolf",
    "domain": "code",
    "conversations": [{"from": "human", "value": "Golf it."}, {"from": "gpt", "value": "<think>…"}],
}
NEMOTRON = {
    "uuid": "u2",
    "license": "CC BY 4.0",
    "generator": "DeepSeek-R1-0528",
    "version": "v1",
    "category": "math",
    "reasoning": "on",
    "messages": [
        {"role": "system", "content": "", "tool_calls": []},
        {"role": "user", "content": "What is 2+2?", "tool_calls": []},
        {"role": "assistant", "content": "<think>…</think>4", "tool_calls": []},
    ],
    "metadata": '{"expected_answer": "4", "problem_source": "aops"}',
}
LLAMA_NEMOTRON = {
    "input": [{"role": "user", "content": "Sort a list."}],
    "output": "<think>…",
    "category": "code",
    "license": "cc-by-4.0",
    "reasoning": "on",
    "generator": "DeepSeek-R1",
    "used_in_training": "Ultra",
    "version": "v1.1",
    "system_prompt": "detailed thinking on",
}
OPEN_CODE_REASONING = {
    "id": "d1",
    "input": "Given n, print n.",
    "output": "<think>…",
    "source": "codeforces",
    "license": "cc-by-4.0",
    "dataset": "code_contests",
    "split": "train",
    "difficulty": "11",
    "solution": "print(input())",
}
GSM8K = {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,004"}


def asked(row: dict[str, Any], name: str | None = None) -> Asked:
    found = (ADAPTERS[name] if name else recognised(row)).convert(row)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("row", "adapter", "prompt", "metadata"),
    [
        (
            SUPERGPQA,
            "supergpqa",
            f"{CHOICE}\n\nColors in a soap bubble result from light\nA) dispersion\nB) interference\nC) diffraction",
            {
                "uuid": "u1",
                "options": SUPERGPQA["options"],
                "discipline": "Science",
                "field": "Physics",
                "subfield": "Optics",
                "difficulty": "easy",
                "is_calculation": False,
                "answer": "B",
                "answer_kind": "choice",
                "answer_text": "interference",
            },
        ),
        (
            DEEPMATH,
            "deepmath",
            "Evaluate the limit.",
            {
                "difficulty": 4.5,
                "topic": "Mathematics -> Precalculus",
                "answer": "0",
                "answer_kind": "math",
            },
        ),
        (OPENTHOUGHTS, "openthoughts", f"{BOXED}What is 2+2?", {}),
        (
            OPENTHOUGHTS_PROBLEM,
            "openthoughts",
            f"{BOXED}What is 2+2?",
            {
                "ground_truth_solution": OPENTHOUGHTS_PROBLEM["ground_truth_solution"],
                "domain": "math",
                "source": "numina_math",
                "test_cases": None,
                "starter_code": None,
                "answer": "\\frac{8}{2}",
                "answer_kind": "math",
            },
        ),
        (
            OPENTHOUGHTS_3,
            "openthoughts",
            "Golf it.",
            {"difficulty": 7, "source": "stackexchange_codegolf", "domain": "code"},
        ),
        (
            NEMOTRON,
            "nemotron",
            "What is 2+2?",
            {
                "uuid": "u2",
                "license": "CC BY 4.0",
                "generator": "DeepSeek-R1-0528",
                "version": "v1",
                "category": "math",
                "reasoning": "on",
                "metadata": NEMOTRON["metadata"],
                "answer": "4",
                "answer_kind": "math",
            },
        ),
        (
            LLAMA_NEMOTRON,
            "nemotron",
            "Sort a list.",
            {
                "category": "code",
                "license": "cc-by-4.0",
                "reasoning": "on",
                "generator": "DeepSeek-R1",
                "used_in_training": "Ultra",
                "version": "v1.1",
            },
        ),
        (
            OPEN_CODE_REASONING,
            "nemotron",
            "Given n, print n.",
            {
                "id": "d1",
                "source": "codeforces",
                "license": "cc-by-4.0",
                "dataset": "code_contests",
                "split": "train",
                "difficulty": "11",
            },
        ),
        (
            GSM8K,
            "gsm8k",
            "How many?",
            {"answer": "1,004", "answer_kind": "math", "solution": "2 + 2 = <<2+2=4>>4"},
        ),
        ({"prompt": "Why?", "id": 1}, "conversation", "Why?", {"id": 1}),
    ],
)
def test_a_row_of_each_set(row: dict[str, Any], adapter: str, prompt: str, metadata: dict[str, Any]) -> None:
    assert recognised(row).name == adapter
    question = asked(row).question
    assert [(m.role, m.content) for m in question.messages] == [("user", prompt)]
    assert question.metadata == metadata


@pytest.mark.parametrize(
    ("row", "own"),
    [
        (SUPERGPQA, "Colors in a soap bubble result from light\ndispersion\ninterference\ndiffraction"),
        (OPENTHOUGHTS, "What is 2+2?"),
        (OPENTHOUGHTS_PROBLEM, "What is 2+2?"),
    ],
)
def test_what_is_compared_is_the_questions_own_words(row: dict[str, Any], own: str) -> None:
    assert asked(row).text == own


@pytest.mark.parametrize(
    ("tests", "starter", "prompt"),
    [
        ('{"inputs": ["1"], "outputs": ["1"]}', None, f"{STDIN_PROGRAM}Add."),
        ('{"fn_name": "add"}', "def add():", f"{FUNCTION_PROGRAM}Add.\ndef add():"),
        ("no JSON", "", f"{STDIN_PROGRAM}Add."),
    ],
)
def test_openthoughts_contests(tests: str, starter: str | None, prompt: str) -> None:
    row = OPENTHOUGHTS_PROBLEM | {
        "problem": "Add.", "domain": "code", "test_cases": tests, "starter_code": starter
    }  # fmt: skip
    found = asked(row)
    assert found.question.text == prompt
    assert found.text == "Add."
    assert found.question.metadata["test_cases"] == tests
    assert "answer" not in found.question.metadata


def test_a_system_prompt_is_kept_unless_it_prescribes_a_way_of_thinking() -> None:
    kept = NEMOTRON | {"messages": [{"role": "system", "content": "Be brief."}, NEMOTRON["messages"][1]]}
    assert [m.role for m in asked(kept).question.messages] == ["system", "user"]
    switch = NEMOTRON | {
        "messages": [{"role": "system", "content": "detailed thinking off"}, NEMOTRON["messages"][1]]
    }
    assert [m.role for m in asked(switch).question.messages] == ["user"]


@pytest.mark.parametrize(
    "row",
    [
        OPEN_CODE_REASONING | {"input": "-"},
        NEMOTRON | {"messages": [{"role": "user", "content": "-"}, {"role": "assistant", "content": "x"}]},
        LLAMA_NEMOTRON | {"input": [{"role": "user", "content": ""}]},
    ],
)
def test_a_question_that_the_set_withholds_is_none(row: dict[str, Any]) -> None:
    assert ADAPTERS["nemotron"].convert(row) is None


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize(
    ("adapter", "row", "expected"),
    [
        ("supergpqa", without(SUPERGPQA, "options"), "expected the column options; found uuid, question"),
        ("supergpqa", SUPERGPQA | {"question": None}, "question: expected text, found NoneType"),
        ("supergpqa", SUPERGPQA | {"question": " "}, "question: expected text, found none"),
        ("supergpqa", SUPERGPQA | {"options": "A, B"}, "options: expected a list of texts, found 'A, B'"),
        ("supergpqa", SUPERGPQA | {"options": ["A", 2]}, "options: expected a list of texts"),
        ("supergpqa", SUPERGPQA | {"options": ["A"]}, "options: expected 2 to 10, found 1"),
        ("supergpqa", SUPERGPQA | {"options": ["A"] * 11}, "options: expected 2 to 10, found 11"),
        (
            "supergpqa",
            SUPERGPQA | {"answer_letter": "D"},
            "answer_letter: expected a letter from A to C, found 'D'",
        ),
        ("supergpqa", SUPERGPQA | {"answer_letter": ""}, "answer_letter: expected text, found none"),
        ("supergpqa", SUPERGPQA | {"answer_letter": "AB"}, "answer_letter: expected a letter from A to C"),
        ("supergpqa", SUPERGPQA | {"answer_letter": 1}, "answer_letter: expected text, found int"),
        ("deepmath", without(DEEPMATH, "final_answer"), "expected the column final_answer; found question"),
        ("deepmath", DEEPMATH | {"final_answer": None}, "final_answer: expected an answer, found None"),
        ("deepmath", DEEPMATH | {"final_answer": ["0"]}, "final_answer: expected an answer, found ['0']"),
        ("openthoughts", {"system": "x"}, "expected one of the fields"),
        ("openthoughts", {"conversations": "Why?", "system": 1} | {"conversations": 3}, "found int"),
        ("openthoughts", {"conversations": []}, "conversations: expected a user turn"),
        (
            "openthoughts",
            {"conversations": [{"from": "gpt", "value": "x"}]},
            "conversations: expected a user turn with text in it",
        ),
        ("openthoughts", OPENTHOUGHTS_PROBLEM | {"problem": 3}, "problem: expected text, found int"),
        ("nemotron", {"output": "x"}, "expected the column messages or input; found output"),
        ("nemotron", NEMOTRON | {"messages": "Why?\n<|start_header_id|>"}, "is rendered in a chat template"),
        ("nemotron", NEMOTRON | {"messages": [3]}, "messages[0]: expected role and content, found int"),
        ("gsm8k", {"question": "How many?", "answer": "four"}, "answer: expected `#### N` at its end"),
        ("gsm8k", {"question": "How many?", "answer": "4 ####  "}, "answer: expected `#### N` at its end"),
        ("gsm8k", {"question": "How many?"}, "expected the column answer; found question"),
    ],
)
def test_a_row_that_is_not_what_it_should_be(adapter: str, row: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        ADAPTERS[adapter].convert(row)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_adapters_that_fit_are_both_named() -> None:
    with pytest.raises(DataError, match="the adapters supergpqa and deepmath: name one"):
        recognised(SUPERGPQA | {"final_answer": "0"})


# Files and folders


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(source: Source) -> list[str]:
    return [found.question.text for _, found in open_source(source).questions() if found]


def error_of(source: Source) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        texts(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_examples() -> None:
    def examples(name: str) -> list[Asked]:
        return [a for _, a in open_source(Source(str(published("questions", name)))).questions() if a]

    found = examples("supergpqa-5.jsonl")
    assert [a.question.metadata["answer"] for a in found] == ["H", "E", "A", "E", "A"]
    assert all(a.question.text.startswith(CHOICE) for a in found)
    found = examples("gsm8k-400.jsonl")
    assert [a.question.metadata["answer"] for a in found[:4]] == ["18", "3", "70000", "540"]
    assert len(found) == 400


def test_a_folder_laid_out_like_the_hubs(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    for config in ("main", "socratic"):
        for split in ("train", "test"):
            rows = [{"question": f"{config} {split} {n}?", "answer": f"#### {n}"} for n in range(3)]
            write(folder / config / f"{split}-00000-of-00001.parquet", rows)
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {config}\n  data_files:\n"
            + "".join(f"  - split: {s}\n    path: {config}/{s}-*\n" for s in ("train", "test"))
            for config in ("main", "socratic")
        )
        + "---\n"
    )
    assert texts(Source(str(folder), name="main", split="test")) == [f"main test {n}?" for n in range(3)]
    assert texts(Source(str(folder), name="socratic", split="train"))[0] == "socratic train 0?"
    assert "expected one split, found train, test" in error_of(Source(str(folder), name="main"))
    assert "no split 'dev'; it has train, test" in error_of(Source(str(folder), name="main", split="dev"))
    assert "'none' not found" in error_of(Source(str(folder), name="none"))
    assert "main" in error_of(Source(str(folder), split="test"))
    assert "holds several splits" in error_of(Source(str(folder)))


def test_files_through_the_hubs_reader_name_what_is_wrong(tmp_path: Path) -> None:
    broken = write(tmp_path / "bad" / "train.jsonl", [GSM8K])
    broken.write_text(broken.read_text() + '{"question": ')
    assert "cannot be read" in error_of(Source(str(tmp_path / "bad"), split="train"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "train.jsonl").write_text("")
    assert "expected rows, found none" in error_of(Source(str(tmp_path / "empty"), split="train"))
    write(tmp_path / "wrong" / "train.jsonl", [GSM8K, {"question": "How many?", "answer": "four"}])
    assert "train row 2: answer: expected `#### N`" in error_of(
        Source(str(tmp_path / "wrong"), split="train")
    )


def test_an_adapter_is_recognised_by_the_first_row(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [DEEPMATH, GSM8K])
    assert f"{path}: line 2: expected the column final_answer; found question, answer" in error_of(
        Source(str(path))
    )
    path = write(tmp_path / "unknown.jsonl", [{"statement": "Why?"}])
    assert "expected one of the fields messages, dialogs" in error_of(Source(str(path)))


def test_columns_by_name(tmp_path: Path) -> None:
    row = {"statement": "Why?", "gold": 4, "rules": "Be brief.", "level": 1}
    path = write(tmp_path / "q.jsonl", [row, row | {"rules": None}])
    fields = Fields("statement", "gold", "rules", "math")
    found = [a for _, a in open_source(Source(str(path), fields=fields)).questions() if a]
    assert [[m.role for m in a.question.messages] for a in found] == [["system", "user"], ["user"]]
    assert found[0].question.metadata == {"gold": 4, "level": 1, "answer": "4", "answer_kind": "math"}
    assert "line 1: expected the column q; found statement" in error_of(Source(str(path), fields=Fields("q")))
    wrong = Source(str(path), fields=Fields("statement", answer="missing"))
    assert "line 1: expected the column missing" in error_of(wrong)
    assert "line 1: level: expected text, found int" in error_of(Source(str(path), fields=Fields("level")))
    wrong = Source(str(path), fields=Fields("statement", system="level"))
    assert "line 1: level: expected text, found int" in error_of(wrong)


# Templates


def rendered(template: str, **row: Any) -> str:
    return PromptTemplate(template).render(row)


def test_a_template_over_the_columns(tmp_path: Path) -> None:
    template = (
        "{{ question }}\n{% for o in options %}{{ loop.index }}. {{ o | trim }}\n{% endfor %}{{ row['a b'] }}"
    )
    assert rendered(template, question="Q?", options=["x ", "y"], **{"a b": "!"}) == "Q?\n1. x\n2. y\n!"
    path = write(tmp_path / "q.jsonl", [DEEPMATH])
    found = next(open_source(Source(str(path), template="Solve: {{ question }}")).questions())[1]
    assert found is not None
    assert found.question.text == "Solve: Evaluate the limit."
    assert found.text == "Evaluate the limit."
    assert found.question.metadata["answer"] == "0"


def test_what_stands_in_a_row_is_no_template() -> None:
    assert rendered("{{ q }}", q="{{ 1 + 1 }} <b> & {% if %}") == "{{ 1 + 1 }} <b> & {% if %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ statement }}", "'statement' is undefined; the row has question, n"),
        ("{{ row['a'] }}", "has no attribute 'a'"),
        ("{{ question.__class__ }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 'a' * 1000000000 }}", "* is for small numbers here"),
        ("{{ 9 ** 999999 }}", "** is for small numbers here"),
        ("{{ '%999999999d' % 1 }}", "% is for small numbers here"),
        (
            "{% for i in range(100000) %}{% for j in range(9) %}xxxx{% endfor %}{% endfor %}",
            "more than 1,000,000",
        ),
        ("{% for i in range(99999999) %}x{% endfor %}", "Range too big"),
        ("{{ n / 0 }}", "division by zero"),
        ("{{ n + question }}", "unsupported operand"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_template_that_fails_on_a_row(template: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        rendered(template, question="Q?", n=1)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000 < MAX_PROMPT


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ question ", "questions.template: unexpected end of template"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ question | pprint }}", "No filter named 'pprint'"),
        ("{% if %}", "questions.template:"),
    ],
)
def test_a_template_that_is_none(template: str, expected: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        rendered(template, question="Q?")
    assert expected in str(caught.value)


def test_an_empty_prompt_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [GSM8K])
    assert "line 1: template: expected text, found none" in error_of(Source(str(path), template="{# x #}"))


def test_values_that_json_does_not_know_come_through_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", [{"question": "Why?", "price": Decimal("1.50")}])
    assert texts(Source(str(path))) == ["Why?"]
