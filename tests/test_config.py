import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessy.errors import ConfigError
from tessy.programs import config as configs
from tessy.programs.config import RunConfig, differences, load, validate
from tessy.protocols import Sampling
from tessy.trajectory import Speaker


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def minimal(**changes: Any) -> dict[str, Any]:
    speaker = {"model": "m", "base_url": "http://h:1/v1", "format": "qwen3", "predictor": "rules"}
    data = {"questions": "q.jsonl", "run_dir": "run", "student": dict(speaker), "teacher": dict(speaker)}
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        target: dict[str, Any] = data[section] if section else data  # type: ignore[assignment]
        if value is None:
            target.pop(field, None)
        else:
            target[field] = value
    return data


def error_of(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(minimal(**changes), "run.yaml")
    return str(caught.value)


def test_defaults_are_the_papers() -> None:
    config = validate(minimal())
    assert config.sampling_of(Speaker.STUDENT) == Sampling(0.7, 0.8, 20, 0.0)
    assert (config.limits.thinking_tokens, config.limits.context_tokens) == (38_000, 40_960)
    assert (config.opener, config.answerer) == ("student", "student")


@pytest.mark.parametrize(
    ("changes", "chunks"),
    [
        ({}, (3, 5)),
        ({"stream": False}, (20, 20)),
        ({"student__chunk": 7}, (7, 5)),
        ({"stream": False, "teacher__chunk": 1}, (20, 1)),
        ({"strategy": "teacher_think", "stream": False}, (512, 512)),
    ],
)
def test_chunks_are_small_where_they_cost_no_request(
    changes: dict[str, Any], chunks: tuple[int, int]
) -> None:
    config = validate(minimal(**changes))
    assert (config.chunk_of(Speaker.STUDENT), config.chunk_of(Speaker.TEACHER)) == chunks


def test_the_template_is_a_configuration_and_shows_every_field() -> None:
    config = validate(yaml.safe_load(configs.TEMPLATE))
    assert config.speaker(Speaker.TEACHER).format == "openai_gptoss"
    uncommented = re.sub(r"(?m)^( *)# ( *\w+:)", r"\1\2", configs.TEMPLATE)
    shown = yaml.safe_load(uncommented)
    full = validate(shown)
    assert full.model_dump() == config.model_dump()
    assert set(shown) == set(RunConfig.model_fields)
    assert set(shown["student"]) == set(type(config.speaker(Speaker.STUDENT)).model_fields)
    assert set(shown["limits"]) == set(type(config.limits).model_fields)
    assert set(shown["requests"]) == set(type(config.requests).model_fields)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"run_dir": None}, "run.yaml: run_dir: missing; expected a folder for the run"),
        ({"student__model": None}, "run.yaml: student.model: missing; expected the name that"),
        ({"student__modle": "x"}, "run.yaml: student.modle: unknown field; did you mean model?"),
        ({"nonsense": 1}, "run.yaml: nonsense: unknown field; expected one of questions, run_dir"),
        (
            {"student__chunk": 0},
            "run.yaml: student.chunk: input should be greater than or equal to 1, found 0",
        ),
        ({"student__chunk": "many"}, "run.yaml: student.chunk: input should be a valid integer"),
        (
            {"student__format": "qwen"},
            "run.yaml: student.format: expected one of qwen3, deepseek_r1, openai_gptoss",
        ),
        ({"teacher__base_url": "localhost:8000"}, "run.yaml: teacher.base_url: expected http://host:port/v1"),
        ({"teacher__base_url": []}, "run.yaml: teacher.base_url: expected one URL, a list of URLs, or local"),
        ({"teacher__base_url": None}, "run.yaml: teacher.base_url: missing; set it, or OPENAI_BASE_URL"),
        (
            {"teacher__api_key_env": "NO_SUCH"},
            "run.yaml: teacher.api_key_env: the environment variable NO_SUCH is not",
        ),
        ({"limits": {"thinking_tokens": 50_000}}, "run.yaml: limits.thinking_tokens: expected less than"),
        (
            {"limits": {"on_thinking_limit": "stop"}},
            "run.yaml: limits.on_thinking_limit: input should be 'fail' or",
        ),
        (
            {"sampling": {"top_p": 2}},
            "run.yaml: sampling.top_p: input should be less than or equal to 1, found 2",
        ),
        ({"sampling": "hot"}, "run.yaml: sampling: input should be a valid dictionary"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(changes: dict[str, Any], expected: str) -> None:
    assert expected in error_of(**changes)


def test_all_wrong_fields_are_named_at_once() -> None:
    assert len(error_of(run_dir=None, student__chunk=0, teacher__model=None).splitlines()) == 3


def test_a_key_in_a_url_is_refused_and_not_repeated() -> None:
    message = error_of(student__base_url="https://me:hunter2@host/v1")
    assert "student.base_url" in message
    assert "hunter2" not in message


def test_the_environment_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    config = validate(minimal(student__base_url=None))
    assert config.speaker(Speaker.STUDENT).base_urls() == ("http://elsewhere/v1",)
    assert config.speaker(Speaker.TEACHER).base_urls() == ("http://h:1/v1",)
    assert config.speaker(Speaker.STUDENT).api_key() == "sk-1"
    assert "sk-1" not in str(config.model_dump())
    assert "sk-1" not in repr(config)


def test_a_speaker_draws_its_own_way() -> None:
    config = validate(minimal(teacher__sampling={"temperature": 0.0}, sampling={"top_k": 5}))
    assert config.sampling_of(Speaker.TEACHER) == Sampling(0.0, 0.8, 5, 0.0)
    assert config.sampling_of(Speaker.STUDENT) == Sampling(0.7, 0.8, 5, 0.0)


def test_a_format_can_be_spelled_out() -> None:
    spelled = {"open": "[THINK]", "close": "[/THINK]", "end": ["[/THINK]"], "template": {"think": True}}
    found = validate(minimal(student__format=spelled)).speaker(Speaker.STUDENT).reasoning_format()
    assert (found.open, found.close, found.end) == ("[THINK]", "[/THINK]", ("[/THINK]",))
    assert found.template == {"think": True}


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("sampling.temperature=0.1", lambda c: c.sampling.temperature == 0.1),
        ("student.base_url=[http://a/v1, http://b/v1]", lambda c: len(c.student.base_urls()) == 2),
        ("limit=5", lambda c: c.limit == 5),
        ("limits.on_thinking_limit=close", lambda c: c.limits.limits().close_thinking),
        ("student.chunk=3", lambda c: c.student.chunk == 3),
    ],
)
def test_overrides(tmp_path: Path, override: str, check: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    assert check(load(path, [override]))


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (None, [], "cannot be read: No such file"),
        ("a: [", [], "is no YAML"),
        ("- a", [], "expected fields (`name: value`), found list"),
        ("{}", ["limit"], "override 'limit': expected key=value"),
        ("{student: x}", ["student.chunk=3"], "student is no section"),
        ("{}", ["limit=[", "a=b"], "the value is no YAML"),
        ("\x00", [], "is no YAML"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, overrides: list[str], expected: str) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_names_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# questions: …\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: questions: missing.*\n.*run_dir: missing"):
        load(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"limit": 5, "concurrency": 1, "trajectories": 3, "attempts": 9}, []),
        ({"student__base_url": "http://other/v1", "requests": {"retries": 1}}, []),
        ({"student__chunk": 3}, ["student.chunk"]),
        ({"limits": {"thinking_tokens": 9}}, ["limits.thinking_tokens"]),
        ({"questions": "other.jsonl", "seed": 1}, ["questions", "seed"]),
    ],
)
def test_what_makes_another_run(changes: dict[str, Any], differs: list[str]) -> None:
    old, new = (validate(minimal(**given)).model_dump(mode="json") for given in ({}, changes))
    assert [line.partition(":")[0] for line in differences(old, new)] == differs
