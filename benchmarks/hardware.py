"""The figures that a simulation of GPU nodes is fed with, each with its source, and the set-ups that are made of them.

H100 SXM 80 GB, vLLM; GPT-OSS-120B in MXFP4 as the teacher, Qwen3-8B in BF16 as the student. What is not published as
such is derived from what is, by the formula beside it; `low` and `high` are what else it may be, for the table of
sensitivities. `simulate.py published` shows iterations as modelled beside published ones.

Knows neither how a simulation works nor how tables are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulated_server import Rates
from simulated_world import Costs, Pair, Setup


@dataclass(frozen=True)
class Figure:
    """A number, what else it may be, and where it is from."""

    value: float
    low: float
    high: float
    source: str


SILYBENCH = "github.com/tgarg01/silybench-data derived/csv/perf_points.csv (Qwen3-8B BF16, 1 H100, vLLM 0.30)"
GPUSTACK = "docs.gpustack.ai/latest/performance-lab/gpt-oss-120b/h100 (vLLM 0.10.2)"
ML_ENERGY = "github.com/ml-energy/leaderboard public/data/models/openai__gpt-oss-120b__gpqa.json (H100)"
HF_MEM = "github.com/alvarobartt/hf-mem issue 60 (vLLM's log for gpt-oss-120b)"
HERE = "measured here: vLLM 0.32 on an EPYC core"

FIGURES: Mapping[str, Figure] = {
    "student.fixed": Figure(
        1.5e-3, 0.7e-3, 3e-3, f"fitted to {SILYBENCH}: 6.86 ms at batch 1, less the weights"
    ),
    "student.weights": Figure(5.3e-3, 4.9e-3, 5.9e-3, "derived: 16.4 GB of BF16 / (0.92 · 3.35 TB/s)"),
    "student.token": Figure(2.7e-5, 2.3e-5, 3.5e-5, f"{SILYBENCH}: 61 ms to the first token after 2,048"),
    "student.row": Figure(1e-5, 0.5e-5, 3e-5, f"fitted to {SILYBENCH}: 12.8 ms at batch 256, context 192"),
    "student.kv": Figure(
        4.8e-8,
        4.4e-8,
        6e-8,
        f"{SILYBENCH}: 9.5 to 17.1 ms, context 640 to 3,072, batch 64; = 147,456 B / 3.07 TB/s",
    ),
    "student.cache": Figure(376_000, 330_000, 752_000, f"{SILYBENCH}: 327 · 1,152 and 92 · 4,096; high: FP8"),
    "teacher.fixed": Figure(
        4.3e-3, 2.5e-3, 6e-3, f"fitted to {ML_ENERGY}: 9.9, 13.2, 18.0, 24.2 ms at batch 8, 16, 32, 64"
    ),
    "teacher.dense": Figure(
        1e-3, 1e-3, 1.2e-3, "derived: 3.1 GB of attention and head in BF16 / (0.92 · 3.35 TB/s)"
    ),
    "teacher.experts": Figure(
        2e-2, 1.8e-2, 2.3e-2, "derived: 61 GB of experts in MXFP4 / (0.92 · 3.35 TB/s)"
    ),
    "teacher.token": Figure(
        6.2e-5, 5.5e-5, 7e-5, f"{GPUSTACK}: 16,137 prompt tok/s on one GPU, 32,471 on two"
    ),
    "teacher.row": Figure(
        2e-5,
        1e-5,
        9e-5,
        f"{GPUSTACK}: 31 ms at about 800 rows on two GPUs; high: {ML_ENERGY}, 22.5 ms at 128 on two",
    ),
    "teacher.kv": Figure(
        1.2e-8, 1.2e-8, 2.4e-8, "derived: 18 full layers · 2,048 B / 3.07 TB/s; high: all 36 layers"
    ),
    "teacher.cache1": Figure(
        78_000, 78_000, 156_000, f"{HF_MEM}: 78,384 tokens on one GPU; high: sliding layers freed"
    ),
    "teacher.cache2": Figure(
        1_040_000,
        900_000,
        2_080_000,
        "derived: (2 · (0.9 · 85.5 − 5.9) − 65.2) GB / 73,728 B; high: as above",
    ),
    "teacher.cache4": Figure(2_970_000, 2_500_000, 5_900_000, "derived: the same with four GPUs"),
    "request": Figure(1.7e-3, 0.8e-3, 3e-3, f"{HERE}: CPU of a request, whatever it generates (issue 8)"),
    "prompt": Figure(
        2.5e-7,
        1e-7,
        4e-7,
        f"{HERE}: JSON 0.09, msgpack 0.02, block hashes 0.11 µs, and as much as them again for ids echoed",
    ),
    "text": Figure(1.7e-6, 1e-6, 2.5e-6, f"{HERE}: tokenizing, one thread"),
    "event": Figure(
        3e-5,
        1.5e-5,
        3.8e-5,
        f"derived: at most 38 µs, {SILYBENCH}: 512 streams at 19.7 ms a token by one API process",
    ),
    "stop": Figure(2e-4, 1e-4, 5e-4, "assumed"),
    "net": Figure(2e-4, 5e-5, 1e-3, "assumed: inside a machine or a rack"),
    "process.event": Figure(
        3.4e-5, 1e-5, 3.4e-5, "docs/LOG.md: 72 and 45 µs a token with 1 and 5 tokens an event"
    ),
    "process.look": Figure(
        1.5e-4, 5e-5, 3e-4, "derived: what is left of these 45 µs, a look in 5 to 10 tokens"
    ),
    "process.request": Figure(3e-4, 1e-4, 6e-4, "derived: as above"),
    "predictor.fixed": Figure(
        1.2e-2, 6e-3, 2e-2, "derived: 28 layers of Qwen3-0.6B, about 400 launches of 30 µs from Python"
    ),
    "predictor.each": Figure(
        5e-4,
        2e-4,
        1e-3,
        "derived: 0.34 ms to tokenize 200 tokens (1.7 µs each, measured here), 0.1 ms for 40 new ones",
    ),
    "predictor.share": Figure(0.3, 0.15, 0.6, "derived: of a batch's time, what the GPU computes"),
}

Figures = Mapping[str, float]


def values() -> dict[str, float]:
    """The figures as they are believed to be."""
    return {name: figure.value for name, figure in FIGURES.items()}


def student(figures: Figures, interval: int = 1, apis: int = 1, bits: int = 16) -> Rates:
    """Qwen3-8B on one GPU, keys and values of so many bits."""
    return Rates(
        fixed=figures["student.fixed"],
        weights=figures["student.weights"],
        token=figures["student.token"],
        row=figures["student.row"],
        kv=figures["student.kv"] * bits / 16,
        cache=figures["student.cache"] * 16 / bits,
        request=figures["request"],
        prompt=figures["prompt"],
        text=figures["text"],
        event=figures["event"],
        stop=figures["stop"],
        interval=interval,
        apis=apis,
    )


def teacher(figures: Figures, gpus: int, interval: int = 1, apis: int = 1) -> Rates:
    """GPT-OSS-120B on 1, 2 or 4 GPUs: reading and computing are divided, what an iteration costs anyway is not."""
    return Rates(
        fixed=figures["teacher.fixed"],
        weights=figures["teacher.dense"] / gpus,
        experts=figures["teacher.experts"] / gpus,
        share=4 / 128,  # the config's experts for a token, of all
        token=figures["teacher.token"] / gpus,
        row=figures["teacher.row"],
        kv=figures["teacher.kv"] / gpus,
        cache=figures[f"teacher.cache{gpus}"],
        request=figures["request"],
        prompt=figures["prompt"],
        text=figures["text"],
        event=figures["event"],
        stop=figures["stop"],
        interval=interval,
        apis=apis,
    )


@dataclass(frozen=True)
class Split:
    """How a node's GPUs are divided: teachers of so many GPUs, students of one, and one for predictors or none."""

    teachers: int
    gpus: int
    students: int
    readers: int = 0
    """0: predictors compute on the students' GPUs."""
    bits: int = 16
    """Of the students' keys and values."""

    def __str__(self) -> str:
        """As the tables have it."""
        return (
            f"{self.teachers} × TP{self.gpus} + {self.students}"
            + (", FP8 cache" if self.bits == 8 else "")
            + (f" + {self.readers}" if self.readers else "")
        )


