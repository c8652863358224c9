"""How answers about γ look in a terminal: the sentence first, then the numbers, then what to do."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

import rl2ml_core as rl2ml
from rl2ml_core.cli.layout import fields, marked, signed_percent, table, unit_of_gains
from rl2ml_core.selection.uncertainty import Interval

__all__ = ["advantage_rows", "groups_text", "objective_text", "recommendation_text", "window_text"]

_MOST_ROWS = 17
_LONGEST_NAME = 24

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
    parts += [Text(""), fields(_rows(answer, pilot))]
    if answer.diagnostics:
        parts.append(Text(""))
        parts += marked(answer.diagnostics)
    if answer.objective is not None:
        parts.append(Text(f"\nAdvantages in a group of {num_rollouts}:"))
        parts.append(advantage_rows(answer.objective, num_rollouts))
    return Group(*parts)


def objective_text(objective: rl2ml.Objective, num_rollouts: int) -> RenderableType:
    """What a saved objective gives a group of any size."""
    order = f", truncation order {min(objective.order, num_rollouts)}" if objective.order else ""
    return Group(
        Text(
            f"γ = {objective.gamma:.4g} ({objective.baseline} baseline{order}): advantages in a group of {num_rollouts}"
        ),
        advantage_rows(objective, num_rollouts),
    )


def advantage_rows(objective: rl2ml.Objective, num_rollouts: int) -> RenderableType:
    """The table by success count K; long ones show their ends."""
    advantages = objective.table(num_rollouts)
    rows = []
    half = _MOST_ROWS // 2
    for k in range(num_rollouts + 1):
        if num_rollouts + 1 > _MOST_ROWS and k == half:
            rows.append(("⋮", "⋮", "⋮"))
        if num_rollouts + 1 > _MOST_ROWS and half <= k <= num_rollouts - half:
            continue
        success = "" if k == 0 else _advantage(float(advantages.success[k]))
        failure = "" if k == num_rollouts else _advantage(float(advantages.failure[k]))
        rows.append((str(k), success, failure))
    return table(("successes K", "each success gets", "each failure gets"), rows)


def groups_text(grouped: rl2ml.GroupedRecommendation) -> RenderableType:
    """Group by group: the answer of each and how it compares."""
    titles = ("group", "prompts", "γ", "interval", "near-\noptimal", "γ less that\nof others", "joint γ\nloses")
    rows = []
    for group in grouped.groups:
        own = group.recommendation
        rows.append(
            (
                _cut(group.name),
                f"{group.num_prompts:g}",
                "–" if own.gamma is None else f"{own.gamma:.2f}",
                _span(own.interval, "–"),
                "–" if own.near_optimal is None else "{:.2f}–{:.2f}".format(*own.near_optimal.rounded()),
                _span(group.difference),
                "–" if group.loss_of_joint is None else f"{group.loss_of_joint:.1%}",
            )
        )
    return Group(Text(f"\nGroups. {grouped.summary}\n"), table(titles, rows, words=1, gap=2))


def window_text(window: rl2ml.TruncationWindow) -> RenderableType:
    """The feasible orders: the sentence, then its parts."""
    affordable = "none" if window.affordable is None else f"M ≤ {window.affordable:,}"
    rows = [
        ("needed for the tail", f"M ≥ {window.needed:,}  (approximation: {window.needed_approximate:,})"),
        ("allowed by the scale", affordable),
    ]
    for label, end in (("at the lower end", window.at_lower), ("at the upper end", window.at_upper)):
        if end is not None:
            rows.append(
                (
                    label,
                    f"M = {end.order:,}: tail {end.tail:.3g}, α₁ = {end.first_scale:.3g}, "
                    f"largest α = {end.largest_scale_reached:.3g} at {end.largest_at:,} successes",
                )
            )
    return Group(Text(window.sentence, style="bold"), Text(""), fields(rows))


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
    people = answer.objective.population if answer.objective is not None else None
    if isinstance(people, rl2ml.Population):
        prior = people.prior
        yield "prior", "none: raw k/n" if prior is None else f"Beta({prior.alpha:.3g}, {prior.beta:.3g}) on pass rates"
    yield "γ", f"{answer.gamma:.4f}  ({(answer.regime or '').replace('_', ' ')}; 0 is RL, 1 is maximum likelihood)"
    if answer.near_optimal is not None:
        near = answer.near_optimal
        lower, upper = near.rounded()
        yield "near-optimal γ", f"{lower:.2f} to {upper:.2f}  (within {near.loss:.0%} of the best)"
    if answer.interval is not None and answer.sampling_interval is not None:
        yield f"{answer.interval.level:.0%} interval", f"{_span(answer.interval)}  (prompts, κ and prior uncertain)"
        yield "from prompts alone", _span(answer.sampling_interval)
    if answer.probability_subcritical is not None:
        yield "P(best γ < 1)", f"{answer.probability_subcritical:.2f}"
    if answer.expected_regret is not None:
        yield "expected regret", f"{answer.expected_regret:.2%} of the criterion"
    for name, label, itself in (("current", "your trainer", None), ("rl", "γ = 0", 0), ("maxrl", "γ = 1", 1)):
        gain = answer.predicted_gain_over[name]
        if gain is not None and answer.gamma != itself:
            where = answer.gain_intervals[name]
            spread = f" ({signed_percent(where.lower)} to {signed_percent(where.upper)})" if where else ""
            yield f"gain over {label}", f"{signed_percent(gain)}{spread} {unit_of_gains(answer)}"
    rate = answer.learning_rate
    if rate is not None and rate.multiplier is not None:
        yield (
            "learning rate",
            f"× {rate.multiplier:.3g} of the one tuned for {rate.relative_to}  (SGD-like only; leave Adam's as it is)",
        )
    if answer.kappa_sensitivity:
        yield "γ if κ were", ", ".join(f"{row['kappa']:g}: {row['gamma']:.2f}" for row in answer.kappa_sensitivity)
    if answer.prior_sensitivity:
        yield "γ under other priors", ", ".join(f"{row.name}: {row.gamma:.2f}" for row in answer.prior_sensitivity)


def _span(interval: Interval | None, between: str = " to ") -> str:
    return "–" if interval is None else f"{interval.lower:.2f}{between}{interval.upper:.2f}"


def _advantage(value: float) -> str:
    return f"{value:+.4f}" if value else "0"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
