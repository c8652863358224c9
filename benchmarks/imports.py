"""What `import rl2ml_core` costs beside the packages it needs, in fresh interpreters.

`python benchmarks/imports.py` prints the median seconds of both and their ratio. Runs alternate, so that a busy moment
meets both alike.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED, LIBRARY = "import numpy, scipy.special", "import rl2ml_core"
TARGET = 1.15


def seconds(code: str) -> float:
    """Wall seconds of a fresh interpreter that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="pairs of interpreters")
    repeats = parser.parse_args().repeats
    for code in (NEEDED, LIBRARY):
        seconds(code)  # from the disk into its cache, and bytecode written
    pairs = [(seconds(NEEDED), seconds(LIBRARY)) for _ in range(repeats)]
    needed, library = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(own / base for base, own in pairs)
    print(f"{NEEDED:<30}{needed * 1e3:8.0f} ms")
    print(f"{LIBRARY:<30}{library * 1e3:8.0f} ms")
    print(f"median ratio {ratio:.2f}; target at most {TARGET}: {'ok' if ratio <= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