def nodes(
    figures: Figures,
    split: Split,
    *,
    count: int = 1,
    processes: float = 2,
    predictors: int = 2,
    interval: int = 1,
    apis: int = 1,
) -> Setup:
    """So many nodes, driven together. `processes`, `predictors`: orchestrators and pairs of predictors for a node."""
    costs = Costs(
        token=figures["process.event"] / interval,
        look=figures["process.look"],
        request=figures["process.request"],
        net=figures["net"],
        fixed=figures["predictor.fixed"],
        each=figures["predictor.each"],
        share=figures["predictor.share"],
    )
    return Setup(
        Pair(student(figures, interval, apis, split.bits), teacher(figures, split.gpus, interval, apis)),
        Pair(count * split.students, count * split.teachers),
        costs,
        processes=round(count * processes),
        predictors=count * predictors,
        cores="own" if split.readers else "predictor",
    )


CPU: Figures = {
    "fixed": 1.29e-2,
    "token": 7.0e-4,
    "row": 3.74e-3,
    "kv": 0.0,
    "request": 1.7e-3,
    "prompt": 2.5e-7,
    "text": 1.7e-6,
    "event": 2e-4,
    "stop": 2e-4,
    "net": 3e-4,
    "process.token": 3.4e-5,
    "process.look": 1.5e-4,
    "process.request": 3e-4,
    "predictor.fixed": 6e-3,
    "predictor.each": 4e-3,
}
"""SmolLM2-135M on one core, sampled: fitted to issue 8's facts, to be replaced by what `calibrate` measures."""


def cpu(figures: Figures, *, block: int = 32, cores: str = "each", same: bool = False) -> Setup:
    """The servers of `alternation`: not chunked, an engine that hears of a close before its next iteration."""
    rates = Rates(
        fixed=figures["fixed"],
        token=figures["token"],
        row=figures["row"],
        kv=figures["kv"],
        request=figures["request"],
        prompt=figures["prompt"],
        text=figures["text"],
        event=figures["event"],
        stop=figures["stop"],
        block=block,
        cache=2 * 2**30 / 23_040,  # VLLM_CPU_KVCACHE_SPACE=2; 30 layers · 2 · 3 heads · 64 · 2 bytes
        seqs=256,
        budget=4096,
        chunked=False,
        lag=0,
    )
    costs = Costs(
        token=figures["process.token"],
        look=figures["process.look"],
        request=figures["process.request"],
        net=figures["net"],
        fixed=figures["predictor.fixed"],
        each=figures["predictor.each"],
    )
    return Setup(Pair(rates, rates), Pair(1, 1), costs, cores=cores, same=same)
