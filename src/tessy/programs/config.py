"""run.yaml: every field of a run, its default, and what is wrong with it in one line.

Owns reading, overriding, validating and comparing configurations. Values come from the file, then from `key=value`
overrides; OPENAI_API_KEY and OPENAI_BASE_URL stand in for what is not given. Keys themselves are never stored, only the
names of the environment variables that hold them. Opens no connection and loads no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from tessy.core.dialogue import Limits
from tessy.core.formats import FORMATS, ReasoningFormat
from tessy.core.strategies import ALONE_CHUNK, Strategy
from tessy.errors import ConfigError
from tessy.programs.questions_config import PathOrQuestions
from tessy.programs.settings import Section, checked, read
from tessy.protocols import Sampling
from tessy.trajectory import Speaker

LOCAL = "local"
"""As a base URL: the model runs in this process."""
EMBEDDED = "embedded/"
"""How names of the embedded models begin."""
FAKE = "fake"
"""As a base URL: a scripted model that needs nothing, for a dry run."""
RULES = "rules"
"""As a predictor: the lexicon that needs no model."""

DEFAULT_KEY = "OPENAI_API_KEY"
"""The environment variable that holds a key where none is named; it need not be set."""

PREDICTOR = "expected a token-classification model (hub name or folder), or rules"

PAPERS_CHUNK = 20
"""Tokens asked for at a time where each chunk is a request (paper §4.1: k = 20)."""
STREAMED_CHUNK = {Speaker.STUDENT: 3, Speaker.TEACHER: 5}
"""The same where a turn is one stream: a smaller chunk costs no request then, only a look of the predictor, and less is
written in vain (docs/performance.md, "Which chunk")."""

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class SamplingConfig(Section):
    """How tokens are drawn; defaults are the public TESSY code's."""

    temperature: float = Field(0.7, ge=0, le=5)
    top_p: float = Field(0.8, gt=0, le=1)
    top_k: int = Field(20, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)


class SpeakerSampling(Section):
    """What a speaker draws differently from `sampling`."""

    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)


class FormatConfig(Section):
    """A reasoning format that is spelled out."""

    open: str
    close: str = Field(min_length=1)
    end: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    template: dict[str, Any] = Field(default_factory=dict)


def _known_format(value: str | FormatConfig) -> str | FormatConfig:
    if isinstance(value, str) and value not in FORMATS:
        raise ValueError(f"expected one of {', '.join(FORMATS)}, or a mapping with open, close and end")
    return value


Format = Annotated[str | FormatConfig, AfterValidator(_known_format)]
"""A reasoning format by name, or spelled out."""


class EndpointConfig(Section):
    """A model and where it is."""

    model: str = Field(
        min_length=1, description="expected the name that the server knows the model by, or a folder"
    )
    base_url: str | list[str] | None = None
    api_key_env: str = DEFAULT_KEY

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str | list[str] | None) -> str | list[str] | None:
        urls = value if isinstance(value, list) else [value] if value is not None else None
        for url in urls if urls is not None else ():
            check_url(url)
        if urls == [] or (urls and len(urls) > 1 and {LOCAL, FAKE} & set(urls)):
            raise ValueError("expected one URL, a list of URLs, or local")
        return value

    def base_urls(self) -> tuple[str, ...]:
        """The replicas' URLs; OPENAI_BASE_URL where none is given, `local` for the embedded models."""
        if self.base_url is not None:
            return tuple(self.base_url) if isinstance(self.base_url, list) else (self.base_url,)
        if self.is_embedded:
            return (LOCAL,)
        url = os.environ.get("OPENAI_BASE_URL", "")
        return (url,) if url else ()

    @property
    def is_embedded(self) -> bool:
        """The model is one of those that tessy brings with it."""
        return self.model.startswith(EMBEDDED)

    def api_key(self) -> str | None:
        """The key, from the environment."""
        return os.environ.get(self.api_key_env) or None


