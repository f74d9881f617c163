"""What `tessy check` says of badly set servers: the judgement in tables, the whole check and a run on real sockets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import STUDENT, TEACHER, Servers, config, fields, write_questions
from tessy.adapters.fakes import FakeServer, Fault, Traits
from tessy.adapters.server import Brand, ServerSettings
from tessy.programs.check import Finding, check
from tessy.programs.config import RunConfig
from tessy.programs.hints import ONE_PROCESS, Load, hints
from tessy.programs.progress import Progress
from tessy.programs.run import synthesize
from tessy.programs.speakers import participants

LOAD = Load(in_flight=64, context=40_960, chunk=10, stream=True)
WELL = ServerSettings(Brand.VLLM, True, 16, 10**6, ranks=1)
"""As vLLM on a large GPU."""
SGLANG = ServerSettings(Brand.SGLANG, True, 1, 10**6, 128, 1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "load", "found", "flag"),
    [
        (replace(WELL, prefix_cache=False), LOAD, "its prefix cache is off", "with --enable-prefix-caching"),
        (
            replace(SGLANG, prefix_cache=False),
            LOAD,
            "its prefix cache is off",
            "without --disable-radix-cache",
        ),
        (replace(WELL, block=33), LOAD, "whole blocks of 33 tokens", "--block-size 16 (32 on a CPU)"),
        (replace(WELL, block=128), LOAD, "computes 64 tokens again", "--block-size 16 (32 on a CPU)"),
        (replace(SGLANG, block=64), LOAD, "whole blocks of 64 tokens", "--page-size 1"),
        (
            replace(WELL, cache_tokens=655_359),
            LOAD,
            "holds 655,359 tokens, and 64 trajectories need about 655,360",
            "--gpu-memory-utilization, --kv-offloading-size",
        ),
        (replace(SGLANG, cache_tokens=400_000), LOAD, "holds 400,000 tokens", "--enable-hierarchical-cache"),
        (
            replace(WELL, ranks=8),
            LOAD,
            "over 8 data-parallel ranks",
            "--data-parallel-multi-port-external-lb",
        ),
        (replace(SGLANG, ranks=2), LOAD, "over 2 data-parallel ranks", "give each rank an address and list"),
        (replace(SGLANG, at_a_time=63), LOAD, "works on 63 requests at a time", "--max-running-requests 64"),
        (replace(SGLANG, interval=11), LOAD, "tell 11 tokens at a time", "--stream-interval 10 or less"),
        (
            replace(WELL, front_ends=1),
            replace(LOAD, in_flight=129, context=4096),
            "tells the tokens of 129 trajectories",
            "--stream-interval 10 and --api-server-count 2",
        ),
        (
            replace(SGLANG, at_a_time=256),
            replace(LOAD, in_flight=129, context=4096, stream=False),
            "tells the tokens of 129 trajectories",
            "serve with --tokenizer-worker-num 2",
        ),
    ],
)
def test_a_bad_setting_is_one_line_with_its_flag(
    settings: ServerSettings, load: Load, found: str, flag: str
) -> None:
    (hint,) = hints(settings, load)
    assert found in hint
    assert flag in hint
    assert "\n" not in hint


@pytest.mark.parametrize(
    ("settings", "load"),
    [
        (ServerSettings(), LOAD),
        (ServerSettings(Brand.VLLM), LOAD),
        (ServerSettings(Brand.SGLANG), LOAD),
        (WELL, LOAD),
        (SGLANG, LOAD),
        (replace(WELL, block=32), LOAD),
        (replace(WELL, cache_tokens=655_360), LOAD),
        (replace(SGLANG, at_a_time=64), LOAD),
        (replace(SGLANG, interval=10), LOAD),
        (replace(SGLANG, interval=100), replace(LOAD, stream=False)),
        (replace(WELL, front_ends=1), replace(LOAD, in_flight=ONE_PROCESS, context=4096)),
        (replace(WELL, front_ends=None), replace(LOAD, in_flight=4096, context=512)),
    ],
)
def test_what_is_well_or_not_told_is_not_judged(settings: ServerSettings, load: Load) -> None:
    assert list(hints(settings, load)) == []


def test_a_server_may_have_several_faults_but_a_cache_that_is_off_has_no_others() -> None:
    bad = ServerSettings(Brand.SGLANG, True, 64, 1000, 8, 32, 1, 4)
    assert len(list(hints(bad, replace(LOAD, in_flight=1000)))) == 6
    off = list(hints(replace(bad, prefix_cache=False), replace(LOAD, in_flight=1000)))
    assert [hint.split()[0:2] for hint in off] == [
        ["its", "prefix"],
        ["it", "works"],
        ["its", "streams"],
        ["one", "process"],
    ]


COUNTS = st.none() | st.integers(1, 10**12)


@given(
    st.builds(
        ServerSettings,
        st.sampled_from([None, *Brand]),
        st.none() | st.booleans(),
        *[COUNTS] * 6,
    ),
    st.builds(Load, st.integers(1, 10**5), st.integers(2, 10**6), st.integers(1, 10**4), st.booleans()),
)
def test_a_better_server_gets_no_more_hints(settings: ServerSettings, load: Load) -> None:
    before = list(hints(settings, load))
    assert len(before) <= 6
    better = replace(settings, prefix_cache=True, block=1, cache_tokens=10**12, at_a_time=10**12, ranks=1)
    assert set(hints(better, load)) <= set(before)
    assert list(hints(replace(better, front_ends=2, interval=1), load)) == []


# --- the whole check ----------------------------------------------------------------------------------

LARGE_BLOCKS = Fault(
    body=b'vllm:cache_config_info{block_size="128",enable_prefix_caching="True",num_gpu_blocks="99999"} 1.0\n'
)
COARSE = Fault(
    body=orjson.dumps(
        {"page_size": 1, "disable_radix_cache": False, "stream_interval": 20, "api_key": "a secret"}
    )
)


async def findings(run: RunConfig) -> list[Finding]:
    async with participants(run) as speakers:
        return await check(run, speakers)


async def test_hints_stand_beside_what_is_well_and_name_the_server(tmp_path: Path) -> None:
    async with (
        FakeServer(STUDENT, pages={b"/metrics": LARGE_BLOCKS}) as one,
        FakeServer(TEACHER, pages={b"/server_info": COARSE}) as two,
    ):
        found = await findings(config(tmp_path, Servers(one, two)))
        hinted = {finding.subject: finding for finding in found if not finding.ok}
        assert set(hinted) == {f"student {one.base_url}", f"teacher {two.base_url}"}
        assert not any(finding.fatal for finding in found)
        blocks, interval = hinted.values()
        assert blocks.message.startswith("settings: its prefix cache holds whole blocks of 128 tokens")
        assert interval.message.startswith(
            "settings: its streams tell 20 tokens at a time, more than a chunk (12)"
        )
        assert sum("takes token ids; tokenizers agree" in finding.message for finding in found) == 2
        assert "secret" not in repr(found)
        # Nobody alternates: no hint.
        alone = config(tmp_path, Servers(one, two), strategy="student_only")
        assert all(finding.ok for finding in await findings(alone))


async def test_concurrency_is_shared_by_replicas(tmp_path: Path) -> None:
    body = orjson.dumps({"page_size": 1, "disable_radix_cache": False, "max_running_requests": 40})
    pages = {b"/server_info": Fault(body=body)}
    async with (
        FakeServer(STUDENT) as student,
        FakeServer(TEACHER, pages=pages) as one,
        FakeServer(TEACHER, pages=pages) as two,
    ):
        given: dict[str, Any] = fields(tmp_path, Servers(student, one))
        assert [f.ok for f in await findings(RunConfig.model_validate(given))].count(False) == 1
        given["teacher"]["base_url"] = [one.base_url, two.base_url]
        assert all(f.ok for f in await findings(RunConfig.model_validate(given)))
        over = await findings(RunConfig.model_validate(given | {"concurrency": 81}))
        assert ["41 trajectories" in f.message for f in over if not f.ok] == [True, True]


@pytest.mark.parametrize("traits", [Traits(streams=False), Traits(streams_ids=False)])
async def test_a_server_that_does_not_stream_is_told_where_that_matters(
    tmp_path: Path, traits: Traits
) -> None:
    async with FakeServer(STUDENT, traits=traits) as one, FakeServer(TEACHER) as two:
        at = Servers(one, two)
        (told,) = [finding for finding in await findings(config(tmp_path, at)) if not finding.ok]
        assert told.subject == f"student {one.base_url}"
        expected = (
            "server: tells no token ids in a stream: each chunk is a request of its own, so set chunk: 20"
        )
        assert told.message == expected
        assert not told.fatal
        assert all(finding.ok for finding in await findings(config(tmp_path, at, stream=False)))
        assert all(finding.ok for finding in await findings(config(tmp_path, at, strategy="student_only")))


async def test_a_server_of_another_model_or_none_gets_no_hints(tmp_path: Path) -> None:
    pages = {b"/metrics": LARGE_BLOCKS}
    async with FakeServer(STUDENT, name="other", pages=pages) as one, FakeServer(TEACHER) as two:
        run = config(tmp_path, Servers(one, two))
        (told,) = [finding for finding in await findings(run) if not finding.ok]
        assert "does not serve 'scripted'" in told.message
    dead = [finding.message for finding in await findings(run) if not finding.ok]
    assert len(dead) == 2
    assert all("connection refused" in message for message in dead)


async def test_a_run_tells_each_hint_once_and_goes_on(tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl", range(4))
    async with (
        FakeServer(STUDENT, pages={b"/metrics": LARGE_BLOCKS}) as one,
        FakeServer(TEACHER) as two,
    ):
        progress = Progress()
        summary = await synthesize(config(tmp_path, Servers(one, two)), progress=progress)
    assert summary.kept == 4
    (hint,) = [finding for finding in progress.findings if not finding.ok]
    assert "--block-size 16" in hint.message
