"""Drafts per second of a boundary predictor, with and without reuse of the context that consecutive drafts share,
by torch and by ONNX Runtime.

Without reuse a classifier reads its window anew for each draft. With reuse, as in tessy's process, keys and values
of each trajectory's window are kept and only what is new is computed; for that a window does not slide with every token
but begins at the same place for 66 tokens, so that it holds 135 to 200. First it is checked that the probabilities are
those of a fresh forward over the same window, and counted how many labels the shorter windows change against the last
200 tokens (of random weights that says nothing).

One thread; the figures are drafts per second of CPU time, medians of several runs, so that they mean something on a
busy machine too (where they are still somewhat too low: caches and memory are shared).

    python benchmarks/predictor_throughput.py [--batches 1 4 16 64 256] [--layers 6 --hidden 512] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, Qwen3Config, Qwen3ForTokenClassification
from transformers.utils.logging import disable_progress_bar

from tessy import embedded
from tessy.adapters.memory import Memory
from tessy.adapters.memory.compiled import Compiled
from tessy.adapters.predictors.published import WINDOW, load_tokenizer
from tessy.adapters.predictors.rereading import Remembering, anew
from tessy.embedded import world
from tessy.embedded.voices import Voice, respond

STEP = WINDOW // 3
"""Tokens by which the beginning of a window moves on."""
FORWARD_TOKENS = 8192
"""Of one forward, padding included: what the classifier in tessy's process allows itself."""
CHECKED = 40
"""Drafts of each of four trajectories, for the check."""
CLOSE = 1e-4
"""Two ways to the same probability in float32 differ by rounding; no threshold is that fine."""


# --- trajectories -----------------------------------------------------------------------------------------------


