"""What importing the library costs: numpy and scipy.special, and none of the slow or optional packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# torch and the service's packages are optional; the two of scipy take a second to load.
UNWANTED = [
    *("torch", "fastapi", "starlette", "pydantic", "httpx", "typer", "rich", "pyarrow", "duckdb", "matplotlib"),
    *("scipy.stats", "scipy.optimize"),
]

RECOMMEND = (
    "pilot = rl2ml_core.PilotHistogram.from_counts([0, 1, 3, 8] * 20, 8); "
    "rl2ml_core.recommend(pilot, 'log:0.01', 8, score_model=rl2ml_core.ScoreModel(0.2, 0.5)).to_dict(); "
    "rl2ml_core.recommend(pilot, 'pass@8', 8, criterion='paper').to_dict()"
)


def loaded_after(code: str) -> set[str]:
    """Modules that a fresh interpreter holds after running some code."""
    script = f"import sys, json; {code}; json.dump(sorted(sys.modules), sys.stdout)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("code", ["import rl2ml_core", f"import rl2ml_core; {RECOMMEND}"], ids=["import", "recommend"])
def test_the_library_stays_light(code):
    loaded = loaded_after(code)
    assert {"rl2ml_core", "numpy", "scipy.special"} <= loaded
    assert loaded.isdisjoint(UNWANTED)


def test_the_check_sees_what_is_loaded():
    assert "scipy.optimize" in loaded_after("import scipy.optimize")
