"""docs/rest.md says what the code does."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import rl2ml_core as rl2ml
from app.problems import PROBLEM_TYPES
from app.schemas.estimators import AnalysisAnswer, AnalysisRequest, EstimatorsAnswer
from app.schemas.plans import PlanAnswer, PlannedAnswer
from app.schemas.recommendations import GroupAnswer, RecommendationAnswer
from app.schemas.runs import RunRequest
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading or table head, without the head."""
    after = TEXT.split(heading, 1)[1]
    rows = [line for line in after[after.index("|---") :].split("\n\n", 1)[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_problem_types():
    rows = {name.strip("`"): (int(status), title) for name, status, title in table("## Statuses and problems")}
    assert rows == PROBLEM_TYPES


def test_settings():
    rows = {name.strip("`"): default for name, default, _ in table("## Settings")}
    assert list(rows) == list(Settings.model_fields)
    computed = {"pool_workers": "cores − 1", "root_path": "none"}
    words = {None: "none", False: "false"}
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = words.get(default) if default is None or default is False else str(default)
        if shown != "false" and isinstance(default, (int, float)) and name != "port":
            shown = f"{default:,.12g}"
        assert rows[name] == computed.get(name, shown), name


def test_fields_of_an_answer():
    named = [name for row in table("## What a recommendation says") for name in re.findall(r"`(\w+)`", row[0])]
    assert named == list(RecommendationAnswer.model_fields)


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("| field of a group |", GroupAnswer),
        ("| field of the request |", AnalysisRequest),
        ("| field of a run |", RunRequest),
        ("| field of the analysis |", AnalysisAnswer),
        ("| field of a plan |", PlanAnswer),
        ("| field of a row |", PlannedAnswer),
    ],
)
def test_fields_of_other_tables(heading, model):
    assert [name for row in table(heading) for name in re.findall(r"`(\w+)`", row[0])] == list(model.model_fields)


def test_fields_of_the_catalog(document):
    schemas = document["components"]["schemas"]
    paragraph = TEXT.split("`GET /v1/estimators` answers ", 1)[1].split("\n\n", 1)[0]
    assert json.loads(re.sub("…", "", re.match(r"`(\{.*?\})`", paragraph)[1])).keys() == set(
        EstimatorsAnswer.model_fields
    )
    named = re.findall(r"`(\w+)`", paragraph.partition("`: ")[2])
    known = [*schemas["TrainerAnswer"]["properties"], *schemas["ParameterAnswer"]["properties"]]
    assert named == [*known, *schemas["BaselineAnswer"]["properties"]]


def test_defaults_of_an_analysis(document):
    properties = document["components"]["schemas"]["AnalysisRequest"]["properties"]
    for names, default, _ in table("| field of the request |"):
        name = names.strip("`")
        if default == "required":
            assert "default" not in properties[name]
        else:
            assert properties[name]["default"] == json.loads(default.strip("`"))


def test_fields_and_defaults_of_a_plan(document):
    schemas = document["components"]["schemas"]
    sections = {"budget": "StepBudget", "search": "PlanSearch", "estimator": "PlanEstimator"}
    rows = {row[0].strip("`"): row[1] for row in table("| field of a plan's request |")}
    assert list(dict.fromkeys(name.partition(".")[0] for name in rows)) == list(schemas["PlanRequest"]["properties"])
    for section, model in sections.items():
        named = [name.partition(".")[2] for name in rows if name.startswith(f"{section}.")]
        assert named == list(schemas[model]["properties"])
    for name, default in rows.items():
        section, _, field = name.partition(".")
        known = schemas[sections[section] if field else "PlanRequest"]["properties"][field or section]
        assert ("default" not in known) if default == "required" else known["default"] == json.loads(default.strip("`"))


def test_fields_of_a_request(document):
    schemas = document["components"]["schemas"]
    properties = schemas["RecommendationRequest"]["properties"]
    named = [name for row in table("## What a recommendation takes") for name in re.findall(r"`([\w.]+)`", row[0])]
    assert list(dict.fromkeys(name.partition(".")[0] for name in named)) == list(properties)
    for section, model in (("search", "Search"), ("uncertainty", "Uncertainty"), ("estimator", "Estimator")):
        assert [n.partition(".")[2] for n in named if n.startswith(f"{section}.")] == list(schemas[model]["properties"])


