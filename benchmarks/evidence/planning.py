"""Does a plan of the budget hold up in training? `python -m benchmarks.evidence.planning` (`--quick`: a smoke test).

Every environment and difficulty of `settings.py` is trained with 128 rollouts per step split as N = 2, 4, 8, 16 and 32
rollouts per prompt, each N with every γ of the grid (Bayes baseline), by steps of one length and by Adam. What a choice
loses is the share of the gain that the best (N, γ) has, chosen on half of the seeds and scored on the other half. Plans
are made for each seed from its pilot of 64 prompts × 8 rollouts. "own best γ" is hindsight: the γ that is best for that
N on the choosing half.

Shapes: S seeds, A arms (every N with every γ).
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import rl2ml_core as rl2ml
from benchmarks.evidence.arms import ARMS, GAMMAS
from benchmarks.evidence.difficulties import draw_pilot, draw_rates, why_absent
from benchmarks.evidence.environments import ENVIRONMENTS, Geometry, World, geometry
from benchmarks.evidence.regret import Half, halves, is_clear, summarize
from benchmarks.evidence.run import OUTPUT, WORKERS, run_setting
from benchmarks.evidence.settings import DIFFICULTIES, FULL, QUICK, Design, Setting
from benchmarks.evidence.simulate import METRICS
from rl2ml_core.checks import Array
from rl2ml_core.objective.population import LEAST_KAPPA
from rl2ml_core.selection.problem import Problem, solve

BUDGET = 128
NUM_ROLLOUTS = (2, 4, 8, 16, 32)
STEPS = ("normalized", "adam")
QUICK_PAIRS = (("linear_weak", "hard"), ("noise_100", "bimodal"))

_HABIT = 8
_ARMS = [arm for arm in ARMS if arm.baseline == "bayes"]
_GAMMAS = np.array(GAMMAS)
#: Where gains are read: at the last two checkpoints.
_HORIZONS = slice(-2, None)

PLANNED = "planned N and γ"
WITH_RUN = "planned N, γ by `recommend` for it"
MEASURED = "planned N and γ, κ and ρ measured"
HABIT = "N = 8, γ by `recommend` for it"
OWN = "planned N, its own best γ"
CONSTANT = "N = {}, its own best γ"
ROWS = (PLANNED, WITH_RUN, MEASURED, HABIT, OWN, *(CONSTANT.format(n) for n in NUM_ROLLOUTS))


@dataclass(frozen=True)
class Lost:
    """What each choice loses in one case, and which N was best and planned."""

    cluster: tuple[str, str]
    judged: str  # "trained" or "held out"
    metric: str
    lost: dict[str, float]
    best: int
    planned: tuple[int, ...]


def plans(pair: tuple[str, str], design: Design, scores: Geometry) -> dict[str, Array]:
    """N and γ of every metric and seed by each way to choose, [metrics, S, 2]."""
    _, difficulty = pair
    prompts, rollouts = design.pilot
    kappa = rl2ml.ScoreModel(max(scores.kappa, LEAST_KAPPA), 0.0)
    found: dict[str, list[list[tuple[int, float]]]] = {name: [] for name in (PLANNED, WITH_RUN, MEASURED, HABIT)}
    for metric in METRICS:
        rows: dict[str, list[tuple[int, float]]] = {name: [] for name in found}
        for seed in range(design.seeds):
            pilot = draw_pilot(difficulty, seed, draw_rates(difficulty, seed, prompts), rollouts)
            asked = {"choices": NUM_ROLLOUTS, "num_prompts": design.num_train, "bootstrap": 0}
            plan = rl2ml.plan_budget(pilot, metric, BUDGET, **asked)
            known = rl2ml.plan_budget(pilot, metric, BUDGET, score_model=kappa, cosine=max(scores.cosine, 0.0), **asked)
            rows[PLANNED].append(_pair(plan))
            rows[MEASURED].append(_pair(known))
            n = rows[PLANNED][-1][0]
            rows[HABIT].append((_HABIT, _of_run(pilot, metric, _HABIT)))
            rows[WITH_RUN].append(rows[HABIT][-1] if n == _HABIT else (n, _of_run(pilot, metric, n)))
        for name, chosen in rows.items():
            found[name].append(chosen)
    return {name: np.array(chosen) for name, chosen in found.items()}


def _of_run(pilot: rl2ml.PilotHistogram, metric: str, n: int) -> float:
    """γ as `recommend` chooses it, without its checks; 1 where a pilot tells nothing."""
    problem = Problem.of(
        pilot, metric, n, 0.0, 2.0, "lookahead", None, "empirical_bayes", None, "bayes", None, filter_groups=False
    )
    return solve(problem, {}).gamma if problem.why_uninformative() is None else 1.0


def _pair(plan: rl2ml.BudgetPlan) -> tuple[int, float]:
    """What is planned; the habit of N = 8 and γ = 1 where a pilot tells nothing."""
    return (_HABIT, 1.0) if plan.best is None else (plan.best.num_rollouts, plan.best.gamma)


def run_pair(pair: tuple[str, str], design: Design) -> list[Lost]:
    """All cases of an environment and a difficulty."""
    world = World.draw(*pair, range(design.seeds), design.num_train, design.num_held_out)
    chosen = plans(pair, design, geometry(world))
    found = []
    for step in STEPS:
        runs = [
            run_setting(Setting(*pair, n, step), replace(design, batch=BUDGET // n), arms=_ARMS) for n in NUM_ROLLOUTS
        ]
        reached = np.concatenate([run["reached"][0] for run in runs])  # [A, S, checkpoints, 2, metrics]
        gains = (reached - runs[0]["start"][None, :, None])[:, :, _HORIZONS]
        for at, (i, judged), (j, metric) in product(
            range(gains.shape[2]), enumerate(("trained", "held out")), enumerate(METRICS)
        ):
            of_case = gains[:, :, at, i, j]
            split = list(halves(of_case[None])) if np.isfinite(of_case).all() else []
            if split and is_clear(split):
                of_plan = {name: pairs[j] for name, pairs in chosen.items()}
                found.append(_case(pair, judged, metric, split, of_plan))
    return found


def _case(pair: tuple[str, str], judged: str, metric: str, split: Sequence[Half], chosen: dict[str, Array]) -> Lost:
    places = [slice(i * _GAMMAS.size, (i + 1) * _GAMMAS.size) for i in range(len(NUM_ROLLOUTS))]
    best = [float(half.scoring[half.choosing.argmax()]) for half in split]

    def own(i: int) -> float:
        """What an N with the best of its own γ loses."""
        gains = [half.scoring[places[i]][half.choosing[places[i]].argmax()] for half in split]
        return float(np.mean([1 - gain / most for gain, most in zip(gains, best, strict=True)]))

    owns = [own(i) for i in range(len(NUM_ROLLOUTS))]
    lost = {CONSTANT.format(n): owns[i] for i, n in enumerate(NUM_ROLLOUTS)}
    for name, pairs in chosen.items():
        lost[name] = float(
            np.mean(
                [
                    1 - np.interp(gamma, _GAMMAS, half.scoring[places[NUM_ROLLOUTS.index(int(n))]]) / most
                    for half, most in zip(split, best, strict=True)
                    for n, gamma in pairs
                ]
            )
        )
    planned = tuple(int(n) for n in chosen[PLANNED][:, 0])
    lost[OWN] = float(np.mean([owns[NUM_ROLLOUTS.index(n)] for n in planned]))
    return Lost(pair, judged, metric, lost, NUM_ROLLOUTS[int(np.argmin(owns))], planned)


def table(cases: Sequence[Lost]) -> str:
    """The table of docs/planning.md."""
    judged = ("trained", "held out")
    lines = [
        "| choice | "
        + " | ".join(f"prompts {where}: mean [90 % interval] | 90th percentile" for where in judged)
        + " |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in ROWS:
        cells = []
        for where in judged:
            of = [case for case in cases if case.judged == where]
            clusters = np.array(["/".join(case.cluster) for case in of])
            found = summarize(np.array([case.lost[row] for case in of]), clusters)
            if found is None:
                cells += ["–", "–"]
            else:
                cells += [f"{found.mean:.3f} [{found.lower:.3f}, {found.upper:.3f}]", f"{found.p90:.3f}"]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_environment(cases: Sequence[Lost]) -> str:
    """Which N was best and which was planned, and what plans and constants lose, by environment (trained prompts)."""
    rows = (PLANNED, MEASURED, *(CONSTANT.format(n) for n in NUM_ROLLOUTS))
    lines = [
        "| environment | best N (median) | planned N (median) | " + " | ".join(rows) + " |",
        "| --- |" + " ---: |" * (len(rows) + 2),
    ]
    for environment in ENVIRONMENTS:
        of = [case for case in cases if case.cluster[0] == environment and case.judged == "trained"]
        if of:
            best, planned = np.median([case.best for case in of]), np.median([n for case in of for n in case.planned])
            means = " | ".join(f"{np.mean([case.lost[row] for case in of]):.3f}" for row in rows)
            lines.append(f"| {environment} | {best:g} | {planned:g} | {means} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the results")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes")
    given = parser.parse_args()
    design = QUICK if given.quick else FULL
    pairs = QUICK_PAIRS if given.quick else tuple(product(ENVIRONMENTS, DIFFICULTIES))
    for difficulty in dict.fromkeys(difficulty for _, difficulty in pairs):
        if reason := why_absent(difficulty):
            print(f"{difficulty} is left out: {reason}")
            pairs = tuple(pair for pair in pairs if pair[1] != difficulty)
    began = time.monotonic()
    if given.workers == 1:
        cases = [case for pair in pairs for case in run_pair(pair, design)]
    else:
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            cases = [case for found in pool.map(run_pair, pairs, [design] * len(pairs)) for case in found]
    given.output.mkdir(parents=True, exist_ok=True)
    saved = [{**vars(case), "cluster": list(case.cluster)} for case in cases]
    (given.output / f"planning-{design.name}.json").write_text(json.dumps(saved, ensure_ascii=False) + "\n")
    print(f"{BUDGET} rollouts per step; share of the best (N, γ)'s gain that is lost; {len(cases)} cases\n")
    print(table(cases) + "\n\n" + by_environment(cases))
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
