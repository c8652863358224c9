"""Pictures: drawn to a file, refused before anything is drawn, and without matplotlib a helpful error."""

import sys

import pytest

import rl2ml_core as rl2ml
from rl2ml_core.plotting import plot_frontier

PILOT = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])


@pytest.mark.parametrize("bootstrap", [0, 50])
@pytest.mark.parametrize("choices", [None, [8]])
def test_a_frontier_is_drawn(tmp_path, bootstrap, choices):
    pytest.importorskip("matplotlib")
    path = tmp_path / "frontier.png"
    plot_frontier(rl2ml.plan_budget(PILOT, "pass@8", 256, bootstrap=bootstrap, choices=choices), path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_what_cannot_be_drawn_is_refused(tmp_path):
    plan = rl2ml.plan_budget(PILOT, "pass@8", 256, bootstrap=0)
    with pytest.raises(rl2ml.InvalidInput, match="must end in"):
        plot_frontier(plan, tmp_path / "frontier.txt")
    nothing = rl2ml.plan_budget(PILOT, "pass@8", 2, choices=[8])
    with pytest.raises(rl2ml.InvalidInput, match="no frontier to plot"):
        plot_frontier(nothing, tmp_path / "frontier.png")


@pytest.mark.parametrize("bootstrap", [0, 50])
def test_a_recommendation_is_drawn(bootstrap):
    pytest.importorskip("matplotlib")
    found = rl2ml.recommend(PILOT, "pass@8", 8, bootstrap=bootstrap)
    (axes,) = found.plot().axes
    (line,) = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
    assert list(line.get_ydata()) == [100 * share for share in found.curve.relative_criterion]
    assert [text.get_text() for text in axes.texts] == ["RL", "max. likelihood", f"γ = {found.gamma:.2f}"]
    assert len(axes.collections) == (bootstrap > 0)
    nothing = rl2ml.recommend(rl2ml.PilotHistogram.from_cells([(8, 0, 64)]), "pass@8", 8)
    with pytest.raises(rl2ml.InvalidInput, match="no curve to plot"):
        nothing.plot()


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(rl2ml.MissingExtra, match=r"rl2ml\[plot\]"):
        plot_frontier(rl2ml.plan_budget(PILOT, "pass@8", 256, bootstrap=0), tmp_path / "frontier.png")
