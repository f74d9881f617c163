"""The simulation of `benchmarks/`: what must hold of any figures, and what its tables do with theirs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simulate as tables
import simulated_facts as facts
from calibrate import SHORT, Ask, Calibration, Effort, Http, Took, line
from hardware import CPU, FIGURES, Split, cpu, nodes, student, teacher, values
from simulated_server import Cache, Rates, Request, Server
from simulated_ways import ahead, simulate
from simulated_world import Costs, Counts, Pair, Setup, Work
from simulation import Core, Loop, Predictor, Worker

FREE = Rates(fixed=0.01, row=0.001, lag=0)
"""A server that takes time for drawing tokens only."""
FREELY = Costs()
WORK = Work("tessy", 8, (200, 300), Pair(5, 18), Pair(5, 10), trajectories=24)


def setup(rates: Rates, costs: Costs = FREELY, cores: str = "own") -> Setup:
    return Setup(Pair(rates, rates), Pair(1, 1), costs, cores=cores)


def run(way: str, rates: Rates = FREE, costs: Costs = FREELY, **changes: object) -> Counts:
    return simulate(setup(rates, costs), replace(WORK, way=way, **changes))  # type: ignore[arg-type]


# --- resources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "prompt", "context", "seconds"),
    [
        (1, 0, 0, 1 + 10 + 0.5),
        (10, 0, 0, 1 + 10 + 5),  # reading the weights takes longer than computing ten tokens
        (1, 99, 0, 1 + 20 + 0.5),  # computing a hundred takes longer than reading
        (2, 0, 100, 1 + 10 + 1 + 1),
    ],
)
def test_an_iteration_reads_or_computes(rows: int, prompt: int, context: int, seconds: float) -> None:
    rates = Rates(fixed=1, weights=10, token=0.2, row=0.5, kv=0.01)
    assert rates.iteration(rows, prompt, context) == pytest.approx(seconds)


def test_experts_are_read_as_far_as_tokens_are_sent_to_them() -> None:
    rates = Rates(experts=1.0, share=0.25)
    assert rates.iteration(1, 0, 0) == pytest.approx(0.25)
    assert rates.iteration(2, 0, 0) == pytest.approx(1 - 0.75**2)


def test_two_iterations_share_a_core_and_short_work_delays_both() -> None:
    loop, ended = Loop(), dict[str, float]()
    core = Core(loop)
    core.run(1.0, lambda: ended.update(short=loop.now))
    core.run(2.0, lambda: ended.update(long=loop.now))
    loop.at(0.5, lambda: core.take(0.5))
    loop.run()
    assert ended == pytest.approx({"short": 2.5, "long": 3.5})
    assert core.busy == pytest.approx(3.5)


def test_a_worker_does_one_thing_after_the_other() -> None:
    loop, ended = Loop(), list[float]()
    worker = Worker(loop)
    for seconds in (1.0, 2.0):
        worker.do(seconds, lambda: ended.append(loop.now))
    loop.run()
    assert ended == [1.0, 3.0]


def test_a_predictor_reads_what_waits_together() -> None:
    loop, ended = Loop(), list[float]()
    predictor = Predictor(loop, fixed=1.0, each=0.1, most=2)
    for _ in range(4):
        predictor.read(lambda: ended.append(round(loop.now, 6)))
    loop.run()
    assert ended == [1.1, 2.3, 2.3, 3.4]


def test_a_cache_finds_whole_blocks_and_gives_up_what_is_oldest_from_its_end() -> None:
    cache = Cache(100, 16)
    cache.hold("a", 50)
    cache.hold("b", 40)
    assert cache.take("a", 60, 50, 0) == 48
    cache.release("a", 60)
    assert cache.take("b", 45, 40, 0) == 32
    assert cache.take("c", 60, 0, 0) is None  # no room beside `b`
    cache.release("b", 45)
    assert cache.take("a", 59, 59, 0) == 32  # of its 59, 20 went for `b`


def test_a_server_draws_as_many_tokens_as_it_is_asked_for() -> None:
    loop, told = Loop(), list[tuple[float, int]]()
    server = Server(loop, FREE)
    server.ask(Request("a", 10, 0, 12, 5, lambda drawn: told.append((round(loop.now, 6), drawn))))
    loop.run()
    assert told == [(0.055, 5), (0.11, 10), (0.132, 12)]
    assert (server.generated, server.computed) == (12, 10)


def test_rows_that_have_no_room_to_grow_are_sent_back_and_end_all_the_same() -> None:
    loop, ended = Loop(), list[int]()
    server = Server(loop, replace(FREE, cache=100, block=1))
    for n in range(3):
        server.ask(Request(n, 20, 0, 50, 0, ended.append))
    loop.run()
    assert ended == [50, 50, 50]
    assert server.preempted
    assert server.generated == 150
    assert server.cache.used == 0


def test_a_prompt_beyond_the_budget_is_computed_in_parts() -> None:
    loop, ended = Loop(), list[float]()
    server = Server(loop, Rates(fixed=1.0, budget=8))
    server.ask(Request("a", 20, 0, 1, 0, lambda _: ended.append(loop.now)))
    loop.run()
    assert ended == [3.0]
    assert server.computed == 20


# --- the ways ---------------------------------------------------------------------------------------------------

rates = st.builds(
    Rates,
    fixed=st.floats(1e-3, 0.05),
    weights=st.floats(0, 0.02),
    token=st.floats(0, 1e-3),
    row=st.floats(0, 5e-3),
    kv=st.floats(0, 1e-6),
    request=st.floats(0, 5e-3),
    event=st.floats(0, 1e-4),
    stop=st.floats(0, 1e-3),
    block=st.sampled_from([1, 16, 32]),
    cache=st.sampled_from([1500.0, 1e9]),
    seqs=st.sampled_from([3, 256]),
    budget=st.sampled_from([512, 4096]),
    chunked=st.booleans(),
    lag=st.integers(0, 2),
    interval=st.integers(1, 4),
    apis=st.integers(1, 2),
)
costs = st.builds(
    Costs,
    token=st.floats(0, 1e-4),
    look=st.floats(0, 1e-3),
    request=st.floats(0, 1e-3),
    net=st.floats(0, 1e-3),
    fixed=st.floats(0, 0.02),
    each=st.floats(0, 5e-3),
)


@settings(max_examples=40, deadline=None)
@given(
    rates,
    costs,
    st.sampled_from(["plain", "limit", "tessy", "chunks", "public"]),
    st.sampled_from(["own", "each", "one", "predictor"]),
    st.integers(1, 12),
    st.floats(0, 2),
)
def test_all_that_is_to_be_written_is_kept_and_nothing_is_kept_that_was_not_generated(
    rates: Rates, costs: Costs, way: str, cores: str, concurrency: int, extra: float
) -> None:
    work = replace(
        WORK, way=way, concurrency=concurrency, tokens=(60, 60), trajectories=10, answer=7, extra=extra
    )
    counts = simulate(setup(rates, costs, cores), work)
    assert counts.kept == 10 * 67
    assert counts.generated >= counts.kept
    assert counts.time > 0
    assert counts.computed >= 0
    if way in ("plain", "limit") and not counts.preempted:
        assert counts.generated == counts.kept
    assert simulate(setup(rates, costs, cores), work) == counts


def test_without_costs_the_limit_is_plain_with_half_of_the_servers_idle() -> None:
    """One trajectory: each token takes its iteration, whoever draws it."""
    counts = run("limit", concurrency=1, trajectories=4)
    assert counts.time == pytest.approx(counts.kept * FREE.iteration(1, 0, 0))
    both = simulate(
        replace(setup(FREE), same=True), replace(WORK, way="limit", concurrency=1, trajectories=4)
    )
    plain = simulate(
        replace(setup(FREE), same=True), replace(WORK, way="plain", concurrency=1, trajectories=4)
    )
    assert both.time == pytest.approx(plain.time)


@pytest.mark.parametrize("way", ["tessy", "chunks", "public"])
def test_nothing_is_faster_than_the_limit(way: str) -> None:
    assert run(way).figures["tok/s"] < run("limit").figures["tok/s"]


@pytest.mark.parametrize(
    ("means", "k"), [(Pair(20.0, 40.0), 10), (Pair(30.0, 30.0), 20), (Pair(15.0, 60.0), 5)]
)
def test_a_request_for_each_chunk_makes_and_wastes_what_the_formula_says(means: Pair[float], k: int) -> None:
    """With q = 1 − 1/m: 1 + q^(k−1)/(1 − q^k) requests a span, near 1/(1 − e^(−k/m)) where m is large."""
    counts = run("chunks", tokens=(4000, 4000), means=means, chunks=Pair(k, k), trajectories=30)
    made = [1 + (1 - 1 / m) ** (k - 1) / (1 - (1 - 1 / m) ** k) for m in means]
    near = [1 / (1 - 2.718281828 ** (-k / m)) for m in means]
    assert counts.figures["requests/span"] == pytest.approx(sum(made) / 2, rel=0.03)
    assert counts.figures["requests/span"] == pytest.approx(sum(near) / 2, rel=0.06)
    vain = (sum(k * each for each in made) - sum(means)) / sum(means)
    assert counts.figures["waste"] == pytest.approx(vain, rel=0.08)


def test_a_stream_is_one_request_a_span() -> None:
    assert run("tessy").figures["requests/span"] == pytest.approx(1, abs=0.01)
    assert run("tessy", means=Pair(700.0, 5.0), tokens=(3000, 3000)).figures["requests/span"] > 1.3


def test_a_server_counts_no_token_that_it_draws_after_it_is_told_to_stop() -> None:
    """At 1/1 each span ends with a token of the other kind, and one more is under way: that is not counted."""
    rates = replace(FREE, stop=1e-5, lag=0)
    counts = run("tessy", rates, chunks=Pair(1, 1), tokens=(4000, 4000), trajectories=30)
    spans = counts.spans / counts.kept
    assert counts.figures["waste"] == pytest.approx(2 * spans, rel=0.05)
    assert counts.figures["waste counted"] == pytest.approx(spans, rel=0.05)


def test_lock_step_is_never_faster_than_streams() -> None:
    for concurrency in (2, 8, 16):
        for costs in (Costs(), Costs(fixed=0.02, each=0.005), Costs(net=0.002, request=0.001)):
            rates = replace(FREE, request=0.002, token=1e-4)
            streams, rounds = (run(way, rates, costs, concurrency=concurrency) for way in ("tessy", "public"))
            assert streams.figures["tok/s"] > rounds.figures["tok/s"]


@pytest.mark.parametrize(
    ("worse", "than"),
    [
        ({"request": 0.01}, {}),
        ({"token": 1e-3}, {}),
        ({"token": 1e-3, "block": 128}, {"token": 1e-3, "block": 16}),
        ({"token": 1e-3, "cache": 600.0}, {"token": 1e-3}),
        ({"event": 1e-3}, {}),
        ({"lag": 3}, {}),
    ],
)
def test_what_costs_more_takes_longer(worse: dict[str, float], than: dict[str, float]) -> None:
    slow = run("tessy", replace(FREE, **worse))  # type: ignore[arg-type]
    fast = run("tessy", replace(FREE, **than))  # type: ignore[arg-type]
    assert slow.figures["tok/s"] < fast.figures["tok/s"]


def test_a_slow_predictor_lets_servers_run_ahead() -> None:
    quick, slow = run("tessy"), run("tessy", costs=Costs(fixed=0.1))
    assert slow.figures["waste"] > quick.figures["waste"] + 0.1
    assert run("tessy", costs=Costs(fixed=0.1), judged=False) == quick


def test_a_cache_that_holds_all_trajectories_is_read_from_and_one_that_does_not_is_not() -> None:
    long = replace(WORK, tokens=(2000, 2000), trajectories=8, way="limit")
    enough = simulate(setup(replace(FREE, cache=8 * 2300)), long)
    short = simulate(setup(replace(FREE, cache=4 * 1500)), long)
    assert enough.figures["computed/token"] < 2.5
    assert short.figures["computed/token"] > 20


def test_a_window_of_an_endless_run_is_about_what_a_long_run_is() -> None:
    window = simulate(setup(FREE), replace(WORK, trajectories=None, warm=20, window=60))
    whole = run("tessy", trajectories=120)
    assert window.figures["tok/s"] == pytest.approx(whole.figures["tok/s"], rel=0.08)
    assert window.time == pytest.approx(60)


def test_streams_are_opened_for_what_the_engine_opens_them_for() -> None:
    from tessy.adapters.server import engine

    for chunk in (1, 5, 20, 100):
        for most in (1, 100, 512, 600, 5000):
            assert ahead(chunk, most) == engine.ahead(chunk, most)


# --- figures, tables, comparisons -------------------------------------------------------------------------------


def test_every_figure_has_a_source_and_lies_between_its_bounds() -> None:
    for name, figure in FIGURES.items():
        assert figure.source, name
        assert figure.low <= figure.value <= figure.high, name


def test_iterations_are_near_the_published_ones() -> None:
    _, lines = facts.published_table()
    off = {
        (row["model"], row["GPUs"], row["rows"], row["context"]): row["modelled ms"] / row["published ms"]
        for row in lines
    }
    one = [ratio for (_, gpus, _, _), ratio in off.items() if gpus == 1]
    assert max(abs(ratio - 1) for ratio in one) < 0.15
    assert max(abs(ratio - 1) for ratio in off.values()) < 0.25


def test_the_facts_of_the_cpu_servers_are_predicted_within_15_percent() -> None:
    _, lines = facts.facts_table()
    assert len(lines) == len(facts.FACTS)
    off: dict[str, list[float]] = {way: [] for way in ("plain", "limit", "tessy", "public")}
    for row in lines:
        off[row["way"].split()[0]].append(abs(row["predicted"] / row["measured"] - 1))
    assert max(off["limit"] + off["tessy"]) < facts.TOLERANCE
    assert max(off["plain"] + off["public"]) < 0.2


def test_more_gpus_make_a_teacher_faster_and_hold_more() -> None:
    one, two, four = (teacher(values(), gpus) for gpus in (1, 2, 4))
    for rows in (1, 64, 512):
        steps = [each.iteration(rows, 0, 1000 * rows) for each in (one, two, four)]
        assert steps == sorted(steps, reverse=True)
    assert one.cache < two.cache < four.cache
    assert student(values(), bits=8).cache == 2 * student(values()).cache


def test_too_many_trajectories_for_the_students_cache_ruin_a_node() -> None:
    long = replace(tables.LONG, warm=2, window=4)
    fits, over = (
        simulate(nodes(values(), Split(2, 2, 4)), replace(long, concurrency=count)) for count in (160, 320)
    )
    assert over.figures["tok/s"] < fits.figures["tok/s"] / 4


def outcomes(factor: float) -> list[dict[str, object]]:
    """What `alternation` would have measured on just the servers of the model, times `factor`."""
    case = {"concurrency": 8, "tokens": 90, "means": [5, 18], "usual": False}
    found: list[dict[str, object]] = []
    for way in ("tessy, labels known", "limit", "plain"):
        name, judged = facts.MEASURED[way]
        work = replace(WORK, way=name, tokens=(60, 90), trajectories=16, judged=judged, prompt=16, extra=0.5)
        counts = simulate(cpu(CPU), work)
        found.append(
            {
                "way": way if way in ("limit", "plain") else f"{way} 5/10",
                "chunks": None if way in ("limit", "plain") else [5, 10],
                "case": case,
                "repetition": 0,
                "kept": counts.kept,
                "seconds": counts.time / factor,
                "spans": counts.kept / 12,
                "requests": counts.requests,
                "generated": counts.generated,
            }
        )
    return found


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.4, 1)])
def test_against_fails_where_the_prediction_is_off(
    factor: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "alternation.json"
    file.write_text(json.dumps(outcomes(factor)))
    monkeypatch.setattr(
        sys, "argv", ["simulate.py", "--against", str(file), "--json", str(tmp_path / "out.json")]
    )
    assert tables.main() == code
    assert ("0 of the limit's" in capsys.readouterr().out) == (code == 0)
    lines = json.loads((tmp_path / "out.json").read_text())["against"]
    assert [row["way"] for row in lines] == ["tessy, labels known 5/10", "limit", "plain"]


def test_tables_are_markdown() -> None:
    assert tables.markdown([{"a": 1, "b": "x"}, {"a": 2000, "b": "y"}]) == (
        "| a | b |\n| --- | --- |\n| 1 | x |\n| 2,000 | y |"
    )


# --- calibration ------------------------------------------------------------------------------------------------


def test_calibration_finds_the_figures_of_a_simulated_server() -> None:
    true = Rates(
        fixed=0.012, token=6e-4, row=3e-3, kv=2e-7, request=2e-3, prompt=5e-7, text=2e-6, event=2e-4, block=32
    )
    loop = Loop()
    core = Core(loop)
    server = Server(loop, replace(true, lag=0), core, [core])
    numbers: dict[str, int] = {}
    seen: dict[str, int] = {}

    def probe(asks: list[Ask]) -> Took:
        began, api = loop.now, server.apis[0].busy
        for ask in asks:
            number = numbers.setdefault(ask.key, len(numbers))
            same = seen.get(ask.key, 0)
            seen[ask.key] = ask.prompt
            look = int(ask.stream)
            server.ask(Request(number, ask.prompt, same, ask.tokens, look, lambda drawn: None, ask.text))
        loop.run()
        return Took(loop.now - began, server.apis[0].busy - api)

    found = Calibration(probe, Effort((1, 4, 16), 16, 3, 1)).figures()  # type: ignore[arg-type]
    for name in ("fixed", "token", "row", "kv", "prompt", "text", "event", "request"):
        assert found[name] == pytest.approx(getattr(true, name), rel=0.15, abs=1e-8), name
    assert set(found) <= set(CPU)


def test_a_line_through_points() -> None:
    assert line([1, 2, 3], [3, 5, 7]) == pytest.approx((1, 2))
    assert line([1, 2, 3], [0, 2, 4])[0] == 0
    # An error of a tenth is the same at either end.
    assert line([1, 10], [11, 20]) == pytest.approx((10, 1))
    assert line([1, 10, 100], [11, 20, 121])[0] == pytest.approx(10, rel=0.15)


def test_prompts_of_a_key_begin_alike() -> None:
    probe = Http({"m": "http://127.0.0.1:1/v1"}, {"temperature": 0.0})
    asks = (("a", SHORT, 1), ("a", 100, 5), ("b", SHORT, 1))
    short, long, other = (probe.body(Ask(*ask), "m") for ask in asks)
    assert long["prompt"][:SHORT] == short["prompt"] != other["prompt"]
    assert (len(long["prompt"]), long["max_tokens"], long["temperature"]) == (100, 5, 0.0)
    assert len(probe.body(Ask("a", 7, 1, text=True), "m")["prompt"].split()) == 7
