"""How a server is set: what vLLM's and SGLang's own words say of it, and real sockets that say something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy.adapters.fakes import ByteTokenizer, FakeServer, Fault, ScriptedModel, Traits
from tessy.adapters.server import Brand, ServerEngine, ServerOptions, ServerSettings, server_settings, streams
from tessy.adapters.server.settings import MOST_BYTES, MOST_COUNT, MOST_RANKS, read_metrics, read_server_info
from tessy.core.prompt import TokenBuffer
from tessy.errors import ServerError

MODEL = ScriptedModel(ByteTokenizer())
LABELS = {
    "_block_size_resolved": "True",
    "block_size": "16",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "enable_prefix_caching": "True",
    "engine": "0",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_max_concurrency": "22.75",
    "kv_cache_size_tokens": "93184",
    "kv_offloading_size": "None",
    "num_gpu_blocks": "5824",
    "prefix_match_unit": "None",
}
"""Some of what vLLM 0.32 tells."""
INFO: dict[str, Any] = {
    "model_path": "m",
    "api_key": "a secret",
    "page_size": 1,
    "disable_radix_cache": False,
    "stream_interval": 1,
    "max_running_requests": None,
    "tokenizer_worker_num": 1,
    "dp_size": 1,
    "enable_hierarchical_cache": False,
    "max_total_num_tokens": 400_000,
    "internal_states": [{"effective_max_running_requests_per_dp": 128}],
    "version": "0.5.9",
}
"""Some of what SGLang tells."""
VLLM = ServerSettings(Brand.VLLM, True, 16, 93_184, ranks=1)
SGLANG = ServerSettings(Brand.SGLANG, True, 1, 400_000, 128, 1, 1, 1)


def metric(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"vllm:cache_config_info{{{pairs}}} 1.0\n"


def metrics(*ranks: Mapping[str, str], process: bool = False) -> bytes:
    """The labels of each rank, among other metrics."""
    lines = [
        "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n",
        "# TYPE vllm:cache_config_info gauge\n",
        *map(metric, ranks),
        'vllm:num_requests_running{engine="0",model_name="m"} 0.0\n',
        *(["process_start_time_seconds 1.7641e+09\n"] if process else []),
    ]
    return "".join(lines).encode()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, VLLM),
        ({"enable_prefix_caching": "False"}, ServerSettings(Brand.VLLM, False, 16, 93_184, ranks=1)),
        ({"enable_prefix_caching": "None"}, ServerSettings(Brand.VLLM, None, 16, 93_184, ranks=1)),
        ({"block_size": "128"}, ServerSettings(Brand.VLLM, True, 128, 93_184, ranks=1)),
        # Finer than a block.
        (
            {"block_size": "1024", "prefix_match_unit": "32"},
            ServerSettings(Brand.VLLM, True, 32, 93_184, ranks=1),
        ),
        ({"block_size": "1024", "cache_hit_alignment_tokens": "16"}, VLLM),
        # As before 0.20: blocks only.
        ({"kv_cache_size_tokens": "None"}, VLLM),
        (
            {"kv_cache_size_tokens": "None", "num_gpu_blocks": "10"},
            ServerSettings(Brand.VLLM, True, 16, 160, ranks=1),
        ),
        (
            {"kv_cache_size_tokens": "None", "num_gpu_blocks": "None"},
            ServerSettings(Brand.VLLM, True, 16, ranks=1),
        ),
        ({"kv_offloading_size": "64.0"}, ServerSettings(Brand.VLLM, True, 16, ranks=1)),
        # Not believed.
        ({"block_size": "-16"}, ServerSettings(Brand.VLLM, True, None, 93_184, ranks=1)),
        ({"block_size": "0"}, ServerSettings(Brand.VLLM, True, None, 93_184, ranks=1)),
        ({"block_size": "1e3"}, ServerSettings(Brand.VLLM, True, None, 93_184, ranks=1)),
        ({"block_size": "٣"}, ServerSettings(Brand.VLLM, True, None, 93_184, ranks=1)),
        ({"block_size": "9" * 5000}, ServerSettings(Brand.VLLM, True, None, 93_184, ranks=1)),
        ({"cache_dtype": r"\",block_size=\"64"}, VLLM),
    ],
)
def test_vllm_tells_by_its_metrics(labels: dict[str, str], expected: ServerSettings) -> None:
    assert read_metrics(metrics(LABELS | labels)) == expected


def test_vllm_tells_of_ranks_and_processes() -> None:
    ranks = [LABELS | {"engine": str(n), "num_gpu_blocks": "11648"} for n in range(2)]
    assert read_metrics(metrics(*ranks)) == ServerSettings(Brand.VLLM, True, 16, 2 * 93_184, ranks=2)
    by_blocks = [rank | {"kv_cache_size_tokens": "None"} for rank in ranks]
    assert read_metrics(metrics(*by_blocks)).cache_tokens == 2 * 93_184
    assert read_metrics(metrics(LABELS, process=True)).front_ends == 1
    assert read_metrics(metrics(process=True)) == ServerSettings()
    many = read_metrics(metrics(*(LABELS | {"engine": str(n)} for n in range(MOST_RANKS + 10))))
    assert many.ranks == MOST_RANKS


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, SGLANG),
        ({"disable_radix_cache": True}, ServerSettings(Brand.SGLANG, False, 1, 400_000, 128, 1, 1, 1)),
        ({"disable_radix_cache": "no"}, ServerSettings(Brand.SGLANG, None, 1, 400_000, 128, 1, 1, 1)),
        ({"page_size": 64}, ServerSettings(Brand.SGLANG, True, 64, 400_000, 128, 1, 1, 1)),
        ({"page_size": True}, ServerSettings(Brand.SGLANG, True, None, 400_000, 128, 1, 1, 1)),
        ({"page_size": 1.0}, ServerSettings(Brand.SGLANG, True, None, 400_000, 128, 1, 1, 1)),
        ({"page_size": "1"}, SGLANG),
        ({"page_size": MOST_COUNT + 1}, ServerSettings(Brand.SGLANG, True, None, 400_000, 128, 1, 1, 1)),
        ({"stream_interval": 20}, ServerSettings(Brand.SGLANG, True, 1, 400_000, 128, 20, 1, 1)),
        ({"stream_interval": -1}, ServerSettings(Brand.SGLANG, True, 1, 400_000, 128, None, 1, 1)),
        ({"tokenizer_worker_num": 4}, ServerSettings(Brand.SGLANG, True, 1, 400_000, 128, 1, 4, 1)),
        ({"dp_size": 2}, ServerSettings(Brand.SGLANG, True, 1, 800_000, 256, 1, 1, 2)),
        ({"enable_hierarchical_cache": True}, ServerSettings(Brand.SGLANG, True, 1, None, 128, 1, 1, 1)),
        ({"internal_states": []}, ServerSettings(Brand.SGLANG, True, 1, 400_000, None, 1, 1, 1)),
        ({"internal_states": [[]]}, ServerSettings(Brand.SGLANG, True, 1, 400_000, None, 1, 1, 1)),
        (
            {"internal_states": None, "max_running_requests": 48},
            ServerSettings(Brand.SGLANG, True, 1, 400_000, 48, 1, 1, 1),
        ),
    ],
)
def test_sglang_tells_by_its_server_info(fields: dict[str, Any], expected: ServerSettings) -> None:
    assert read_server_info(orjson.dumps(INFO | fields)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"vllm_config": "model=m", "vllm_env": {}, "system_env": {}}',
        b"<html>Not Found</html>",
        b"[" * 100_000,
        b'vllm:cache_config_info{block_size="16"',
        b"vllm:cache_config_info 1.0\n",
        b"# vllm:cache_config_info{} 1.0\n",
        b"vllm:cache_config_info{" + b"a" * 10**6,
        b"vllm:cache_config_info{" * 10**5,
    ],
)
def test_what_is_neither_tells_nothing(body: bytes) -> None:
    assert read_metrics(body) == read_server_info(body) == ServerSettings()


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(INFO)), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(sorted(LABELS)), st.text(max_size=20)))
def test_no_metrics_are_too_odd(noise: bytes, labels: dict[str, str]) -> None:
    whole = noise + b"\n" + metrics(LABELS | labels)
    for body in (noise, whole, whole[: len(whole) // 2]):
        told = read_metrics(body)
        assert read_server_info(body) == ServerSettings()
        numbers = (told.block, told.cache_tokens, told.ranks)
        assert all(number is None or number >= 1 for number in numbers)


@given(st.dictionaries(st.sampled_from(sorted(INFO)), ODD))
def test_no_server_info_is_too_odd(fields: dict[str, Any]) -> None:
    told = read_server_info(orjson.dumps(INFO | fields))
    assert told.brand is Brand.SGLANG
    numbers = (told.block, told.cache_tokens, told.at_a_time, told.interval, told.front_ends, told.ranks)
    assert all(number is None or (type(number) is int and number >= 1) for number in numbers)
    assert "secret" not in repr(told)


# --- on a socket ------------------------------------------------------------------------------------------------------


def page(body: bytes) -> Fault:
    return Fault(body=body)


SGLANG_PAGE = page(orjson.dumps(INFO))


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ({}, ServerSettings()),
        ({b"/metrics": page(metrics(LABELS))}, VLLM),
        ({b"/server_info": SGLANG_PAGE}, SGLANG),
        ({b"/get_server_info": SGLANG_PAGE}, SGLANG),
        ({b"/server_info": SGLANG_PAGE, b"/metrics": page(b"sglang:num_running_reqs 0.0\n")}, SGLANG),
        ({b"/server_info": page(b'{"vllm_config": ""}'), b"/metrics": page(metrics(LABELS))}, VLLM),
        ({b"/metrics": Fault(302, headers={"Location": "http://127.0.0.1:9/"})}, ServerSettings()),
        ({b"/metrics": Fault.error(500, "oops"), b"/server_info": SGLANG_PAGE}, SGLANG),
        ({b"/metrics": Fault(body=metrics(LABELS), reset=True)}, ServerSettings()),
        ({b"/metrics": page(metrics(LABELS) + b"#" * MOST_BYTES)}, ServerSettings()),
    ],
)
async def test_a_server_tells_or_does_not(pages: dict[bytes, Fault], expected: ServerSettings) -> None:
    async with FakeServer(MODEL, pages=pages) as server:
        options = ServerOptions(server.name, (server.base_url,))
        assert await server_settings(options, server.base_url) == expected
        assert server.requests == 0, "no completion is asked for"


async def test_a_server_that_is_silent_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessy.adapters.server.settings.SECONDS", 0.1)
    pages = {b"/metrics": Fault(hang=True), b"/server_info": SGLANG_PAGE}
    async with FakeServer(MODEL, pages=pages) as server:
        url = server.base_url
        assert await server_settings(ServerOptions(server.name, (url,)), url) == SGLANG
    assert await server_settings(ServerOptions(server.name, (url,)), url) == ServerSettings()


async def test_the_key_is_shown() -> None:
    pages = {b"/metrics": page(metrics(LABELS))}
    async with FakeServer(MODEL, traits=Traits(api_key="k"), pages=pages) as server:
        for key, expected in (("k", VLLM), ("other", ServerSettings())):
            options = ServerOptions(server.name, (server.base_url,), api_key=key)
            assert await server_settings(options, server.base_url) == expected


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        (Traits(), True),
        (Traits(returns_token_ids=False), True),
        (Traits(streams=False), False),
        (Traits(streams_ids=False), False),
        (Traits(takes_ids=False), False),
        (Traits(refuses_unknown=True), False),
    ],
)
async def test_a_server_streams_or_does_not(traits: Traits, expected: bool) -> None:
    async with FakeServer(MODEL, traits=traits) as server:
        engine = ServerEngine(ServerOptions(server.name, (server.base_url,)), MODEL.tokenizer)
        try:
            assert await streams(engine, server.base_url, TokenBuffer([100, 101])) is expected
            assert engine.stats.in_flight == engine.replicas[0].gate.in_flight == 0
        finally:
            await engine.close()


async def test_a_dead_server_is_named_when_asked_for_a_stream() -> None:
    async with FakeServer(MODEL) as server:
        url = server.base_url
    engine = ServerEngine(ServerOptions(server.name, (url,), "teacher"), MODEL.tokenizer)
    try:
        with pytest.raises(ServerError, match=f"teacher model {server.name} at {url}: connection refused"):
            await streams(engine, url, TokenBuffer([100]))
    finally:
        await engine.close()
