"""What sketches of scores cost next to gradients of single rollouts, and κ of the example's policy over its training.

`python benchmarks/geometry.py` prints times and memory as ratios; `--train` prints κ over training and the error by the
size of the measurement instead; `--quick` is a smoke test of either. Each takes about 80 seconds of an idle core. It
needs torch (pip install 'rl2ml[training,plot]': the example's policy comes with its script).

- One thread. Calls of two functions alternate, and the median of the ratios within pairs is reported with quartiles.
- Peak memory: resident pages beyond those before the call, in a process of its own that returns all it frees.
- All ways give the same sketches, which is asserted before anything is timed.
"""

import argparse
import contextlib
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
# Runs from a checkout that is not installed; this directory's http.py must not hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "tiny_lm"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from tiny_transformer import TinyTransformer, response_log_probs, response_mask, sample
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import rl2ml_core as rl2ml
from benchmarks.measure import Ratio, compare, fix_malloc, peak_memory
from rl2ml_core.training import MeasuredGeometry, ScoreSketches, measure_geometry

WIDTHS = {"102,000 parameters": (64, 2), "804,000 parameters": (128, 4)}  # width and layers of the two models
ROWS, LENGTH, VOCABULARY, DIM = 64, 48, 32, 256

# ---- time and memory ----


