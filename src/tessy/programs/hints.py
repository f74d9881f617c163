"""What of a server's settings slows alternation down, and which flag mends it. Pure.

A trajectory goes back and forth between two servers every dozen tokens, so a server gets one small request a turn,
whose prompt it has computed before, nearly all of it. Settings that suit chats, where a prompt comes once, can be bad
for that; docs/performance.md says what each is worth. What a server does not tell is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tessy.adapters.server import Brand, ServerSettings

LARGE_BLOCK = 32
"""The largest cache block in tokens of which nothing is said. Half a block is computed again each turn, and spans have
about 12 tokens: up to here, little more is computed again than is new. vLLM on a CPU takes none below."""
SHARE = 0.25
"""Of the context, what a trajectory in flight holds on average: it is half way, and half as long as it may be."""
ONE_PROCESS = 128
"""The most trajectories in flight at a server whose requests and events one process may handle unremarked. vLLM on one
core, with next to nothing to compute, tells 5,600 tokens a second: 112 streams of 50 tokens a second."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run asks of one server."""

    in_flight: int
    """Trajectories that stay with it."""
    context: int
    """Tokens to which each may grow."""
    chunk: int
    """Tokens after which the predictor looks."""
    stream: bool


def hints(settings: ServerSettings, load: Load) -> Iterator[str]:
    """One line for each setting that is bad for alternation: what was found, why it matters, what to set."""
    if settings.brand is None:
        return
    if settings.prefix_cache is False:
        yield (
            "its prefix cache is off, so each turn computes its whole prompt again: serve "
            + _by(settings, "with --enable-prefix-caching", "without --disable-radix-cache")
        )
    else:
        yield from _cache(settings, load)
    yield from _flow(settings, load)


def _cache(settings: ServerSettings, load: Load) -> Iterator[str]:
    """Of a prefix cache that is on: what it does not find again."""
    if settings.block is not None and settings.block > LARGE_BLOCK:
        flag = _by(settings, "--block-size 16 (32 on a CPU)", "--page-size 1")
        yield (
            f"its prefix cache holds whole blocks of {settings.block} tokens, so each turn computes "
            f"{settings.block // 2} tokens again on average: serve with {flag}, where model and backend allow it"
        )
    needed = int(load.in_flight * load.context * SHARE)
    if settings.cache_tokens is not None and settings.cache_tokens < needed:
        flag = _by(
            settings,
            "--gpu-memory-utilization, --kv-offloading-size",
            "--mem-fraction-static, --enable-hierarchical-cache",
        )
        yield (
            f"its cache holds {settings.cache_tokens:,} tokens, and {load.in_flight} trajectories need about "
            f"{needed:,} (a quarter of limits.context_tokens each), or they drive one another's prompts out: "
            f"lower concurrency, add replicas, or serve with more memory for it ({flag})"
        )
    if settings.ranks is not None and settings.ranks > 1:
        flag = _by(settings, " (--data-parallel-multi-port-external-lb)", "")
        yield (
            f"it spreads requests over {settings.ranks} data-parallel ranks, each with a prefix cache of its own, so a "
            f"turn finds its prompt by chance: give each rank an address{flag} and list all as base_url"
        )


def _flow(settings: ServerSettings, load: Load) -> Iterator[str]:
    """How requests come in and tokens go out."""
    if settings.at_a_time is not None and settings.at_a_time < load.in_flight:
        flag = _by(settings, "--max-num-seqs", "--max-running-requests")
        yield (
            f"it works on {settings.at_a_time} requests at a time, and {load.in_flight} trajectories may ask at once, "
            f"so turns wait: serve with {flag} {load.in_flight}, or lower concurrency"
        )
    if load.stream and settings.interval is not None and settings.interval > load.chunk:
        yield (
            f"its streams tell {settings.interval} tokens at a time, more than a chunk ({load.chunk}), so boundaries "
            f"are seen late and more is written in vain: serve with --stream-interval {load.chunk} or less"
        )
    if settings.front_ends == 1 and load.in_flight > ONE_PROCESS:
        fewer = f"--stream-interval {load.chunk} and " if load.stream else ""
        flag = _by(settings, "--api-server-count 2", "--tokenizer-worker-num 2")
        yield (
            f"one process takes the requests and tells the tokens of {load.in_flight} trajectories, and may be what "
            f"limits it: serve with {fewer}{flag} or more"
        )


def _by(settings: ServerSettings, vllm: str, sglang: str) -> str:
    return vllm if settings.brand is Brand.VLLM else sglang
