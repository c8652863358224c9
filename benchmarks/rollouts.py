"""How fast rollouts are read and within what memory, next to Polars and Ray Data on the same files.

`python benchmarks/rollouts.py` generates 20 million rollouts of 3.7 million prompts as Parquet and 600 MB of verl's
jsonl under build/rollouts, once, and takes some two minutes; `--quick` is a smoke test; `--large` adds 200 million
rollouts within 2 GB. It needs `pip install 'rl2ml[cluster]' polars`.

- Every reading is a process of its own: seconds are those of the call, without imports; memory is the peak of the
  process, with everything (of Ray, of the process that merges).
- Polars is its streaming engine: a lazy group-by of the same file, to the cells of a histogram. All must agree.
- Ray listens beyond loopback: where `unshare --net` works it runs in a network of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Runs from a checkout that is not installed; this directory's http.py must not hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Cells = list[tuple[int, int, float]]
FOLDER = ROOT / "build" / "rollouts"
MILLION = 1_000_000
PER_PROMPT = 5.4  # rollouts
GOALS = {"parquet": "goal: 5 s, 1 GB", "jsonl": "goal: 150 MB/s", "large": "goal: 2 GB"}


# ---- data ----


def write_parquet(folder: Path, rollouts: int, files: int) -> None:
    """Prompts drawn at random, so that every file has rollouts of all of them; pass rates of Beta(.4, .9)."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True)
    rates = np.random.default_rng(0).beta(0.4, 0.9, int(rollouts / PER_PROMPT))
    for i in range(files):
        rng = np.random.default_rng(i + 1)
        with pyarrow.parquet.ParquetWriter(
            folder / f"{i}.parquet", pyarrow.schema([("prompt_id", pyarrow.int64()), ("reward", pyarrow.int8())])
        ) as writer:
            left = rollouts // files
            while left:
                size = min(left, 2 * MILLION)
                prompts = rng.integers(0, len(rates), size)
                rewards = (rng.random(size) < rates[prompts]).astype(np.int8)
                writer.write_table(pyarrow.table({"prompt_id": prompts, "reward": rewards}))
                left -= size