class Batch:
    """A transformer and ROWS responses of LENGTH − 1 tokens, and four ways to their gradients."""

    def __init__(self, size: str, dim: int) -> None:
        torch.manual_seed(0)
        width, layers = WIDTHS[size]
        self.model = TinyTransformer(VOCABULARY, LENGTH, width, layers)
        self.tokens = torch.randint(VOCABULARY, (ROWS, LENGTH))
        self.collector = ScoreSketches(self.model, dim, check=False)
        self.small = ScoreSketches(self.model, dim // 4, check=False)
        self.parameters = dict(self.model.named_parameters())

    def log_probs(self, tokens: Tensor) -> Tensor:
        found, _ = self.model(tokens[:, :-1])
        return found.gather(-1, tokens[:, 1:, None]).sum((1, 2))

    def plain(self) -> None:
        """One ordinary backward pass: what a training step costs."""
        torch.autograd.grad(self.log_probs(self.tokens).sum(), list(self.parameters.values()))

    def ours(self) -> Tensor:
        with self.collector:
            log_probs = self.log_probs(self.tokens)
        return self.collector.sketches(log_probs)

    def fewer(self) -> None:
        """Ours with a quarter of the coordinates."""
        with self.small:
            log_probs = self.log_probs(self.tokens)
        self.small.sketches(log_probs)

    def loop(self) -> Tensor:
        """A forward and a backward pass for every rollout, and the same projection."""
        rows = []
        for row in self.tokens.split(1):
            found = torch.autograd.grad(self.log_probs(row).sum(), list(self.parameters.values()))
            rows.append(self.collector.project(dict(zip(self.parameters, found, strict=True))))
        return torch.stack(rows)

    def func(self) -> Tensor:
        """Gradients of all rollouts at once by torch.func, and the same projection."""

        def log_prob(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
            found, _ = torch.func.functional_call(self.model, parameters, (row[None, :-1],))
            return found[0].gather(-1, row[1:, None]).sum()

        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        with sdpa_kernel(SDPBackend.MATH):  # the one that vmap has a rule for; the others would loop over rows
            found = torch.func.vmap(torch.func.grad(log_prob), in_dims=(None, 0))(values, self.tokens)
        return torch.stack([self.collector.project({name: g[i] for name, g in found.items()}) for i in range(ROWS)])


WAYS = {
    "ours, a quarter of coordinates": "fewer",
    "forward and ordinary backward": "plain",
    "a backward pass per rollout": "loop",
    "torch.func gradients": "func",
}


def memory_of(size: str, way: str) -> int:
    """Peak kB of one call beyond what was there before, measured in another process."""
    command = [sys.executable, __file__, "--memory", size, way]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_memory(size: str, way: str) -> None:
    fix_malloc(1 << 16, 1 << 16)
    run = getattr(Batch(size, DIM), way)
    for _ in range(2):
        run()
    print(peak_memory(run))


def in_words(ratio: Ratio) -> str:
    low, high = ratio.quartiles
    return f"{ratio.median:7.2f} × time  [{low:.2f}, {high:.2f}]"


def print_costs(quick: bool) -> None:
    print(f"sketches of {ROWS} rollouts of {LENGTH - 1} tokens in {DIM} coordinates: others/ours, time and peak memory")
    for size in list(WIDTHS)[: 1 if quick else None]:
        batch = Batch(size, DIM)
        expected = batch.loop()
        for found in (batch.ours(), batch.func()):
            assert (found - expected).norm() < 1e-4 * expected.norm()
        again = compare(batch.ours, batch.ours, 3 if quick else 8)
        print(f"\n{size} ({sum(p.numel() for p in batch.parameters.values()):,})")
        print(f"  {'A/A: ours':<30}{in_words(again)}")
        own = memory_of(size, "ours")
        for name, way in WAYS.items():
            ratio = compare(batch.ours, getattr(batch, way), 2 if quick else 8)
            memory = memory_of(size, way) / own
            print(f"  {name:<30}{in_words(ratio)} {memory:7.2f} × memory")


# ---- κ over training ----

PARTS = {
    "embeddings": ("characters", "positions"),
    "attention": ("qkv", "out"),
    "perceptrons": ("up", "down"),
    "norms": ("norm", "norm_1", "norm_2"),
    "head": ("head",),
}


def sketches_of_parts(
    model: TinyTransformer, prompts: list[str], rollouts: int, noise: torch.Generator, dim: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Sketches [P, N, D] of each part's scores, one forward pass for sixteen prompts, and rewards [P, N]."""
    from train import END, VOCABULARY, WIDTH, encode_prompts, rewards_of

    def collector(names: tuple[str, ...]) -> ScoreSketches:
        return ScoreSketches(model, dim, parameters=lambda name: name.split(".")[-2] in names)

    collectors = {part: collector(names) for part, names in PARTS.items()}
    assert sum(len(list(c)) for c in collectors.values()) == len(list(model.parameters()))
    found: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    rewards = []
    for start in range(0, len(prompts), 16):
        few = prompts[start : start + 16]
        read = encode_prompts(few)
        responses, _ = sample(model, read, rollouts, WIDTH, noise)
        rewards.append(rewards_of(few, responses))
        mask = response_mask(responses, VOCABULARY.index(END))
        with contextlib.ExitStack() as stack:
            for each in collectors.values():
                stack.enter_context(each)
            log_probs = (response_log_probs(model, read, responses) * mask).sum(-1)
        for part, each in collectors.items():
            sketches = each.sketches(log_probs, retain_graph=True)
            found[part].append(sketches.view(len(few), rollouts, dim))
    return {part: torch.cat(values) for part, values in found.items()}, torch.cat(rewards)


def print_training(quick: bool, seed: int) -> None:
    from sorting import number, stream
    from train import QUICK, Settings, draw_prompts, reinforce, supervised_start

    settings = QUICK if quick else Settings()
    stages = [0, 2] if quick else [0, 25, 50, 100, 200]
    count, rollouts, dim = (48, 8, 32) if quick else (192, 16, 256)
    rng = np.random.default_rng(stream(seed, "held_out"))
    prompts = draw_prompts(count, settings.most_digits, rng)
    without = frozenset(prompts)
    model = supervised_start(settings, seed, without, lambda: None)
    objective = rl2ml.Objective(0.5, "leave_one_out")
    print(
        f"κ over reinforcement learning (γ = 0.5, leave-one-out), seed {seed}: {count} prompts × {rollouts} rollouts, "
        f"{dim} coordinates"
    )
    heads = ["pass rate", "prompts", "κ", *PARTS, "energy", "energy ratio", "mean score"]
    print(f"{'step':>4}" + "".join(f"{head:>19}" for head in heads))
    step, last = 0, None
    for stage in stages:
        if stage > step:
            # Another seed for each stretch: otherwise it would meet the first one's prompts again.
            model, _ = reinforce(
                model, objective, replace(settings, steps=stage - step), seed + stage, without, lambda: None
            )
            step = stage
        noise = torch.Generator().manual_seed(number(seed, "evaluation", stage))
        parts, rewards = sketches_of_parts(model, prompts, rollouts, noise, dim)
        whole = torch.stack(list(parts.values())).sum(0)
        geometry = measure_geometry(whole, rewards)
        cells = [f"{rewards.mean():.3f}", str(geometry.contributing), str(geometry.kappa)]
        cells += [str(measure_geometry(part, rewards).kappa) for part in parts.values()]
        cells += [str(geometry.energy), str(geometry.energy_ratio), str(geometry.mean_score)]
        print(f"{stage:>4}" + "".join(f"{cell:>19}" for cell in cells), flush=True)
        last = last or (stage, geometry, whole, rewards)
    assert last is not None
    stage, geometry, whole, rewards = last
    print(f"\nat step {stage}\n{geometry.summary()}")
    pilot = rl2ml.PilotHistogram.from_counts(geometry.num_successes, geometry.num_rollouts)
    for metric in ("pass@1", "pass@8"):
        models = {"κ = 0.1": rl2ml.ScoreModel(0.1, 0.0), "default": None, "measured": geometry.score_model()}
        found = {name: rl2ml.recommend(pilot, metric, 8, score_model=model) for name, model in models.items()}
        gammas = [
            f"{name} {answer.gamma:.2f} [{answer.interval.lower:.2f}, {answer.interval.upper:.2f}]"
            for name, answer in found.items()
        ]
        print(f"γ for {metric}, N = 8: {', '.join(gammas)}")
    print_sizes(whole.numpy(), rewards.numpy(), geometry)


def print_sizes(sketches: np.ndarray, rewards: np.ndarray, whole: MeasuredGeometry) -> None:
    """The error by the size of the measurement: as reported, and the spread of disjoint subsets of prompts."""
    total, rollouts, dim = sketches.shape
    print(f"\nerror of κ by size, relative to κ = {whole.kappa.value:.3g}: reported (root mean square), and spread")
    print(f"{'prompts':>8}{'rollouts':>9}{'coordinates':>12}{'reported':>10}{'spread of disjoint subsets':>28}")
    for prompts in (total // 8, total // 4, total // 2, total):
        for few in (rollouts // 2, rollouts):
            for coordinates in (dim // 4, dim):
                # Coordinates are independent: some of them, scaled, are a smaller sketch. Different ones per subset.
                found = []
                for i in range(total // prompts):
                    start = (i * coordinates) % dim
                    part = sketches[i * prompts : (i + 1) * prompts, :few, start : start + coordinates]
                    with contextlib.suppress(rl2ml.InvalidInput):  # no prompt with two of both
                        found.append(
                            measure_geometry(
                                part * math.sqrt(dim / coordinates), rewards[i * prompts : (i + 1) * prompts, :few]
                            ).kappa
                        )
                errors = np.array([e.error for e in found]) / whole.kappa.value
                spread = np.std([e.value for e in found], ddof=1) / whole.kappa.value if len(found) > 2 else math.nan
                reported = math.sqrt(np.mean(errors**2)) if len(found) else math.nan
                print(f"{prompts:>8}{few:>9}{coordinates:>12}{reported:>10.2f}{spread:>28.2f}")


def print_small_kappa(quick: bool) -> None:
    """The same where nearly all of a score is noise, by simulation of the κ-model."""
    kappa, size = 0.02, 512
    rng = np.random.default_rng(0)
    print(
        f"\nthe same for κ = {kappa}, simulated: pass rates from Beta(.5, 1.5), noise in {size} directions; as reported"
    )
    print(f"{'prompts':>8}{'rollouts':>9}{'D = 64':>10}{'D = 256':>10}{'D = 1024':>10}{'exact':>10}")
    for prompts, rollouts in ((64, 8),) if quick else ((128, 8), (128, 16), (512, 8), (512, 16)):
        errors: dict[int, list[float]] = {64: [], 256: [], 1024: [], 0: []}
        for _ in range(2 if quick else 8):  # an error's own error is small
            p = rng.beta(0.5, 1.5, (prompts, 1))
            rewards = (rng.random((prompts, rollouts)) < p).astype(float)
            unit = rng.normal(size=(prompts, 1, size))
            unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
            along = math.sqrt(kappa) * np.where(rewards > 0, 1 - p, -p)
            scores = along[..., None] * unit + rng.normal(size=(prompts, rollouts, size)) / math.sqrt(size)
            for dim, found in errors.items():
                sketches = scores @ rng.choice([-1.0, 1.0], (size, dim)) / math.sqrt(dim) if dim else scores
                found.append(measure_geometry(sketches, rewards, exact=not dim).kappa.error)
        cells = "".join(f"{math.sqrt(np.mean(np.square(found))) / kappa:>10.2f}" for found in errors.values())
        print(f"{prompts:>8}{rollouts:>9}{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="κ over training, and its error by size")
    parser.add_argument("--seed", type=int, default=0, help="of --train (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--memory", nargs=2, metavar=("SIZE", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        print_memory(*arguments.memory)
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, "
        f"torch {torch.__version__}, rl2ml {rl2ml.__version__}"
    )
    start = time.perf_counter()
    if arguments.train:
        print_training(arguments.quick, arguments.seed)
        print_small_kappa(arguments.quick)
    else:
        print_costs(arguments.quick)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
