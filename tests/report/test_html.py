"""The report without a browser: one file, nothing from elsewhere, numbers of the library."""

import json
import re

import pytest

import rl2ml_core as rl2ml
from rl2ml_core.report import ASSETS, report_html

PILOT = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


@pytest.mark.parametrize("current", ["grpo", 0.5])
def test_it_has_the_answer_and_what_it_is_compared_with(current):
    found = rl2ml.recommend(PILOT, "pass@8", 4, current=current, bootstrap=20)
    text = report_html(found, PILOT, current)
    data = data_of(text)
    assert data["recommendation"] == json.loads(json.dumps(found.to_dict()))
    assert [tuple(cell) for cell in data["cells"]] == PILOT.cells()
    assert data["trainer"] == ("GRPO" if current == "grpo" else "γ = 0.5")
    (now,) = [one for one in data["analyses"] if one.get("is_current")]
    assert now["weights"] == rl2ml.analyze(current, 4, PILOT).to_dict()["weights"]
    (choice,) = [one for one in data["analyses"] if one.get("is_choice")]
    assert choice["weights"] == rl2ml.analyze(found.gamma, 4, PILOT, baseline="bayes").to_dict()["weights"]
    known = {trainer.label for trainer in rl2ml.KNOWN_TRAINERS.values() if trainer.least_rollouts <= 4}
    assert known <= {one["label"] for one in data["analyses"]}


def test_nothing_comes_from_elsewhere():
    text = report_html(rl2ml.recommend(PILOT, "pass@8", 4, bootstrap=0), PILOT)
    assert "default-src 'none'" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert text.count("{{") == 0
    assert len(text) < 300_000


def test_names_cannot_end_the_script(monkeypatch):
    monkeypatch.setattr("rl2ml_core.report.html._analyses", lambda *_: [{"label": "</script><script>alert(1)"}])
    text = report_html(rl2ml.recommend(PILOT, "pass@8", 4, bootstrap=0), PILOT)
    assert text.count("<script") == 3
    assert data_of(text)["analyses"] == [{"label": "</script><script>alert(1)"}]


def test_a_pilot_that_tells_nothing():
    hopeless = rl2ml.PilotHistogram.from_cells([(8, 0, 64)])
    data = data_of(report_html(rl2ml.recommend(hopeless, "pass@8", 4), hopeless))
    assert data["recommendation"]["status"] == "uninformative"
    assert data["analyses"] == []


def test_the_license_is_kept():
    assert "Leon Sorokin" in (ASSETS["uPlot.min.css"].parent / "LICENSE").read_text()