def write_jsonl(folder: Path, megabytes: int) -> None:
    """As verl dumps a validation: rows of 1 kB, 256 prompts × 8 a step."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    response = "Let us think step by step. " * 30
    step, written = 0, 0
    while written < megabytes * MILLION:
        rows = []
        for prompt in range(256):
            for _ in range(8):
                text = f"{response}{rng.integers(1 << 30)}"
                row = {"input": f"What is {prompt} + {step}? " * 5, "output": text, "gts": str(prompt + step)}
                rows.append(json.dumps(row | {"score": float(rng.random() < prompt / 256), "step": step}))
        content = "\n".join(rows) + "\n"
        (folder / f"{step}.jsonl").write_text(content)
        written += len(content)
        step += 1


# ---- readings, each in a process of its own ----


def read_here(folder: str, **options: object) -> Callable[[], Cells]:
    import rl2ml_core as rl2ml

    def run() -> Cells:
        return rl2ml.read_rollouts(folder, **options).pilot.cells()  # type: ignore[arg-type]

    return run


def read_ray(folder: str) -> Callable[[], Cells]:
    import ray

    # The cluster is there already, as in the jobs that it is for.
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", _node_ip_address="127.0.0.1")
    return read_here(folder, engine="ray")


def read_polars(folder: str) -> Callable[[], Cells]:
    import polars

    def run() -> Cells:
        if list(Path(folder).glob("*.parquet")):
            frame = polars.scan_parquet(f"{folder}/*.parquet")
            keys, success = ["prompt_id"], polars.col("reward") >= 1
        else:
            types = {"input": polars.String, "score": polars.Float64, "step": polars.Int64}
            frame = polars.scan_ndjson(f"{folder}/*.jsonl", schema=types)
            keys, success = ["step", "input"], polars.col("score") >= 1
        prompts = frame.group_by(keys).agg(polars.len().alias("n"), success.sum().alias("k"))
        cells = prompts.group_by("n", "k").len("prompts").sort("n", "k").collect(engine="streaming")
        return [(n, k, float(count)) for n, k, count in cells.iter_rows()]

    return run


READINGS = {"rl2ml": read_here, "ray": read_ray, "polars": read_polars}


def measure(name: str, folder: str, memory: str | None) -> None:
    """In the child: seconds, peak MB and cells, as a line of JSON."""
    run = read_here(folder, memory_limit=memory) if memory else READINGS[name](folder)
    start = time.perf_counter()
    cells = run()
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1e3
    print("MEASURED " + json.dumps({"seconds": seconds, "megabytes": peak, "cells": cells}), flush=True)


def reading(name: str, folder: Path, memory: str | None = None) -> tuple[float, float, Cells]:
    command = [sys.executable, __file__, "--measure", name, str(folder), memory or ""]
    if name == "ray" and subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0:
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if done.returncode or not lines:
        raise SystemExit(f"{name} failed on {folder}:\n{done.stderr[-2000:]}")
    found = json.loads(lines[0].removeprefix("MEASURED "))
    return found["seconds"], found["megabytes"], [tuple(cell) for cell in found["cells"]]


# ---- what is printed ----


def show(kind: str, folder: Path, repeats: int, readings: list[str]) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"\n{kind}: {len(list(folder.iterdir()))} files, {size / MILLION:,.0f} MB")
    print(f"  {'':<10}{'seconds':>9}{'MB/s':>9}{'peak MB':>9}{'ratio of seconds':>18}")
    best: dict[str, tuple[float, float, Cells]] = {}
    # In turns, so that all have the same company; Ray's seconds are mostly its own start, once is enough.
    for name in [name for turn in range(repeats) for name in readings if name != "ray" or not turn]:
        found = reading(name, folder)
        best[name] = min(found, best.get(name, found), key=lambda one: one[0])
    ours = best["rl2ml"]
    for name, (seconds, megabytes, cells) in best.items():
        assert cells == ours[2], f"{name} counts other cells"
        note = GOALS.get(kind, "") if name == "rl2ml" else ""
        row = f"{seconds:>9.2f}{size / MILLION / seconds:>9,.0f}{megabytes:>9,.0f}{seconds / ours[0]:>18.2f}"
        print(f"  {name:<10}{row}  {note}".rstrip())
    rollouts = sum(n * count for n, _, count in ours[2])
    print(
        f"  {rollouts:,.0f} rollouts of {sum(count for _, _, count in ours[2]):,.0f} prompts, the same cells from all"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: a hundredth of the data")
    parser.add_argument("--large", action="store_true", help="200 million rollouts within 2 GB, too")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the data are kept (%(default)s)")
    parser.add_argument("--readings", nargs="+", choices=READINGS, default=list(READINGS), help="all")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        name, folder, memory = chosen.measure
        measure(name, folder, memory or None)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    scale = 100 if chosen.quick else 1
    base = chosen.folder / ("quick" if chosen.quick else "full")
    makers: dict[str, Callable[[Path], None]] = {
        "parquet": lambda path: write_parquet(path, 20 * MILLION // scale, 4),
        "jsonl": lambda path: write_jsonl(path, 600 // scale),
    }
    for kind, make in makers.items():
        if not (base / kind).exists():
            part = base / f"{kind}.part"
            if part.exists():
                raise SystemExit(f"{part} is left of an interrupted run; remove it")
            make(part)
            part.rename(base / kind)
        show(kind, base / kind, 1 if chosen.quick else 3, chosen.readings)
    if chosen.large:
        folder = base / "large"
        if not folder.exists():
            write_parquet(folder, 200 * MILLION // scale, 10)
        seconds, megabytes, cells = reading("rl2ml", folder, "2GB")
        rollouts = sum(n * count for n, _, count in cells)
        print(f"\n{rollouts:,.0f} rollouts, memory_limit='2GB': {seconds:.1f} s, {megabytes:,.0f} MB  {GOALS['large']}")


if __name__ == "__main__":
    main()