@dataclass
class Trajectory:
    """Tokens of a thinking that grows by what is kept of each draft."""

    text: Iterator[int]
    """What will be kept, without end."""
    rng: random.Random
    draft: int
    """Tokens of a draft."""
    kept: list[int] = field(default_factory=list)

    def step(self) -> tuple[list[int], list[int]]:
        """The next draft, of which half to all is kept: the last 200 tokens up to its end, and tessy's window."""
        keep = self.rng.randint(self.draft // 2, self.draft)
        good = [next(self.text) for _ in range(keep)]
        dropped = [self.rng.choice(self.kept or good) for _ in range(self.draft - keep)]
        whole = self.kept + good + dropped
        skip = -(-max(0, len(whole) - WINDOW) // STEP) * STEP
        self.kept += good
        return whole[-WINDOW:], whole[skip:]


def trajectories(count: int, draft: int) -> list[Trajectory]:
    """Trajectories of the embedded pair's thinking, each at another place of its window."""
    tokenizer = load_tokenizer(str(embedded.path("student_predictor")))
    rng = random.Random(0)
    text = "\n".join(
        respond(problem, rng, tuple(Voice), tuple(Voice)).thinking
        for problem in world.problems(world.HARD, "test", 40, seed=1)
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    made = []
    for number in range(count):
        place = rng.randrange(len(ids))
        one = Trajectory(cycle(ids[place:] + ids[:place]), random.Random(number), draft)
        one.kept = [next(one.text) for _ in range(WINDOW + number * 37 % WINDOW)]
        made.append(one)
    return made


# --- figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """Drafts per CPU second at one batch."""

    model: str
    batch: int
    fresh: float
    reuse: float
    """With torch."""
    compiled: float
    """With reuse, too, by ONNX Runtime."""


def check(model: Any, memory: Remembering, style: int, draft: int) -> tuple[float, float]:
    """Read the same windows with a memory of the model and without one.

    Returns:
        The largest difference of a probability, and the share of the drafts' labels that differ from those of the
        last 200 tokens.

    Raises:
        SystemExit: the probabilities differ by more than rounding.
    """
    made = trajectories(4, draft)
    memory.clear()
    worst, changed = 0.0, 0
    for _ in range(CHECKED):
        last, windows = zip(*(one.step() for one in made), strict=True)
        fresh = partial(anew, model, style, max_tokens=FORWARD_TOKENS)
        for mine, alone, full in zip(memory(windows), fresh(windows), fresh(last), strict=True):
            worst = max(worst, *(abs(one - other) for one, other in zip(mine, alone, strict=True)))
            # The head at token j speaks of token j+1: these are the labels of the draft's tokens.
            labels = zip(mine[-draft - 1 : -1], full[-draft - 1 : -1], strict=True)
            changed += sum((one >= 0.5) != (other >= 0.5) for one, other in labels)
    if worst > CLOSE:
        raise SystemExit(f"with reuse, a probability is off by {worst:g}")
    return worst, changed / (CHECKED * len(made) * draft)


def measure(
    name: str,
    model: Any,
    memories: Sequence[Remembering],
    style: int,
    batch: int,
    arguments: argparse.Namespace,
) -> Figure:
    """Drafts per CPU second of a batch of trajectories that go on in step, without a memory and with each."""
    made = trajectories(batch, arguments.draft)

    def without() -> None:
        anew(model, style, [one.step()[0] for one in made], FORWARD_TOKENS)

    # Without reuse every round costs the same. With it, those in which a window begins again cost more: there are
    # enough of them in many rounds of one trajectory, or in a few of many that do so at different times.
    slow = [_rate(without, batch, max(1, 32 // batch)) for _ in range(arguments.runs)]
    quick = []
    for memory in memories:
        memory.clear()
        memory([one.step()[1] for one in made])
        with_reuse = partial(_read, memory, made)
        quick.append(median(_rate(with_reuse, batch, max(4, 80 // batch)) for _ in range(arguments.runs)))
    return Figure(name, batch, median(slow), *quick)


def _read(memory: Remembering, made: Sequence[Trajectory]) -> None:
    memory([one.step()[1] for one in made])


def remembering(model: Any, style: int, texts: int, compiled: bool) -> Remembering:
    """A memory of so many trajectories, of a model of its own with these weights, by torch or as one graph."""
    own = type(model)(model.config.__class__.from_dict(model.config.to_dict())).eval()
    own.load_state_dict(model.state_dict())
    memory = (Compiled if compiled else Memory)(own, 256 * texts)
    return Remembering(memory, style, window=WINDOW, max_tokens=FORWARD_TOKENS)


def _rate(work: Callable[[], None], batch: int, rounds: int) -> float:
    started = time.process_time()
    for _ in range(rounds):
        work()
    return batch * rounds / (time.process_time() - started)


def shipped() -> Any:
    """The embedded student's predictor."""
    folder = str(embedded.path("student_predictor"))
    return AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()


def random_weights(layers: int, hidden: int) -> Any:
    """A Qwen3 of a shape, in the proportions of Qwen3-0.6B with heads of 64."""
    torch.manual_seed(0)
    heads = max(2, hidden // 64)
    config = Qwen3Config(
        vocab_size=shipped().config.vocab_size,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=64,
        max_position_embeddings=4096,
        num_labels=2,
        pad_token_id=0,
    )
    return Qwen3ForTokenClassification(config).eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--draft", type=int, default=10, help="tokens of a draft; half to all of it is kept")
    parser.add_argument("--layers", type=int, default=6, help="of the predictor with random weights")
    parser.add_argument("--hidden", type=int, default=512, help="of the same; a multiple of 64")
    parser.add_argument("--runs", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--json", type=Path, help="where the figures go, besides the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    models = {"embedded": shipped()}
    models[f"{arguments.layers} x {arguments.hidden}"] = random_weights(arguments.layers, arguments.hidden)
    figures: list[Figure] = []
    with torch.inference_mode():
        for name, model in models.items():
            parameters = sum(weights.numel() for weights in model.parameters())
            # Once for all batches: a graph takes many seconds to make.
            most = max(4, *arguments.batches)
            memories = [remembering(model, 1, most, compiled) for compiled in (False, True)]
            (worst, changed), (graph, _) = (check(model, each, 1, arguments.draft) for each in memories)
            print(
                f"{name}: {parameters:,} parameters; with reuse, probabilities differ by at most {worst:.1e} and "
                f"{graph:.1e} (ONNX Runtime); {changed:.1%} of labels differ from those of a full window",
                flush=True,
            )
            print(f"{'batch':>12}{'drafts/s':>12}{'with reuse':>12}{'ONNX':>12}")
            for batch in arguments.batches:
                figure = measure(name, model, memories, 1, batch, arguments)
                rates = (figure.fresh, figure.reuse, figure.compiled)
                print(f"{batch:>12}" + "".join(f"{rate:>12.1f}" for rate in rates), flush=True)
                figures.append(figure)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
