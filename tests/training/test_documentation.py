"""What users meet first: an import without torch, the guide's loop, the benchmark."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_the_library_imports_no_torch_and_training_says_what_it_needs():
    code = (
        "import sys; sys.modules['torch'] = None\n"  # as if it were not installed
        "import rl2ml_core as rl2ml\n"
        "try:\n    import rl2ml_core.training\n"
        "except rl2ml.MissingExtra as error:\n    print(error)"
    )
    done = python("-c", code)
    assert done.stderr == ""
    assert done.stdout == "Training needs an optional dependency: pip install 'rl2ml[training]'\n"


def test_another_missing_module_is_not_taken_for_torch():
    done = python("-c", "import sys; sys.modules['torch.distributed'] = None; import rl2ml_core.training")
    assert "MissingExtra" not in done.stderr
    assert "torch.distributed" in done.stderr


def test_the_guides_loop_learns(capsys):
    code = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL).group(1)
    names = {}
    exec(compile(code, "docs/training.md", "exec"), names)  # our own text
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["0", "20", "40"]
    rates = [float(re.search(r"'pass_rate': ([\d.]+)", line)[1]) for line in printed]
    assert rates[0] < 0.2 < 0.4 < rates[2]
    assert 0 < names["objective"].gamma < 2
    assert names["scale"].multiplier != 1
    for name in names["groups"].metrics():
        assert f"`{name}`" in GUIDE


def test_the_guide_names_what_exists():
    import rl2ml_core.training as training

    for name in training.__all__:
        assert name in GUIDE or name in ("GroupAdvantages", "HasTables", "Tables")
    for name in re.findall(r"`rl2ml\.(\w+)", GUIDE):
        assert hasattr(rl2ml, name)


def test_every_public_name_has_a_docstring():
    import rl2ml_core.training as training

    for name in ("AdvantageScale", "GroupAdvantages", "RL2MLLoss", "group_advantages", "HasTables"):
        assert getattr(training, name).__doc__


def test_the_benchmark_runs_and_its_peers_are_what_they_claim():
    done = python(str(ROOT / "benchmarks" / "loss.py"), "--quick")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^  (?:ok|MISSED) +.* [\d.]+$", done.stdout, re.MULTILINE)) == 4
    assert done.stdout.count("A/A") == 3
