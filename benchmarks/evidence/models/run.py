"""Reinforcement learning of tiny transformers on three tasks, arm against arm, over seeds.

    python benchmarks/evidence/models/run.py --quick

Two processes of one thread each. Every run is a file, written when it is finished: the same command goes on where an
interrupted one stopped. `--tune` runs GRPO with several step sizes on seeds of their own, from which `settings.py` has
its sizes; `--report` only reads what is there.
"""

import argparse
import importlib.util
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed, and by its path

if importlib.util.find_spec("torch") is None:
    raise SystemExit("These runs need torch: pip install 'rl2ml[training]'")

from benchmarks.evidence.models.report import summarize, tables  # noqa: E402
from benchmarks.evidence.models.runs import read_run, run_files  # noqa: E402
from benchmarks.evidence.models.settings import FULL, QUICK, TUNING, VERSION, Block, Plan  # noqa: E402


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Tells how many runs there are: a bar on a terminal, else a line for every twentieth of them."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task("runs", total=total)
            yield lambda done: bars.update(task, completed=done)
        return

    began, said = time.perf_counter(), -1

    def line(done: int) -> None:
        nonlocal said
        if done * 20 // total > said:
            said = done * 20 // total
            print(f"{done} of {total} runs, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    yield line


def count_finished(folder: Path, blocks: list[Block]) -> int:
    return sum(
        read_run(path, block, run) is not None for block in blocks for run, path in run_files(folder, block).items()
    )


def work(folder: Path, block: Block) -> None:
    from benchmarks.evidence.models.training import run_block  # torch, where it is needed

    run_block(folder, block)


def train(plan: Plan, folder: Path, processes: int) -> None:
    """Train what is missing."""
    blocks = list(plan.blocks())
    total = sum(1 + len(block.runs) for block in blocks)
    missing = [block for block in blocks if count_finished(folder, [block]) <= len(block.runs)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Forked processes would inherit torch's threads; interrupts are the parent's to handle.
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(min(processes, len(missing)), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool,
        progress_bar(total) as show,
    ):
        finished = pool.imap_unordered(partial(work, folder), missing)
        while True:
            show(count_finished(folder, blocks))
            try:
                finished.next(timeout=2)
            except multiprocessing.TimeoutError:
                continue
            except StopIteration:
                break


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plans = parser.add_mutually_exclusive_group()
    plans.add_argument("--quick", action="store_true", help="a few steps of everything: a check that it runs")
    plans.add_argument("--tune", action="store_true", help="GRPO with several step sizes")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "evidence" / "models", help="%(default)s")
    parser.add_argument("--processes", type=int, default=2, help="%(default)s")
    args = parser.parse_args(argv)
    if args.processes < 1:
        parser.error("--processes must be 1 or more")

    plan = QUICK if args.quick else TUNING if args.tune else FULL
    folder = args.output / f"{plan.name}-{VERSION}"
    try:
        if not args.report:
            train(plan, folder, args.processes)
    except KeyboardInterrupt:
        print("Interrupted: finished runs are kept, and the same command goes on.", file=sys.stderr)
        raise SystemExit(130) from None  # as shells count it
    summary = summarize(plan, folder)
    if not summary["settings"]:
        raise SystemExit(f"No block of runs is finished in {folder}.")
    print(tables(summary))
    (folder / "results.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if plan is QUICK:
        print("\nA quick run: a check that it runs, and no evidence.")
    print(f"Wrote {folder / 'results.json'}.")


if __name__ == "__main__":
    main()