class ModelConfig(EndpointConfig):
    """A model that writes, and how."""

    tokenizer: str | None = None
    format: Format = Field(description=f"expected one of {', '.join(FORMATS)}")
    sampling: SpeakerSampling = SpeakerSampling()
    device: str = "auto"
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"

    def reasoning_format(self) -> ReasoningFormat:
        """The format by name, or as spelled out."""
        if isinstance(self.format, str):
            return FORMATS[self.format]
        spelled = self.format
        return ReasoningFormat("custom", spelled.open, spelled.close, tuple(spelled.end), spelled.template)


class SpeakerConfig(ModelConfig):
    """One of the two models of a run, and how it takes turns."""

    predictor: str | None = Field(None, min_length=1)
    predictor_url: str | None = None
    predictor_runtime: Literal["torch", "onnx"] = "torch"
    threshold: float = Field(0.5, gt=0, lt=1)
    chunk: Count | None = None
    system: str | None = None

    @field_validator("predictor_url")
    @classmethod
    def _pooling_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if value in (LOCAL, FAKE):
            raise ValueError("expected the base URL of a pooling server, or null: in this process")
        if info.data.get("predictor") in (None, RULES, FAKE):
            raise ValueError("expected null, since predictor names no model that a server could serve")
        check_url(value)
        return value


class LimitsConfig(Section):
    """How far a trajectory may grow, in tokens."""

    thinking_tokens: Count = 38_000
    context_tokens: Count = 40_960
    answer_tokens: Count | None = None
    on_thinking_limit: Literal["fail", "close"] = "fail"
    unfinished: Literal["fail", "keep"] = "fail"

    def limits(self) -> Limits:
        """The same for the core."""
        return Limits(
            self.thinking_tokens,
            self.context_tokens,
            self.answer_tokens,
            close_thinking=self.on_thinking_limit == "close",
        )


class RequestsConfig(Section):
    """How patient the client is with a server."""

    connect_seconds: Seconds = 10
    read_seconds: Seconds = 1800
    trajectory_seconds: Seconds = 4 * 3600
    retries: int = Field(5, ge=0, le=100)
    outage_seconds: Seconds = 120


