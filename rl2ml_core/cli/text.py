"""How answers look in a terminal: the sentence first, then the numbers, then what to do."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import rl2ml_core as rl2ml
from rl2ml_core.selection.uncertainty import Interval

__all__ = ["advantage_rows", "recommendation_text"]

_MOST_ROWS = 17
_MARKS = {"info": ("·", "dim"), "warning": ("!", "yellow"), "error": ("✗", "red")}

#: What to do about each outcome, where the sentence alone does not say it.
_ADVICE = {
    "flat": "What to do: keep the γ you have; the estimator (the table below) or better data matter more.",
    "at_lower_bound": None,
    "at_upper_bound": "What to do: if larger γ is an option for you, widen --gamma-range.",
    "prior_dominated": "What to do: sample more rollouts per prompt, or prompts nearer to your model's level.",
    "uninformative": "What to do: pilot on prompts of which the model solves some; 64 prompts × 8 rollouts suffice.",
}


def recommendation_text(answer: rl2ml.Recommendation, pilot: rl2ml.PilotHistogram, num_rollouts: int) -> RenderableType:
    """The whole answer."""
    parts: list[RenderableType] = [Text(answer.summary, style="bold")]
    advice = _ADVICE.get(answer.status)
    if advice:
        parts.append(Text(advice))
    parts.append(Text(""))
    parts.append(_numbers(answer, pilot))
    if answer.diagnostics:
        parts.append(Text(""))
        for found in answer.diagnostics:
            mark, style = _MARKS[found.level]
            parts.append(Text(f"{mark} {found.detail}", style=style))
    if answer.objective is not None:
        parts.append(Text(f"\nAdvantages in a group of {num_rollouts}:"))
        parts.append(advantage_rows(answer.objective, num_rollouts))
    return Group(*parts)


def advantage_rows(objective: rl2ml.Objective, num_rollouts: int) -> RenderableType:
    """The table by success count K; long ones show their ends."""
    table = objective.table(num_rollouts)
    rows = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for title in ("successes K", "each success gets", "each failure gets"):
        rows.add_column(title, justify="right")
    shown = range(num_rollouts + 1)
    half = _MOST_ROWS // 2
    for k in shown:
        if num_rollouts + 1 > _MOST_ROWS and k == half:
            rows.add_row("⋮", "⋮", "⋮")
        if num_rollouts + 1 > _MOST_ROWS and half <= k <= num_rollouts - half:
            continue
        success = "" if k == 0 else f"{table.success[k]:+.4f}"
        failure = "" if k == num_rollouts else f"{table.failure[k]:+.4f}"
        rows.add_row(str(k), success, failure)
    return Padding(rows, (0, 0, 0, 2))


def _numbers(answer: rl2ml.Recommendation, pilot: rl2ml.PilotHistogram) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for label, value in _rows(answer, pilot):
        grid.add_row(label, value)
    return Padding(grid, (0, 0, 0, 2))


def _rows(answer: rl2ml.Recommendation, pilot: rl2ml.PilotHistogram) -> Iterator[tuple[str, str]]:
    fail = 1 - pilot.prompts_with_success / pilot.total_prompts
    solved = 1 - pilot.prompts_with_failure / pilot.total_prompts
    yield (
        "pilot",
        f"{pilot.total_prompts:g} prompts, mean pass rate {pilot.mean_pass_rate:.3f}, "
        f"all-fail {fail:.0%}, all-pass {solved:.0%}",
    )
    yield "status", answer.status.replace("_", " ")
    if answer.gamma is None:
        return
    yield "γ", f"{answer.gamma:.4f}  ({(answer.regime or '').replace('_', ' ')}; 0 is RL, 1 is maximum likelihood)"
    if answer.near_optimal is not None:
        near = answer.near_optimal
        lower, upper = near.rounded()
        yield "near-optimal γ", f"{lower:.2f} to {upper:.2f}  (within {near.loss:.0%} of the best)"
    if answer.interval is not None and answer.sampling_interval is not None:
        yield f"{answer.interval.level:.0%} interval", f"{_span(answer.interval)}  (prompts and κ uncertain)"
        yield "from prompts alone", _span(answer.sampling_interval)
    if answer.probability_subcritical is not None:
        yield "P(best γ < 1)", f"{answer.probability_subcritical:.2f}"
    if answer.expected_regret is not None:
        yield "expected regret", f"{answer.expected_regret:.2%} of the criterion"
    for name, label, itself in (("current", "your trainer", None), ("rl", "γ = 0", 0), ("maxrl", "γ = 1", 1)):
        gain = answer.predicted_gain_over[name]
        if gain is not None and answer.gamma != itself:
            yield f"gain over {label}", f"{gain:+.1%} per step of equal length"
    rate = answer.learning_rate
    if rate is not None and rate.multiplier is not None:
        yield (
            "learning rate",
            f"× {rate.multiplier:.3g} of the one tuned for {rate.relative_to}  (SGD-like only; leave Adam's as it is)",
        )
    if answer.kappa_sensitivity:
        yield "γ if κ were", ", ".join(f"{row['kappa']:g}: {row['gamma']:.2f}" for row in answer.kappa_sensitivity)


def _span(interval: Interval) -> str:
    return f"{interval.lower:.2f} to {interval.upper:.2f}"