def test_defaults_of_a_request(document):
    schemas = document["components"]["schemas"]
    sections = {"budget": "Budget", "search": "Search", "uncertainty": "Uncertainty", "estimator": "Estimator"}
    checked = 0
    for names, defaults, _ in table("## What a recommendation takes"):
        if defaults == "required":
            continue
        paths = re.findall(r"`([\w.]+)`", names)
        values = [json.loads(text) for text in (defaults.split(", ") if len(paths) > 1 else [defaults.strip("`")])]
        for path, value in zip(paths, values, strict=True):
            section, _, field = path.partition(".")
            model = schemas[sections[section]] if field else schemas["RecommendationRequest"]
            default = model["properties"][field or section].get("default")
            assert default == value, path
            checked += 1
    assert checked >= 10


def test_names_in_the_request_table():
    rows = {row[0]: row[2] for row in table("## What a recommendation takes")}
    trainers = re.findall(r"`(\w+)`", rows["`current`"].partition("a γ")[0])
    assert trainers == list(rl2ml.KNOWN_TRAINERS)
    assert re.findall(r"`(\w+)`", rows["`estimator.baseline`"]) == list(rl2ml.BASELINES)


def test_paths(document):
    documented = {
        (method.lower(), path.replace("{id}", "{identity}"))
        for method, path in re.findall(r"^\| `([A-Z]+) (\S+)` \|", TEXT, re.MULTILINE)
    }
    served = {(method, path) for path, item in document["paths"].items() for method in item}
    assert documented == served


def shown_json(heading: str) -> Any:
    """The JSON below a line, its ellipses as text."""
    text = TEXT.split(heading, 1)[1].split("```json\n", 1)[1].split("```", 1)[0]
    return json.loads(re.sub(r"…(?=\])", '"…"', text))


def close(shown: Any, real: Any) -> bool:
    """Whether a shortened value shows a real one: rounded numbers, and lists or objects up to an ellipsis."""
    if isinstance(shown, dict):
        return all(close(value, real[name]) for name, value in shown.items())
    if isinstance(shown, list):
        whole = shown[-1:] != ["…"]
        kept = shown if whole else shown[:-1]
        return (len(kept) == len(real) or not whole) and all(map(close, kept, real))
    if isinstance(shown, float):
        return real == pytest.approx(shown, rel=0.02, abs=0.006 if abs(shown) > 0.1 else 1e-4)
    return shown == real


@pytest.mark.parametrize(
    ("number", "heading", "wrong"),
    [
        (0, "left out):", {"gamma": 1.33}),
        (1, "The analysis, shortened", {"signal": 0.008}),
        (2, "The plan, shortened", {"expected_regret": 0.9}),
    ],
    ids=["recommendation", "analysis", "plan"],
)
def test_worked_request_gives_the_answer_shown(client, number, heading, wrong):
    *options, _, body = shlex.split(re.findall(r"```console\n\$ (curl.*?)```", TEXT, re.DOTALL)[number])
    (address,) = (option for option in options if option.startswith("http://127.0.0.1:8000"))
    response = client.ask(body, path=address.removeprefix("http://127.0.0.1:8000"))
    assert response.status_code == 200
    real, shortened = response.json(), shown_json(heading)
    assert list(shortened) == list(real)
    assert not close(shortened | wrong, real), "the comparison sees nothing"
    assert close(shortened, real)


@pytest.mark.parametrize(
    "prior", re.findall(r"^- `(\{.*?\})`", TEXT.split("A prior is one of")[1].split("Conditions")[0], re.MULTILINE)
)
def test_priors_shown_are_taken(client, question, prior):
    assert client.ask(question | {"prior": json.loads(prior), "uncertainty": {"bootstrap": 0}}).status_code == 200


@pytest.mark.parametrize(
    "estimator", re.findall(r"^- `(.*?)`", TEXT.split("An estimator is one of")[1].split("\n|")[0], re.MULTILINE)
)
def test_estimators_shown_are_taken(client, question, estimator):
    chosen = json.loads(estimator)
    n = 2 if "success" in chosen else 8
    assert client.analyze({"estimator": chosen, "num_rollouts": n, "pilot": question["pilot"]}).status_code == 200


def test_problem_shown_is_real(client, question):
    shown = json.loads(re.search(r"```json\n(\{\"type\".*?)```", TEXT, re.DOTALL)[1])
    question["pilot"]["cells"][0]["num_successes"] = 9
    assert client.ask(question).json() == shown
