"""From a configuration to the two speakers: their vocabularies, formats, engines and boundary predictors.

The one place that chooses an adapter by what a field says. Knows no question and no trajectory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tessy import embedded
from tessy.adapters.fakes import (
    ByteTokenizer,
    FakeEngine,
    PairTokenizer,
    ScriptedBoundary,
    ScriptedModel,
    Voice,
)
from tessy.adapters.predictors import PoolingBoundary, TokenClassifier, load_predictor
from tessy.adapters.predictors.world import guessed_labels, true_labels
from tessy.adapters.server import ClassifierServer, ServerEngine, ServerOptions
from tessy.adapters.tokenizer import HFTokenizer
from tessy.core.formats import Thinking
from tessy.core.strategies import no_boundary
from tessy.errors import ConfigError
from tessy.programs.config import EMBEDDED, FAKE, LOCAL, RunConfig, SpeakerConfig
from tessy.protocols import BoundaryPredictor, Engine, Tokenizer
from tessy.trajectory import Speaker

_WORLD = {f"{EMBEDDED}true_labels": true_labels, f"{EMBEDDED}guessed_labels": guessed_labels}
LOCAL_CACHE, TOKENS_IN_FLIGHT = 65_536, 1024
"""Tokens whose keys and values a model in this process may keep: at least, and for each trajectory in flight. What is
not needed is not allocated."""
_FAKE_TOKENIZERS = {"fake/bytes": ByteTokenizer, "fake/pairs": PairTokenizer}


@dataclass(frozen=True)
class Participant:
    """One speaker, ready to write: everything that does not depend on the question."""

    speaker: Speaker
    config: SpeakerConfig
    tokenizer: Tokenizer
    thinking: Thinking
    engine: Engine
    predictor: BoundaryPredictor


def _load(config: RunConfig) -> Mapping[Speaker, Participant]:
    """Load what the speakers need. Servers are not contacted yet.

    Raises:
        ModelError: a tokenizer, model or predictor cannot be loaded or interpreted.
        ConfigError: a field names something that does not exist.
    """
    tokenizers = {speaker: load_tokenizer(config.speaker(speaker)) for speaker in config.speakers}
    # A teacher that spells out the student's marker must not put it inside the student's thinking.
    student_ends = config.student.reasoning_format().end if config.student else ()
    return {
        speaker: Participant(
            speaker,
            section := config.speaker(speaker),
            tokenizers[speaker],
            Thinking(section.reasoning_format(), tokenizers[speaker], foreign_ends=student_ends),
            _engine(config, speaker, tokenizers[speaker]),
            _predictor(config, speaker) if config.strategy.takes_turns else no_boundary,
        )
        for speaker in config.speakers
    }


def model_name(name: str) -> str:
    """A model's name or folder; `embedded/student` and its kin become the folders in this package.

    Raises:
        ConfigError: there is no such embedded model.
    """
    if not name.startswith(EMBEDDED):
        return name
    for member in embedded.MEMBERS:
        if name == EMBEDDED + member:
            return str(embedded.path(member))
    known = ", ".join(EMBEDDED + member for member in embedded.MEMBERS)
    raise ConfigError(f"{name!r}: expected one of {known}")


def load_tokenizer(section: SpeakerConfig) -> Tokenizer:
    """The tokenizer of a speaker.

    Raises:
        ModelError: it cannot be loaded.
    """
    name = section.tokenizer or section.model
    fake = _FAKE_TOKENIZERS.get(name)
    return fake() if fake else HFTokenizer(model_name(name))


def _predictor(config: RunConfig, speaker: Speaker) -> BoundaryPredictor:
    section = config.speaker(speaker)
    assert section.predictor is not None
    if section.predictor == FAKE:
        return ScriptedBoundary()
    if section.predictor in _WORLD:
        return _WORLD[section.predictor]
    name = model_name(section.predictor)
    if section.predictor_url is None:
        return load_predictor(
            name,
            device=section.device,
            dtype=section.dtype,
            runtime=section.predictor_runtime,
            in_flight=config.concurrency,
        )
    options = ServerOptions(
        model=section.predictor,
        role=f"{speaker} predictor",
        base_urls=(section.predictor_url,),
        concurrency=config.concurrency,
        connect_timeout=config.requests.connect_seconds,
        read_timeout=config.requests.read_seconds,
        retries=config.requests.retries,
    )
    return PoolingBoundary(name, ClassifierServer(options))


def _engine(config: RunConfig, speaker: Speaker, tokenizer: Tokenizer) -> Engine:
    section, sampling = config.speaker(speaker), config.sampling_of(speaker)
    urls = section.base_urls()
    if urls == (FAKE,):
        if not isinstance(tokenizer, ByteTokenizer):
            raise ConfigError(f"{speaker}.tokenizer: a fake model needs one of {', '.join(_FAKE_TOKENIZERS)}")
        return FakeEngine(ScriptedModel(tokenizer, Voice[speaker.name], salt=list(Speaker).index(speaker)))
    if urls == (LOCAL,):
        # Late: it loads torch, which a run between servers does without.
        from tessy.adapters.local import LocalEngine

        local = sum(config.speaker(each).base_urls() == (LOCAL,) for each in config.speakers)
        return LocalEngine(
            model_name(section.model),
            tokenizer,
            sampling,
            device=section.device,
            dtype=section.dtype,
            # Two engines that both take all cores slow one another down to half.
            threads=max(1, cores() // local),
            max_batch=config.concurrency,
            cache_tokens=max(LOCAL_CACHE, TOKENS_IN_FLIGHT * config.concurrency),
        )
    options = ServerOptions(
        model=section.model,
        role=speaker.value,
        base_urls=urls,
        api_key=section.api_key(),
        sampling=sampling,
        concurrency=config.concurrency,
        connect_timeout=config.requests.connect_seconds,
        read_timeout=config.requests.read_seconds,
        retries=config.requests.retries,
        stream=config.stream,
    )
    return ServerEngine(options, tokenizer)


def cores() -> int:
    """Cores that this process may use: all, or what it is bound to where that can be told."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@asynccontextmanager
async def participants(config: RunConfig) -> AsyncIterator[Mapping[Speaker, Participant]]:
    """The speakers that take part, loaded, and closed at the end.

    Raises:
        ModelError: a tokenizer, model or predictor cannot be loaded or interpreted.
        ConfigError: a field names something that does not exist.
    """
    loaded = _load(config)
    try:
        yield loaded
    finally:
        for participant in loaded.values():
            await participant.engine.close()
            if isinstance(participant.predictor, TokenClassifier | PoolingBoundary):
                await participant.predictor.close()
