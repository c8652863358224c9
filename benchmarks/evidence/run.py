"""Run the settings and report: `python -m benchmarks.evidence.run --full` (or `--quick`, a smoke test).

Every finished part is saved at once under the output folder, and a second run takes up where the first one stopped. One
process per core; `--list` says what would be run.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.evidence.arms import ARMS, Arm, advantage_tables
from benchmarks.evidence.difficulties import draw_pilot, draw_rates, why_absent
from benchmarks.evidence.environments import World, geometry
from benchmarks.evidence.onestep import predicted_gains, realized_gains
from benchmarks.evidence.report import printed, report
from benchmarks.evidence.rules import RULES, choose
from benchmarks.evidence.rules import VERSION as RULES_VERSION
from benchmarks.evidence.settings import (
    FULL,
    QUICK,
    QUICK_SETTINGS,
    SETTINGS,
    Design,
    Question,
    Setting,
    fingerprint,
    questions,
)
from benchmarks.evidence.simulate import Randomness, evaluate, train
from benchmarks.evidence.steps import SGD_RATES
from rl2ml_core.checks import Array
from rl2ml_core.objective.population import Population

OUTPUT = Path(__file__).resolve().parents[2] / "build" / "evidence"
WORKERS = 2


def run_setting(
    setting: Setting, design: Design, size: float | None = None, arms: Sequence[Arm] = ARMS
) -> dict[str, Array]:
    """Metrics before training, "start" [S, 2, metrics], and "reached" [rates, A, S, checkpoints, 2, metrics]."""
    world, pilots = _drawn(setting, design)
    randomness = _randomness(world, setting, design, max(design.checkpoints))
    size = setting.size if size is None else size
    reached = [
        train(world, arms, pilots, randomness, setting.step, size * rate, design.checkpoints)
        for rate in (SGD_RATES if setting.step == "sgd" else (1.0,))
    ]
    return {"start": evaluate(world, world.start(1))[..., 0], "reached": np.array(reached, dtype=np.float32)}


def run_question(question: Question, design: Design) -> dict[str, Array]:
    """Score geometry, every rule's γ [rules, baselines, metrics, S], and one-step gains [metrics, A]."""
    world, pilots = _drawn(question, design)
    scores = geometry(world)
    tables = advantage_tables(ARMS, question.num_rollouts, pilots)
    realized, error = realized_gains(world, tables, _randomness(world, question, design, design.one_step_draws))
    return {
        "kappa": np.array(scores.kappa),
        "cosine": np.array(scores.cosine),
        "energy": np.array(scores.energy.mean()),
        "pass_rates": scores.pass_rates,
        "chosen": choose(question, design, scores.kappa),
        "predicted": predicted_gains(scores, tables, design.batch),
        "predicted_measured": predicted_gains(scores, tables, design.batch, measured=True),
        "realized": realized,
        "realized_error": error,
    }


def _drawn(question: Question, design: Design) -> tuple[World, list[Population]]:
    """The worlds of all seeds, and their pilots as the baselines know them."""
    seeds, (prompts, rollouts) = range(design.seeds), design.pilot
    world = World.draw(question.environment, question.difficulty, seeds, design.num_train, design.num_held_out)
    rates = [draw_rates(question.difficulty, seed, prompts) for seed in seeds]
    pilots = [draw_pilot(question.difficulty, seed, rates[seed], rollouts) for seed in seeds]
    return world, [pilot.population() for pilot in pilots]


def _randomness(world: World, question: Question, design: Design, steps: int) -> Randomness:
    return Randomness.draw(world, range(design.seeds), steps, design.batch, question.num_rollouts)


def path_of(question: Question, design: Design, folder: Path) -> Path:
    """Where a result lies; another design, list of rules or version is another file."""
    of_rules = "" if isinstance(question, Setting) else f"-rules{RULES_VERSION}.{len(RULES)}"
    return folder / f"{question.name}-{fingerprint(question, design)}{of_rules}.npz"


def finish(question: Question, design: Design, folder: Path) -> None:
    """Run a part and save it under its final name only when all of it is there."""
    run = run_setting if isinstance(question, Setting) else run_question
    path = path_of(question, design, folder)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **run(question, design))
    part.replace(path)


def run_all(parts: Sequence[Question], design: Design, folder: Path, workers: int = WORKERS) -> None:
    """Finish all parts that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [part for part in parts if not path_of(part, design, folder).is_file()]
    done, began = len(parts) - len(missing), time.monotonic()
    print(f"{len(parts)} parts, {done} there already", flush=True)
    if workers == 1:
        for i, part in enumerate(missing):
            finish(part, design, folder)
            _show(done + i + 1, len(parts), i + 1, began)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(finish, part, design, folder) for part in missing]
        for i, future in enumerate(as_completed(running)):
            future.result()
            _show(done + i + 1, len(parts), i + 1, began)


def _show(done: int, total: int, fresh: int, began: float) -> None:
    """A bar on a terminal; elsewhere a line for every tenth."""
    spent = time.monotonic() - began
    left = spent / fresh * (total - done)
    text = f"{done}/{total}, {spent / 60:.1f} min, {left / 60:.1f} min left"
    if sys.stdout.isatty():
        filled = 40 * done // total
        print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {text}   ", end="\n" if done == total else "", flush=True)
    elif 10 * done // total > 10 * (done - 1) // total:
        print(text, flush=True)


def load(parts: Iterable[Question], design: Design, folder: Path) -> dict[Question, dict[str, Array]]:
    """Saved results of the parts that are there."""
    found = {}
    for part in parts:
        path = path_of(part, design, folder)
        if path.is_file():
            with np.load(path) as file:
                found[part] = dict(file)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quick", action="store_true", help="a smoke test")
    what.add_argument("--full", action="store_true", help="everything, resumable")
    what.add_argument("--list", action="store_true", help="the settings, and which are held out")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the results")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes")
    given = parser.parse_args()
    if given.list:
        for setting in SETTINGS:
            print(f"{setting.name:<44}{'held out' if setting.held_out else ''}")
        return 0
    design, settings = (QUICK, QUICK_SETTINGS) if given.quick else (FULL, SETTINGS)
    for difficulty in dict.fromkeys(setting.difficulty for setting in settings):
        if reason := why_absent(difficulty):
            print(f"{difficulty} is left out: {reason}")
            settings = tuple(setting for setting in settings if setting.difficulty != difficulty)
    asked = questions(settings)
    began = time.monotonic()
    # The slowest first, so that no worker is left alone with one at the end.
    slow_first = sorted(settings, key=lambda setting: setting.step != "sgd")
    run_all([*slow_first, *asked], design, given.output, given.workers)
    found = report(load(settings, design, given.output), load(asked, design, given.output), design)
    (given.output / f"report-{design.name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = printed(found)
    (given.output / f"report-{design.name}.txt").write_text(text + "\n")
    print(text)
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
