"""Pictures of answers, by matplotlib (extra `plot`): one function each, from plain values to a file."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl2ml_core.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rl2ml_core.selection.plans import BudgetPlan
    from rl2ml_core.selection.recommend import Recommendation

__all__ = ["FORMATS", "plot_frontier", "plot_recommendation", "save_figure"]

FORMATS = (".png", ".svg", ".pdf")
_BLUE, _GREY, _RED, _GREEN = "#1f5fa8", "#777777", "#a8481f", "#1c7a4d"
_TICKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def save_figure(path: str | Path, draw: Callable[["Figure"], None], size: tuple[float, float] = (6.4, 4.8)) -> None:
    """Draw on a new figure and save it; nothing global of matplotlib is touched.

    Raises:
        InvalidInput: an ending that is no format; before anything is drawn.
        MissingExtra: without matplotlib.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InvalidInput(f"a plot must end in {', '.join(FORMATS)}; got {target.name!r:.60}", field="plot")
    figure = _figure(size)
    draw(figure)
    figure.savefig(target, dpi=150)


def plot_recommendation(found: "Recommendation") -> "Figure":
    """The criterion over γ with the band of the draws, the γ to train with, RL and maximum likelihood.

    Returns:
        A figure, which notebooks show; `savefig` writes it.

    Raises:
        InvalidInput: a recommendation without a γ.
        MissingExtra: without matplotlib.
    """
    if found.curve is None or found.gamma is None or found.near_optimal is None:
        raise InvalidInput(f"there is no curve to plot. {found.summary}", field="plot")
    figure, curve = _figure((6.4, 3.6)), found.curve
    axes = figure.subplots()
    axes.axvspan(found.near_optimal.lower, found.near_optimal.upper, color=_GREY, alpha=0.12, lw=0)
    if curve.lower is not None and curve.upper is not None:
        axes.fill_between(curve.gamma, _percents(curve.lower), _percents(curve.upper), color=_BLUE, alpha=0.15, lw=0)
    axes.plot(curve.gamma, _percents(curve.relative_criterion), color=_BLUE)
    low, high = float(curve.gamma[0]), float(curve.gamma[-1])
    marks = ((0.0, "RL", _RED), (1.0, "max. likelihood", _GREEN), (found.gamma, f"γ = {found.gamma:.2f}", _BLUE))
    for row, (gamma, name, color) in enumerate(marks):
        if low <= gamma <= high:
            axes.axvline(gamma, color=color, ls="-" if color == _BLUE else "--", lw=1.2)
            axes.annotate(
                name,
                (gamma, 0.04 + 0.08 * row),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=9,
                color=color,
            )
    axes.set_xlabel("γ")
    axes.set_ylabel("share of the best gain, %")
    axes.set_title("grey: within 1 % of the best", fontsize=9, loc="left", color=_GREY)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(size: tuple[float, float]) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("plotting", "plot") from None
    return Figure(figsize=size, layout="constrained")


def plot_frontier(plan: "BudgetPlan", path: str | Path) -> None:
    """Gain and γ over the rollouts per prompt of a plan.

    Raises:
        InvalidInput: a plan without a frontier, or an ending that is no format.
        MissingExtra: without matplotlib.
    """
    best = plan.best
    if best is None:
        raise InvalidInput(f"there is no frontier to plot. {plan.summary}", field="plot")

    def draw(figure: "Figure") -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        sizes = [row.num_rollouts for row in plan.frontier]
        bands = [row.loss_interval for row in plan.frontier]
        if all(band is not None for band in bands):
            lower, upper = zip(*((1 - band.upper, 1 - band.lower) for band in bands if band), strict=True)
            label = f"{bands[0].level:.0%} of draws" if bands[0] else ""
            above.fill_between(sizes, _percents(lower), _percents(upper), color=_BLUE, alpha=0.15, lw=0, label=label)
        above.plot(sizes, _percents(row.relative_gain for row in plan.frontier), color=_BLUE, marker=".", ms=4)
        above.axvline(best.num_rollouts, color=_GREY, ls=":", lw=1)
        above.annotate(
            f"{best.prompts_per_step:,} prompts × {best.num_rollouts}",
            (best.num_rollouts, 100),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=9,
        )
        above.set_ylabel("gain per step, % of the best")
        above.set_ylim(0, None)
        above.set_title(f"{plan.rollouts_per_step:,} rollouts per step", fontsize=10, loc="left")
        if above.get_legend_handles_labels()[0]:
            above.legend(frameon=False, fontsize=8, loc="lower left")
        rows = [row for row in plan.frontier if row.num_rollouts > 1]  # of one rollout every γ is plain RL
        below.plot([row.num_rollouts for row in rows], [row.gamma for row in rows], color=_BLUE, marker=".", ms=4)
        below.axvline(best.num_rollouts, color=_GREY, ls=":", lw=1)
        below.set_ylabel("best γ of a step")
        below.set_xlabel("rollouts per prompt, N")
        below.set_xscale("log", base=2)
        shown = [tick for tick in _TICKS if sizes[0] <= tick <= sizes[-1]]
        below.set_xticks(shown, [str(tick) for tick in shown])
        for axes in (above, below):
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)

    save_figure(path, draw)


def _percents(shares: Any) -> list[float]:
    return [100 * share for share in shares]
