"""What a server tells about how it is set: its prefix cache, how much it takes at a time, how it streams.

vLLM tells some of it as the labels of a metric (`/metrics`), SGLang nearly all of it as JSON (`/server_info`, formerly
`/get_server_info`); others tell nothing, and so does a proxy that hides these paths. Nobody depends on it: what is
missing, too large or of the wrong type is None, and a server that does not answer tells nothing. Refuses to judge.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any

from yarl import URL

from tessy.adapters.server import wire
from tessy.adapters.server.engine import ServerEngine
from tessy.adapters.server.options import ServerOptions
from tessy.adapters.server.pool import as_error
from tessy.adapters.server.transport import Transport
from tessy.adapters.server.wire import Trouble
from tessy.protocols import Prompt

SECONDS = 3.0
"""The longest that a server may take for a reply. A check waits for it."""
MOST_BYTES = 2**24
"""Of a reply. vLLM's metrics are about 100 KB for each data-parallel rank, SGLang's settings about 20 KB."""
MOST_COUNT = 10**12
"""The largest number that is believed."""
MOST_RANKS = 4096
"""Lines of the metric that are read: one for each data-parallel rank."""

_INFO = re.compile(rb"^vllm:cache_config_info\{([^\r\n]{0,65536})\} ", re.MULTILINE)
_LABEL = re.compile(rb'(?:^|,)([a-z_]{1,60})="([^"\\]{0,60})"')
_COUNT = re.compile(r"[0-9]{1,13}")
_WORDS = {"True": True, "False": False}
_SGLANG = {"disable_radix_cache", "page_size"}
"""Fields that say that it is SGLang who answers: vLLM has a `/server_info` of its own, for developers."""
_ONE_PROCESS = re.compile(rb"^process_start_time_seconds ", re.MULTILINE)


class Brand(StrEnum):
    """Whose server it is; flags are called differently."""

    VLLM = "vLLM"
    SGLANG = "SGLang"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server tells. None: it does not."""

    brand: Brand | None = None
    prefix_cache: bool | None = None
    """It finds the beginning of a prompt again that it has computed before."""
    block: int | None = None
    """Tokens that its prefix cache holds as one: what is found again is a multiple of it."""
    cache_tokens: int | None = None
    """Tokens whose keys and values it holds, on all ranks together. None also where it has a second, larger store."""
    at_a_time: int | None = None
    """Requests that it works on at a time, on all ranks together; others wait."""
    interval: int | None = None
    """Tokens that an event of a stream tells."""
    front_ends: int | None = None
    """Processes that take requests and tell tokens."""
    ranks: int | None = None
    """Data-parallel ranks behind the one address, each with a prefix cache of its own."""


async def server_settings(options: ServerOptions, base_url: str) -> ServerSettings:
    """Ask the server at `base_url`. Two small requests at once, three to an older SGLang; never raises."""
    root = wire.api_root(base_url).removesuffix("/v1")
    transport = Transport(replace(options, max_reply_bytes=MOST_BYTES))

    async def told(path: str, read: Callable[[bytes], ServerSettings]) -> ServerSettings:
        with suppress(Trouble):
            return read(await transport.fetch(URL(root + path), seconds=SECONDS))
        return ServerSettings()

    async def told_by_sglang() -> ServerSettings:
        settings = await told("/server_info", read_server_info)
        return settings if settings.brand else await told("/get_server_info", read_server_info)

    try:
        vllm, sglang = await asyncio.gather(told("/metrics", read_metrics), told_by_sglang())
    finally:
        await transport.close()
    return vllm if vllm.brand else sglang


async def streams(engine: ServerEngine, base_url: str, prompt: Prompt) -> bool:
    """Whether a turn at the server at `base_url` is one streamed request. Opens a stream of two tokens, to see.

    Raises:
        CompletionError: it cannot be asked, or does not answer.
    """
    replica = engine.pool.replica(base_url)
    try:
        turn = await engine.open(replica, prompt, 1, 2, None)
    except Trouble as trouble:
        raise as_error(trouble, trouble.where or replica.where) from trouble
    if turn is None:
        return False
    turn.close()
    return True


def read_metrics(body: bytes) -> ServerSettings:
    """What vLLM's metrics tell (0.32: the fields of its `CacheConfig`, as labels). Any bytes will do."""
    ranks = [dict(_LABEL.findall(found[1])) for found in islice(_INFO.finditer(body), MOST_RANKS)]
    if not ranks:
        return ServerSettings()
    labels = {name.decode(): value.decode("utf-8", "replace") for name, value in ranks[0].items()}
    count = len({rank.get(b"engine") for rank in ranks})
    block, blocks = _number(labels, "block_size"), _number(labels, "num_gpu_blocks")
    tokens = _number(labels, "kv_cache_size_tokens")
    # Tokens are those of one rank; blocks are those of all, and mislead where layers differ (sliding windows).
    held = tokens * count if tokens else blocks * block if blocks and block else None
    return ServerSettings(
        Brand.VLLM,
        prefix_cache=_WORDS.get(labels.get("enable_prefix_caching", "")),
        # Finer than a block where a model with several kinds of layers is served so.
        block=_number(labels, "cache_hit_alignment_tokens") or _number(labels, "prefix_match_unit") or block,
        cache_tokens=held if labels.get("kv_offloading_size", "None") == "None" else None,
        # The metrics of several API server processes are collected, without those of a process.
        front_ends=1 if _ONE_PROCESS.search(body) else None,
        ranks=count,
    )


def read_server_info(body: bytes) -> ServerSettings:
    """What SGLang tells: its arguments, and what its scheduler made of them. Any bytes will do."""
    try:
        told = wire.parse(body)
    except Trouble:
        return ServerSettings()
    if not told.keys() >= _SGLANG:
        return ServerSettings()
    ranks = _number(told, "dp_size") or 1
    states = told.get("internal_states")
    state = states[0] if isinstance(states, list) and states and isinstance(states[0], dict) else {}
    each = _number(state, "effective_max_running_requests_per_dp")
    tokens, larger = _number(told, "max_total_num_tokens"), told.get("enable_hierarchical_cache") is True
    disabled = told["disable_radix_cache"]
    return ServerSettings(
        Brand.SGLANG,
        prefix_cache=not disabled if isinstance(disabled, bool) else None,
        block=_number(told, "page_size"),
        cache_tokens=tokens * ranks if tokens and not larger else None,
        at_a_time=each * ranks if each else _number(told, "max_running_requests"),
        interval=_number(told, "stream_interval"),
        front_ends=_number(told, "tokenizer_worker_num"),
        ranks=ranks,
    )


def _number(told: Mapping[str, Any], name: str) -> int | None:
    """A count from 1 to what is believed: a JSON number, or the text of a label."""
    value = told.get(name)
    if isinstance(value, str) and _COUNT.fullmatch(value):
        value = int(value)
    return value if type(value) is int and 1 <= value <= MOST_COUNT else None