class RunConfig(Section):
    """A whole run."""

    questions: PathOrQuestions = Field(
        description="expected a JSONL, JSON or Parquet file, a folder of them, or {source: …}"
    )
    run_dir: str = Field(min_length=1, description="expected a folder for the run")
    strategy: Strategy = Strategy.TESSY
    student: SpeakerConfig | None = None
    teacher: SpeakerConfig | None = None
    opener: Literal["student", "teacher"] = "student"
    answerer: Literal["student", "teacher"] = "student"
    candidates: int = Field(5, ge=1, le=100)
    system: str = ""
    system_in_rows: bool = True
    trajectories: Count = 1
    limit: Count | None = None
    concurrency: Count = 64
    processes: int = Field(1, ge=1, le=256)
    stream: bool = True
    attempts: Count = 3
    seed: int | None = Field(None, ge=0, lt=2**31)
    sampling: SamplingConfig = SamplingConfig()
    limits: LimitsConfig = LimitsConfig()
    requests: RequestsConfig = RequestsConfig()

    @model_validator(mode="after")
    def _limits_fit(self) -> RunConfig:
        if self.limits.thinking_tokens >= self.limits.context_tokens:
            raise ValueError(
                f"limits.thinking_tokens: expected less than limits.context_tokens "
                f"({self.limits.context_tokens}), found {self.limits.thinking_tokens}"
            )
        return self

    @model_validator(mode="after")
    def _all_speakers_are_there(self) -> RunConfig:
        missing = [speaker for speaker in self.speakers if getattr(self, speaker) is None]
        if missing:
            raise ValueError(f"{missing[0]}: missing; strategy {self.strategy} needs it")
        without = [each for each in self.speakers if self.speaker(each).predictor is None]
        if without and self.strategy.takes_turns:
            raise ValueError(f"{without[0]}.predictor: missing; {PREDICTOR}")
        return self

    @model_validator(mode="after")
    def _candidates_differ(self) -> RunConfig:
        several = self.strategy is Strategy.TEACHER_SCORE and self.candidates > 1
        if several and self.sampling_of(Speaker.STUDENT).temperature == 0:
            raise ValueError(
                "sampling.temperature: expected more than 0 for the student of strategy teacher_score, "
                "since at 0 all candidates are the same"
            )
        return self

    @model_validator(mode="after")
    def _no_model_in_several_processes(self) -> RunConfig:
        local = [each for each in self.speakers if self.speaker(each).base_urls() == (LOCAL,)]
        if local and self.processes > 1:
            raise ValueError(
                f"processes: expected 1 where a model runs in this process ({local[0]}.base_url: local), "
                f"found {self.processes}"
            )
        return self

    @property
    def speakers(self) -> tuple[Speaker, ...]:
        """Who takes part."""
        return self.strategy.speakers

    def speaker(self, speaker: Speaker) -> SpeakerConfig:
        """The section of one speaker; of one that takes part there is one."""
        section = self.student if speaker is Speaker.STUDENT else self.teacher
        assert section is not None, f"{speaker} takes no part"
        return section

    def chunk_of(self, speaker: Speaker) -> int:
        """Tokens that a speaker is asked for at a time."""
        if not self.strategy.takes_turns:
            return ALONE_CHUNK
        usual = STREAMED_CHUNK[speaker] if self.stream else PAPERS_CHUNK
        return self.speaker(speaker).chunk or usual

    def system_of(self, speaker: Speaker) -> str:
        """The system prompt under which a speaker is asked a question; empty: none."""
        own = self.speaker(speaker).system
        return self.system if own is None else own

    @property
    def row_system(self) -> str:
        """The system prompt that rows carry into the training data; empty: none."""
        return self.system if self.system_in_rows else ""

    def sampling_of(self, speaker: Speaker) -> Sampling:
        """`sampling`, with what the speaker draws differently."""
        own = self.speaker(speaker).sampling.model_dump(exclude_none=True)
        return Sampling(**{**self.sampling.model_dump(), **own})


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run.yaml and apply dotted `key=value` overrides (values are YAML).

    Raises:
        ConfigError: the file or an override cannot be read, or a field is wrong; one line names each field.
    """
    return validate(read(path, overrides, "`tessy init` writes a new one"), str(path))


def validate(data: Mapping[str, Any], source: str = "config") -> RunConfig:
    """A configuration from plain data.

    Raises:
        ConfigError: with one line for each wrong field.
    """
    config = checked(RunConfig, data, source)
    for speaker in config.speakers:
        check_reachable(config.speaker(speaker), str(speaker), source)
    return config


def check_reachable(section: EndpointConfig, name: str, source: str) -> None:
    """See that a model's servers and its key are given, there or in the environment.

    Raises:
        ConfigError: they are not.
    """
    if not section.base_urls():
        raise ConfigError(f"{source}: {name}.base_url: missing; set it, or OPENAI_BASE_URL, or `local`")
    if section.api_key_env != DEFAULT_KEY and section.api_key() is None:
        raise ConfigError(
            f"{source}: {name}.api_key_env: the environment variable {section.api_key_env} is not set"
        )


# A run directory may go on under another value of these: they decide how and how far, not what is made.
_FREE = (
    "run_dir",
    "questions.n",  # a larger draw has all of a smaller one
    "limit",
    "trajectories",
    "concurrency",
    "processes",
    "stream",
    "attempts",
    "student.base_url",
    "teacher.base_url",
    "student.predictor_url",
    "teacher.predictor_url",
    "student.predictor_runtime",
    "teacher.predictor_runtime",
    "student.api_key_env",
    "teacher.api_key_env",
    "student.device",
    "teacher.device",
)


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The fields, as `name: stored → given`, that make `given` another run than `stored`."""
    old, new = _flat(stored), _flat(given)
    return [
        f"{name}: {old.get(name)!r} in the run directory, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not (name in _FREE or name.startswith("requests."))
    ]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_url(url: str) -> None:
    """Refuse what is no base URL, or has a key in it, with a ValueError."""
    if url in (LOCAL, FAKE):
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected http://host:port/v1 or {LOCAL}")
    if parts.username or parts.password:
        raise ValueError("a key does not belong in a URL: name its environment variable in api_key_env")


