"""Before a run: does everything that the configuration names answer, fit together and make sense?

A few seconds that save days: each server, its model, context, tokenizer and settings, both chat templates and
predictors. Every finding is one line with what to do. Sends a handful of one-token requests and keeps nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from tessy.adapters.predictors import PoolingBoundary, TokenClassifier
from tessy.adapters.server import IdsOut, ServerEngine, server_settings, streams
from tessy.core.prompt import TokenBuffer
from tessy.errors import TessyError
from tessy.programs.config import PAPERS_CHUNK, RunConfig
from tessy.programs.hints import Load, hints
from tessy.programs.speakers import Participant
from tessy.questions import Message, under
from tessy.trajectory import Speaker

SAMPLE = "Okay, let's see: 3 × 14 = 42, so f(x) = x² holds.\n\nWait, is 他 right?"
"""Text with what tokenizers differ in: digits, symbols, line breaks, an apostrophe, characters of several bytes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fatal`: a run would fail; not `ok` and not fatal: it can go on, worse."""

    subject: str
    message: str
    ok: bool = True
    fatal: bool = False


async def check(config: RunConfig, participants: Mapping[Speaker, Participant]) -> list[Finding]:
    """Look at everything a run needs.

    Returns:
        All findings, good ones too. The run cannot go on if one is `fatal`.
    """
    looked = await asyncio.gather(*(_check_speaker(config, each) for each in participants.values()))
    return [finding for findings in looked for finding in findings]


async def _check_speaker(config: RunConfig, participant: Participant) -> list[Finding]:
    findings = []
    try:
        async for finding in _looks(config, participant):
            findings.append(finding)
    except TessyError as error:
        findings.append(Finding(str(participant.speaker), str(error), ok=False, fatal=True))
    return findings


async def _looks(config: RunConfig, participant: Participant) -> AsyncIterator[Finding]:
    subject = str(participant.speaker)
    question = under(config.system_of(participant.speaker), [Message("user", "What is 2 + 2?")])
    prompt = participant.thinking.prompt(question)
    yield Finding(subject, f"prompt: {len(prompt)} tokens around a short question")
    yield _check_vocabulary(participant)
    engine = participant.engine
    if isinstance(engine, ServerEngine):
        for finding in await _check_servers(config, participant, engine):
            yield finding
    else:
        completion = await engine.completer("check", seed=0, deadline=None)(TokenBuffer(prompt), 1)
        yield Finding(subject, f"model: {participant.config.model} in this process wrote {completion.text!r}")
    if config.strategy.takes_turns:
        yield await _check_predictor(participant, config.chunk_of(participant.speaker))


async def _check_servers(config: RunConfig, participant: Participant, engine: ServerEngine) -> list[Finding]:
    """Every replica. One that does not answer is fatal if no other does: a run can do without it."""
    urls = participant.config.base_urls()
    looks = [_check_replica(config, participant, engine, url) for url in urls]
    results = await asyncio.gather(*looks, return_exceptions=True)
    findings, alive = list[Finding](), any(isinstance(result, list) for result in results)
    for url, result in zip(urls, results, strict=True):
        if isinstance(result, TessyError):
            subject = f"{participant.speaker} {url}"
            findings.append(Finding(subject, f"server: {result}", ok=False, fatal=not alive))
        elif isinstance(result, BaseException):
            raise result
        else:
            findings.extend(result)
    return findings


async def _check_replica(
    config: RunConfig, participant: Participant, engine: ServerEngine, url: str
) -> list[Finding]:
    """One replica: the first thing that is wrong with it, and what of its settings is bad for taking turns.

    Raises:
        CompletionError: it does not answer.
    """
    if not config.strategy.takes_turns:
        return [await _check_server(config, participant, engine, url)]
    telling = asyncio.create_task(server_settings(engine.options, url))
    try:
        found = await _check_server(config, participant, engine, url)
        settings = await telling
    finally:
        telling.cancel()
    replicas = len(participant.config.base_urls())
    chunk, context = config.chunk_of(participant.speaker), config.limits.context_tokens
    load = Load(-(-config.concurrency // replicas), context, chunk, config.stream)
    bad = [] if found.fatal else hints(settings, load)
    return [found, *(Finding(found.subject, f"settings: {hint}", ok=False) for hint in bad)]


def _check_vocabulary(participant: Participant) -> Finding:
    """Pieces of text must stay what they are: a vocabulary that adds spaces at a seam would change trajectories."""
    tokenizer, subject = participant.tokenizer, str(participant.speaker)
    halves = SAMPLE[: len(SAMPLE) // 2], SAMPLE[len(SAMPLE) // 2 :]
    joined = tokenizer.decode([i for half in halves for i in tokenizer.encode(half)])
    if joined != SAMPLE:
        message = f"tokenizer: text encoded in two pieces comes back as {joined!r}, not as it was"
        return Finding(subject, message, ok=False, fatal=True)
    return Finding(subject, "tokenizer: text comes back as it was")


async def _check_server(
    config: RunConfig, participant: Participant, engine: ServerEngine, url: str
) -> Finding:
    """One replica: the first thing that is wrong with it.

    Raises:
        CompletionError: it does not answer.
    """
    subject, model = f"{participant.speaker} {url}", participant.config.model
    served = await engine.models(url)
    found = next((each for each in served if each.name == model), None)
    if found is None:
        names = ", ".join(each.name for each in served[:10]) or "nothing"
        message = f"server: does not serve {model!r}; it serves {names}: set {participant.speaker}.model"
        return Finding(subject, message, ok=False, fatal=True)
    context = config.limits.context_tokens
    if found.max_model_len is not None and found.max_model_len < context:
        message = (
            f"server: its context is {found.max_model_len} tokens, limits.context_tokens is {context}: "
            "serve with a longer one (vLLM: --max-model-len) or lower the limit"
        )
        return Finding(subject, message, ok=False, fatal=True)
    if disagreement := await _disagreement(participant, engine, url):
        name = participant.config.tokenizer or model
        message = f"tokenizer: {name!r} and the server disagree on a short text ({disagreement}): set the model's own"
        return Finding(subject, message, ok=False, fatal=True)
    dialect, chunk = await engine.negotiate(), config.chunk_of(participant.speaker)
    wanted = config.stream and config.strategy.takes_turns
    prompt = TokenBuffer(participant.tokenizer.encode(SAMPLE))
    lacks = [
        words
        for lacking, words in (
            (
                not dialect.ids_in,
                "refuses token ids: prompts go as text, which costs more the longer they are",
            ),
            (dialect.ids_out is IdsOut.NONE, "does not tell token ids: its text is encoded again here"),
            (not dialect.extensions, "ignores top_k and min_p, and may drop special tokens from its text"),
            (
                wanted and not await streams(engine, url, prompt),
                "tells no token ids in a stream: each chunk is a request of its own"
                + (f", so set chunk: {PAPERS_CHUNK}" if chunk < PAPERS_CHUNK else ""),
            ),
        )
        if lacking
    ]
    if lacks:
        return Finding(subject, f"server: {'; '.join(lacks)}", ok=False)
    length = f"context {found.max_model_len}" if found.max_model_len else "context unknown"
    return Finding(subject, f"server: serves {model}, {length}; takes token ids; tokenizers agree")


async def _disagreement(participant: Participant, engine: ServerEngine, url: str) -> str:
    """How the server's tokenizer differs from ours on a short text; empty if it does not, or does not tell."""
    told, ours = await engine.count_tokens(SAMPLE, url), participant.tokenizer.encode(SAMPLE)
    if told.ids is not None:
        return "" if list(told.ids) == ours else f"{len(told.ids)} tokens there, {len(ours)} here, ids differ"
    # Without ids only the number can be compared, and the server may have put a BOS before the text.
    same = told.total is None or told.total - len(ours) in (0, 1)
    return "" if same else f"{told.total} tokens there, {len(ours)} here"


async def _check_predictor(participant: Participant, chunk: int) -> Finding:
    """Labels for a short text after a long one, since a server's context may be too short for a full window.

    Raises:
        TessyError: it cannot be had: its server does not answer, does not serve it, or refuses the window.
    """
    subject, config, predictor = str(participant.speaker), participant.config, participant.predictor
    marks = await predictor(SAMPLE * 100, " Hmm, so 6 * 7 = 42.")
    if isinstance(predictor, TokenClassifier | PoolingBoundary) and chunk > predictor.window:
        message = (
            f"predictor: reads {predictor.window} tokens, chunk is {chunk}: boundaries at the "
            "beginning of a draft will be missed; lower chunk"
        )
        return Finding(subject, message, ok=False)
    where = f" at {config.predictor_url}" if config.predictor_url else ""
    message = f"predictor: {config.predictor}{where} labelled {len(marks)} tokens of a short text"
    return Finding(subject, message)
