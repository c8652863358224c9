"""`rl2ml` as people and scripts use it: output, exit codes, and errors in one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import rl2ml_core as rl2ml
from rl2ml_core.cli.commands import app

ROOT = Path(__file__).resolve().parents[2]
PILOT = ROOT / "examples" / "addition" / "pilot.csv"
USUAL = ("recommend", str(PILOT), "--metric", "pass@8", "--rollouts-per-prompt", "8")
QUICK = (*USUAL, "--bootstrap", "0")
HANG = 60


def run(*arguments: object, width: int = 100, given: str | None = None) -> Result:
    return CliRunner().invoke(
        app, [str(a) for a in arguments], input=given, env={"COLUMNS": str(width), "NO_COLOR": "1"}
    )


def answer(*arguments: object, given: str | None = None) -> dict:
    done = run(*arguments, "--format", "json", given=given)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def complaint(*arguments: object, given: str | None = None) -> str:
    """The one line that an error is."""
    done = run(*arguments, given=given)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def pilot() -> rl2ml.PilotHistogram:
    return rl2ml.read_pilot(PILOT)


# --- recommend --------------------------------------------------------------------------------------------------------


def test_text_says_the_sentence_first_then_the_numbers(pilot):
    expected = rl2ml.recommend(pilot, "pass@8", 8)
    done = run(*USUAL)
    assert done.exit_code == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == expected.summary
    assert "256 prompts, mean pass rate 0.328, all-fail 38%, all-pass 5%" in done.stdout
    assert re.search(rf"γ +{expected.gamma:.4f} ", done.stdout)
    low, high = expected.interval.lower, expected.interval.upper
    assert re.search(rf"90% interval +{low:.2f} to {high:.2f} ", done.stdout)
    assert f"{expected.expected_regret:.2%} of the criterion" in done.stdout
    assert f"× {expected.learning_rate.multiplier:.3g} of the one tuned for grpo" in done.stdout
    table = expected.objective.table(8)
    for k in range(9):
        (row,) = [line.split() for line in lines if re.match(rf" +{k}( |$)", line)]
        sides = [f"{table.success[k]:+.4f}"] * (k > 0) + [f"{table.failure[k]:+.4f}"] * (k < 8)
        assert row == [str(k), *sides]


def test_json_is_the_librarys_answer(pilot):
    assert answer(*USUAL) == json.loads(json.dumps(rl2ml.recommend(pilot, "pass@8", 8).to_dict()))


def test_json_is_one_line():
    done = run(*QUICK, "--format", "json")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--current", "rloo"], {"current": "rloo"}),
        (["--current", "0.5"], {"current": 0.5}),
        (["--current", "1"], {"current": 1}),
        (["--kappa", "0.3"], {"score_model": rl2ml.ScoreModel(0.3)}),
        (["--gamma-range", "0.5", "4"], {"gamma_min": 0.5, "gamma_max": 4}),
        (["--baseline", "leave_one_out"], {"baseline": "leave_one_out"}),
        (["--prior", "0.5,2"], {"prior": rl2ml.BetaPrior(0.5, 2)}),
        (["--prior", "plug_in"], {"prior": "plug_in"}),
        (["--criterion", "paper", "--variance-penalty", "0.05"], {"criterion": "paper", "variance_penalty": 0.05}),
        (["--bootstrap", "30", "--seed", "7", "--level", "0.5"], {"bootstrap": 30, "seed": 7, "level": 0.5}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_option_reaches_the_library(pilot, arguments, options):
    usual = rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).to_dict()
    expected = rl2ml.recommend(pilot, "pass@8", 8, **({"bootstrap": 0} | options)).to_dict()
    assert expected != usual
    assert answer(*QUICK, *arguments) == json.loads(json.dumps(expected))


@pytest.mark.parametrize("metric", ["pass@1", "log:0.01", "0.5*pass@1+0.5*pass@16"])
def test_metrics(pilot, metric):
    expected = rl2ml.recommend(pilot, metric, 8, bootstrap=0)
    assert answer("recommend", PILOT, "-m", metric, "-n", 8, "--bootstrap", 0)["gamma"] == expected.gamma


@pytest.mark.parametrize("name", ["--rollouts-per-prompt", "--num-generations", "-n"])
def test_names_of_the_group_size(pilot, name):
    found = answer("recommend", PILOT, "--metric", "pass@8", name, "4", "--bootstrap", "0")
    assert found["objective"]["num_rollouts"] == 4


def as_jsonl(pilot: rl2ml.PilotHistogram) -> str:
    rows = [{"num_successes": k, "num_rollouts": n, "weight": w} for n, k, w in pilot.cells()]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tsv"])
def test_standard_input(pilot, kind):
    text = PILOT.read_text()
    given = {"csv": text, "tsv": text.replace(",", "\t"), "jsonl": as_jsonl(pilot)}[kind]
    expected = answer(*QUICK)
    assert answer("recommend", "-", *QUICK[2:], given=given) == expected


def test_rollout_tables(tmp_path):
    rollouts = tmp_path / "rollouts.csv"
    rows = [f"p{prompt},{int(attempt < prompt)}" for prompt in range(5) for attempt in range(4)]
    rollouts.write_text("prompt_id,reward\n" + "\n".join(rows) + "\n")
    found = answer("recommend", rollouts, *QUICK[2:])
    assert found["objective"]["population"]["cells"] == [[4, k, 1] for k in range(5)]


def test_output_is_an_objective_that_loads(tmp_path, pilot):
    path = tmp_path / "objective.json"
    done = run(*QUICK, "-o", path, width=1000)
    assert done.exit_code == 0
    loaded = rl2ml.Objective.load(path)
    expected = rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).objective
    assert loaded.gamma == expected.gamma
    np.testing.assert_array_equal(loaded.table(5).success, expected.table(5).success)
    assert done.stdout.splitlines()[-1] == f"Saved {path}. The table for another group size: rl2ml table {path} -n 16"


def test_output_goes_with_json_too(tmp_path):
    path = tmp_path / "objective.json"
    found = answer(*QUICK, "--output", path)
    assert json.loads(path.read_text()) == found["objective"]


def test_flat_is_an_answer(tmp_path):
    path = tmp_path / "pilot.csv"
    path.write_text("num_successes,num_rollouts\n" + "1,1000\n" * 50 + "2,1000\n" * 50)
    done = run("recommend", path, "-m", "pass@8", "-n", 4)
    assert done.exit_code == 0
    assert "keep the γ you have" in done.stdout
    assert re.search(r"status +flat", done.stdout)
    assert "What to do: " in done.stdout


@pytest.mark.parametrize("successes", [0, 8])
def test_pilot_that_tells_nothing(tmp_path, successes):
    path, saved = tmp_path / "pilot.csv", tmp_path / "objective.json"
    path.write_text("num_successes,num_rollouts\n" + f"{successes},8\n" * 64)
    done = run("recommend", path, *QUICK[2:], "-o", saved)
    assert done.exit_code == 3
    assert done.stdout.startswith("No recommendation: ")
    assert "What to do: " in done.stdout
    assert done.stderr == ""
    assert not saved.exists()
    done = run("recommend", path, *QUICK[2:], "--format", "json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["status"] == "uninformative"


# --- wrong usage and data ---------------------------------------------------------------------------------------------


def test_missing_file():
    assert complaint("recommend", "nowhere.csv", *QUICK[2:]) == "Error: No such file or directory: nowhere.csv"


def test_folder_instead_of_a_file(tmp_path):
    folder = tmp_path / "pilot.csv"
    folder.mkdir()
    assert "Is a directory" in complaint("recommend", folder, *QUICK[2:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "expected columns num_successes and num_rollouts"),
        ("num_successes,num_rollouts\n", "no rows"),
        ("num_successes,num_rollouts\n1,8\n9,8\n", "row 3: num_successes must not exceed num_rollouts"),
        ("num_successes,num_rollouts\n1,8\nx,8\n", "row 3: num_successes must be a number"),
        ("num_successes,num_rollouts\n1,8\n1\n", "line 3 has 1 fields"),
        ("prompt_id,reward\na,0.5\n", "reward must be 0 or 1"),
    ],
)
def test_bad_tables(tmp_path, text, words):
    path = tmp_path / "pilot.csv"
    path.write_text(text)
    line = complaint("recommend", path, *QUICK[2:])
    assert str(path) in line
    assert words in line


def test_bad_standard_input():
    assert "standard input" in complaint("recommend", "-", *QUICK[2:], given="a,b\n1,2\n")


def test_unknown_file_ending(tmp_path):
    path = tmp_path / "pilot.xlsx"
    path.write_bytes(b"PK")
    assert ".csv" in complaint("recommend", path, *QUICK[2:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "accuracy"], "pass@8"),
        (["--metric", "pass@0"], "1 to 1000000"),
        (["--prior", "1"], "ALPHA,BETA"),
        (["--prior", "1,2,3"], "ALPHA,BETA"),
        (["--prior", "0,1"], "prior.alpha"),
        (["--prior", "nan,1"], "prior.alpha"),
        (["--current", "ppo"], "grpo"),
        (["--current", "-1"], "current"),
        (["--current", "nan"], "current"),
        (["--baseline", "mean"], "leave_one_out"),
        (["--kappa", "0"], "kappa"),
        (["--kappa", "2"], "kappa"),
        (["--gamma-range", "2", "1"], "gamma_min"),
        (["--gamma-range", "0", "21"], "gamma_max"),
        (["--criterion", "gain"], "rms_gain"),
        (["--variance-penalty", "0.1"], "paper"),
        (["--level", "1.5"], "level"),
        (["--bootstrap", "1000000"], "bootstrap"),
        (["--output", "/nonexistent/objective.json"], "/nonexistent/objective.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(arguments, words):
    assert words in complaint(*USUAL, *arguments)  # of an option given twice the last one counts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Usage"),
        (("recommend",), "pilot"),
        (USUAL[:4], "--rollouts-per-prompt"),
        ((*USUAL[:2], "-n", "8"), "--metric"),
        ((*USUAL, "--nonsense"), "--nonsense"),
        ((*USUAL, "-n", "0"), "--rollouts-per-prompt"),
        ((*USUAL, "-n", "65537"), "--rollouts-per-prompt"),
        ((*USUAL, "-n", "many"), "--rollouts-per-prompt"),
        ((*USUAL, "--format", "xml"), "--format"),
        ((*USUAL, "--bootstrap", "-1"), "--bootstrap"),
        (("suggest",), "suggest"),
        (("table", "objective.json"), "--rollouts-per-prompt"),
    ],
    ids=lambda value: " ".join(Path(word).name for word in value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert words in done.output
    assert "Traceback" not in done.output
    assert not arguments or done.stdout == "", "errors belong on standard error"


# --- table ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory, pilot) -> Path:
    path = tmp_path_factory.mktemp("saved") / "objective.json"
    rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).objective.save(path)
    return path


@pytest.mark.parametrize("n", [1, 4, 8, 16])
def test_table_for_any_group_size(saved, n):
    objective = rl2ml.Objective.load(saved)
    done = run("table", saved, "-n", n)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"γ = {objective.gamma:.4g} (bayes baseline, truncation order {min(8, n)})")
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r" +\d", line)]
    assert [int(row[0]) for row in rows] == list(range(n + 1))
    assert float(rows[1][1]) == pytest.approx(objective.table(n).success[1], abs=1e-4)
    assert float(rows[0][1]) == pytest.approx(objective.table(n).failure[0], abs=1e-4)


def test_long_table_shows_its_ends(saved):
    done = run("table", saved, "-n", 100)
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r" +(\d|⋮)", line)]
    shown = [row[0] for row in rows]
    assert shown.count("⋮") == 1
    assert len(shown) <= 18
    assert (shown[0], shown[-1]) == ("0", "100")
    numbers = [int(k) for k in shown if k != "⋮"]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("n", [15, 16, 17, 18])
def test_table_near_the_length_that_is_cut(saved, n):
    done = run("table", saved, "-n", n)
    shown = [line.split()[0] for line in done.stdout.splitlines() if re.match(r" +(\d|⋮)", line)]
    assert [k for k in shown if k != "⋮"] == [str(k) for k in range(n + 1) if n <= 16 or str(k) in shown]
    assert (n > 16) == ("⋮" in shown)
    assert len(shown) <= 18


def test_table_as_json(saved):
    done = run("table", saved, "-n", 5, "--format", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == rl2ml.Objective.load(saved).to_dict(5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{}", "schema"),
        ('{"schema": 99}', "schema 1"),
        ('{"schema": 1}', "incomplete"),
        ("[1]", "objective"),
        ('{"schema": 1, "gamma": -1, "baseline": "none"}', "gamma"),
    ],
)
def test_table_of_something_else(tmp_path, text, words):
    path = tmp_path / "objective.json"
    path.write_text(text)
    line = complaint("table", path, "-n", 4)
    assert words in line
    assert str(path) in line


def test_table_of_nothing():
    assert complaint("table", "nowhere.json", "-n", 4) == "Error: No such file or directory: nowhere.json"


def test_table_of_a_binary_file(tmp_path):
    path = tmp_path / "objective.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not JSON" in complaint("table", path, "-n", 4)


# --- help, versions, terminals ----------------------------------------------------------------------------------------


def test_version():
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"rl2ml {rl2ml.__version__}\n")


def test_every_command_and_option_is_in_the_help():
    commands = get_command(app).commands
    assert set(commands) == {"recommend", "table"}
    overview = run("--help", width=200)
    assert overview.exit_code == 0
    for name, command in commands.items():
        assert re.search(rf"\b{name} +\w", overview.stdout), "no sentence about it"
        shown = run(name, "--help", width=200).stdout
        assert f"Example: rl2ml {name} " in shown
        for parameter in command.params:
            if parameter.name == "help":
                continue
            assert parameter.help, f"{name} {parameter.name} has no help"
            for spelled in parameter.opts if parameter.param_type_name == "option" else [parameter.name]:
                assert spelled in shown, f"{name} {spelled}"


def test_names_in_the_help_are_the_librarys():
    shown = re.sub(r"[\s│]+", " ", run("recommend", "--help", width=1000).stdout)
    assert ", ".join(rl2ml.KNOWN_TRAINERS) in shown
    assert ", ".join(rl2ml.BASELINES) in shown


@pytest.mark.parametrize("width", [20, 40, 200])
def test_terminals_of_any_width(saved, width, pilot):
    assert run("--help", width=width).exit_code == 0
    assert run("recommend", "--help", width=width).exit_code == 0
    done = run(*USUAL, width=width)
    assert done.exit_code == 0
    table = rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).objective.table(8)
    tail = done.stdout.partition("Advantages in a group")[2]
    if width >= 40:
        assert done.stdout.startswith("Train with γ = ")
        assert all(f"{value:+.4f}" in tail for value in table.success[1:])
    assert run("table", saved, "-n", 100, width=width).exit_code == 0


# --- as a process -----------------------------------------------------------------------------------------------------


def run_process(*arguments: str, given: str = "", python: tuple[str, ...] = ("-m", "rl2ml_core.cli"), **variables: str):
    return subprocess.run(
        [sys.executable, *python, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=HANG,
    )


def test_process_reads_a_pipe_and_writes_json():
    done = run_process("recommend", "-", *QUICK[2:], "--format", "json", given=PILOT.read_text())
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == answer(*QUICK)


def test_process_says_errors_in_one_line():
    done = run_process("recommend", "nowhere.csv", *QUICK[2:])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: No such file or directory: nowhere.csv\n"


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_without_its_extra_the_way_to_get_it_is_named(name):
    script = f"""
import sys


class Without:
    def find_spec(self, module, *_):
        if module.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{module!r}}", name=module)


sys.meta_path.insert(0, Without())
from rl2ml_core.cli import main

main()
"""
    done = run_process("--version", python=("-c", script))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "pip install 'rl2ml[cli]'" in line


def test_a_broken_library_is_not_mistaken_for_a_missing_extra():
    script = """
import sys

sys.modules["numpy"] = None
from rl2ml_core.cli import main

main()
"""
    done = run_process("--version", python=("-c", script))
    assert done.returncode == 1
    assert "numpy" in done.stderr
    assert "pip install" not in done.stderr


def test_output_in_a_plain_locale():
    done = run_process(*QUICK, PYTHONIOENCODING="utf-8", LC_ALL="C", TERM="dumb", COLUMNS="40")
    assert done.returncode == 0, done.stderr
    assert "Train with γ = " in done.stdout
    assert "\x1b" not in done.stdout, "no colors into a pipe"


def test_closed_pipe_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "rl2ml_core.cli", *QUICK, "--format", "json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.close()  # as `| head -0` does
    _, err = process.communicate(timeout=HANG)
    assert b"Traceback" not in err