TEMPLATE = """\
# A tessy run. `tessy check --config run.yaml` tries it; `tessy synthesize --config run.yaml` does it.
# Fields that are commented out stand at their defaults.

questions: questions.jsonl     # rows with messages, dialogs, conversations, prompt or question
                               # or a Parquet file, a folder, any data set: {source: m-a-p/SuperGPQA, n: 3000}
                               # (adapters, templates, duplicates, draws: docs/questions.md)
run_dir: runs/first            # everything the run makes; start again with the same one to go on

student:                       # writes the style and the final answer
  model: Qwen/Qwen3-8B         # the name that the server knows it by
  base_url: http://localhost:8000/v1       # or a list of replicas; `local` runs the model in this process
  # api_key_env: OPENAI_API_KEY            # the environment variable that holds the key
  # tokenizer: null                        # hub name or folder; null: the same as model
  format: qwen3                # qwen3 | deepseek_r1 | openai_gptoss, or {open: …, close: …, end: […], template: {…}}
  predictor: CoopReason/Boundary_Predictor_Student_Code    # two-class token classifier, or `rules` for a first look
  # predictor_url: null        # base URL of a vLLM pooling server that serves it; null: in this process
  # predictor_runtime: torch   # onnx: a small predictor on the CPU, two or three times as fast (tessy[onnx])
  # threshold: 0.5             # probability from which a token counts as style
  # chunk: null                # tokens asked for at a time, the paper's k (20 there; 5 and 10 in its public code)
                               # (null is 3, for the teacher 5; the paper's with `stream: false`)
  # sampling: {}               # what differs from `sampling` below
  # system: null               # its own system prompt; null: `system` below
  # device: auto               # for a predictor or model in this process: auto, cpu, cuda, cuda:1
  # dtype: auto                # for the same: auto, float32, float64, bfloat16, float16

teacher:                       # writes the capability
  model: openai/gpt-oss-120b
  base_url: http://localhost:8001/v1
  format: openai_gptoss
  predictor: CoopReason/Boundary_Predictor_Teacher_Code

# strategy: tessy              # or what the paper compares with, without predictors: student_only, teacher_only,
                               # teacher_mix, teacher_think, teacher_answer, teacher_score, teacher_reference
# opener: student              # who begins (tessy)
# answerer: student            # who writes the final answer (tessy)
# candidates: 5                # responses of which the teacher takes the best (teacher_score)
# system: ""                   # a system prompt before each question; student.system and teacher.system replace it
# system_in_rows: true         # the training data has the prompt of `system`, too
# trajectories: 1              # per question
# limit: null                  # only the first so many questions; raise it to extend the same run
# concurrency: 64              # trajectories in flight
# processes: 1                 # more, when one core is the limit: trajectories are written in so many processes
# stream: true                 # a request for each turn, cut off at its boundary, where servers can; false: one a chunk
# attempts: 3                  # tries per trajectory before it is a failure
# seed: null                   # a number makes draws repeatable where the servers can
# sampling:
#   temperature: 0.7
#   top_p: 0.8
#   top_k: 20
#   min_p: 0.0
# limits:                      # in tokens
#   thinking_tokens: 38000
#   context_tokens: 40960
#   answer_tokens: null        # null: up to the context
#   on_thinking_limit: fail    # close: close the thinking and let the answer be written; the row is marked
#   unfinished: fail           # keep: what does not end is a row, too, with its reason (to evaluate; never exported)
# requests:
#   connect_seconds: 10
#   read_seconds: 1800         # the longest silence; a final answer is one request
#   trajectory_seconds: 14400  # a deadline for each trajectory
#   retries: 5                 # of a request, with growing pauses
#   outage_seconds: 120        # when nearly everything has failed for so long, the run stops
"""
